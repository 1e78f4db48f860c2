"""Image files as network inputs: any size, grey or colour, 8 or 16 bit, DICOM where pydicom is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def load_image(path: str, size: int) -> Tensor:
    """An image file as RGB values in [0, 1], shape (3, size, size): the shorter side resized, the centre cropped.

    Args:
        path: A file that Pillow reads, a ``.dcm`` file, or ``"sample"`` for a drawn chest radiograph.
        size: The side of the result, in pixels.

    Raises:
        ValueError: For a missing or unreadable file, named.
    """
    if path == "sample":
        from lrp_plugin.cxr import SyntheticCXR

        values = SyntheticCXR(1, seed=0, size=size)[0]["image"]
    elif path.lower().endswith((".dcm", ".dicom")):
        from lrp_plugin.cxr import read_radiograph

        values = read_radiograph(Path(path))
    else:
        values = _read(Path(path))
    values = values.expand(3, *values.shape[-2:]).contiguous() if values.shape[0] == 1 else values[:3]
    resized = transforms.resize(values, [size], antialias=True)
    return transforms.center_crop(resized, [size, size]).clamp(0, 1)


def _read(path: Path) -> Tensor:
    if not path.exists():
        raise ValueError(f"no such image file: {path}")
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("P", "RGBA", "LA", "CMYK", "YCbCr", "1", "PA"):
                image = image.convert("RGB")
            array = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no readable image: {error}") from error
    values = torch.from_numpy(array.astype(np.float32))
    values = values[None] if values.dim() == 2 else values.permute(2, 0, 1)
    if array.dtype == np.uint8:
        return values / 255
    # 16-bit radiographs use a part of their range: the file's own extremes become black and white.
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-12)


def normalized(picture: Tensor) -> Tensor:
    """The ImageNet normalization, (x - mean) / std per channel; shape (3, H, W)."""
    return transforms.normalize(picture, list(MEAN), list(STD))
