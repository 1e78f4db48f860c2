"""Image files as network inputs: any size, grey or colour, 8 or 16 bit, DICOM where pydicom is installed."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from lrp_plugin.images import read_image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def load_image(path: str, size: int) -> Tensor:
    """An image file as RGB values in [0, 1], shape (3, size, size): the shorter side resized, the centre cropped.

    Args:
        path: A file that `lrp_plugin.images.read_image` reads, or ``"sample"`` for a drawn chest radiograph.
        size: The side of the result, in pixels.

    Raises:
        ImageError: For a missing or unreadable file, named.
    """
    if path == "sample":
        from lrp_plugin.cxr import SyntheticCXR

        values = SyntheticCXR(1, seed=0, size=size)[0]["image"]
    else:
        values = read_image(path, mode="RGB", stretch=True)
    values = values.expand(3, -1, -1)
    resized = transforms.resize(values, [size], antialias=True)
    return transforms.center_crop(resized, [size, size]).clamp(0, 1)


def normalized(picture: Tensor) -> Tensor:
    """The ImageNet normalization, (x - mean) / std per channel; shape (3, H, W)."""
    return transforms.normalize(picture, list(MEAN), list(STD))
