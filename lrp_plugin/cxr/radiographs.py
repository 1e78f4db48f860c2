"""Read one radiograph, or one lung mask, from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

#: File endings taken for pictures.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")

# Full scale of the pixel formats Pillow hands over undecoded.
_FULL_SCALE = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I;16N": 65535.0, "I": 65535.0}


class RadiographError(ValueError):
    """A picture or a mask cannot be used; the message names the file."""


def read_radiograph(path: str | Path) -> Tensor:
    """Read a radiograph as grey values.

    Args:
        path: PNG, JPEG, BMP, TIFF (8 or 16 bit; colour is averaged by Pillow's luma), or DICOM by its ending.

    Returns:
        Float32 ``(1, H, W)`` in [0, 1]; for DICOM see :func:`lrp_plugin.cxr.dicom.read_dicom`.

    Raises:
        RadiographError: the file is missing, truncated or no picture.
        ImportError: a DICOM file without pydicom installed.
    """
    path = Path(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        from .dicom import read_dicom

        return read_dicom(path)
    pixels = _decode(path, "picture")
    return torch.from_numpy(pixels)[None].clamp_(0.0, 1.0)


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
    path = Path(path)
    mask = torch.from_numpy(_decode(path, "lung mask") >= 0.5)
    height, width = mask.shape
    if abs(height * shape[1] / (width * shape[0]) - 1.0) > aspect_tolerance:
        raise RadiographError(
            f"lung mask {path} has the wrong size: {height} x {width} pixels (height x width), the picture "
            f"{shape[0]} x {shape[1]}. Masks are scaled where the aspect ratio agrees; is it this one's?"
        )
    return F.interpolate(mask[None, None].float(), shape, mode="nearest-exact")[0].to(torch.uint8)


def declared_shape(path: Path) -> tuple[int, int]:
    """Height and width from a picture's header; the database's 299 x 299 where even that is lost."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError):
        return 299, 299


def _decode(path: Path, what: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    try:
        with Image.open(path) as picture:
            scale = _FULL_SCALE.get(picture.mode, 255.0)
            if picture.mode not in _FULL_SCALE and picture.mode not in ("L", "F"):
                return np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32) / np.float32(255.0)
            return np.asarray(picture, dtype=np.float32) / np.float32(scale)
    except FileNotFoundError:
        raise RadiographError(f"{what} {path} does not exist") from None
    except UnidentifiedImageError:
        raise RadiographError(f"{what} {path} is no picture that Pillow knows; is it complete?") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reports broken PNG chunks as SyntaxError.
        raise RadiographError(f"{what} {path} is broken or cut short: {error}") from error
