"""Read one radiograph, or one lung mask, from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lrp_plugin.images import ImageError, read_image
from lrp_plugin.kinds import checked

RadiographError = ImageError


@checked
def read_radiograph(path: str | Path) -> Tensor:
    """Read a radiograph as grey values: :func:`lrp_plugin.images.read_image` in mode "L".

    Returns:
        Float32 ``(1, H, W)`` in [0, 1].

    Raises:
        RadiographError, ImportError: as there.
    """
    return read_image(path, mode="L")


@checked
def read_lung_mask(path: str | Path, shape: tuple[int, int], aspect_tolerance: float = 0.02) -> Tensor:
    """Read a lung mask and bring it to the picture's size (nearest neighbour).

    The COVID-19 Radiography Database has masks of 256 x 256 for pictures of 299 x 299: another size is
    legal, another aspect ratio is the mask of some other picture.

    Args:
        path: picture file; a pixel of at least half of full scale is lung.
        shape: height and width of the radiograph, pixels.
        aspect_tolerance: relative difference of the aspect ratios that is still taken for rounding.

    Returns:
        uint8 ``(1, H, W)``, 0 or 1.

    Raises:
        RadiographError: the file is missing or broken, or its aspect ratio is not the picture's.
    """
    mask = read_image(path, mode="L", what="lung mask")[0] >= 0.5
    height, width = mask.shape
    if abs(height * shape[1] / (width * shape[0]) - 1.0) > aspect_tolerance:
        raise RadiographError(
            f"lung mask {path} has the wrong size: {height} x {width} pixels (height x width), the picture "
            f"{shape[0]} x {shape[1]}. Masks are scaled where the aspect ratio agrees; is it this one's?"
        )
    return F.interpolate(mask[None, None].to(torch.float32), shape, mode="nearest-exact")[0].to(torch.uint8)
