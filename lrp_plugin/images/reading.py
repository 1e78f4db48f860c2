"""The one reader of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lrp_plugin.errors import told
from lrp_plugin.images.errors import LARGEST_PICTURE, ImageError, refuse_bomb
from lrp_plugin.kinds import checked

#: File endings taken for pictures. What a file is, its content says.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")

_WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation (tag 262); Pillow turns 1 and 8 bit over itself, 16 bit not.
_Pixels = NDArray[np.float32]


@checked
def read_image(path: str | Path, *, mode: str | None = None, stretch: bool = False, what: str = "picture") -> Tensor:
    """Read a picture as it is meant to be seen.

    PNG, JPEG, BMP, TIFF and whatever else Pillow knows, 8 or 16 bit, and DICOM, which is known by its content, not by
    its ending (see `lrp_plugin.images.dicom.read_dicom`). EXIF's orientation is applied; transparency is dropped; of
    several pages the first is read.

    Args:
        path: The file.
        mode: ``"L"`` for grey (colour becomes luma, ITU-R 601), ``"RGB"`` for three channels, None for whichever the
            file holds.
        stretch: For whole numbers of more than 8 bits: make the file's own extremes black and white, since radiographs
            use a part of their range. Otherwise 0 is black and the greatest number of the format is white.
            Floating-point files within [0, 1] are read as they are, others are always stretched.
        what: What messages call it.

    Returns:
        Float32 ``(C, H, W)`` in [0, 1], C 1 or 3.

    Raises:
        ImageError: The file is missing, broken, no picture, too large (`LARGEST_PICTURE`), or holds NaN or infinity.
        ImportError: A DICOM file without pydicom.
        ValueError: An unknown ``mode``.
    """
    _check_mode("read_image", mode)
    path = Path(path)
    if _is_dicom(path):
        from lrp_plugin.images.dicom import read_dicom

        return _with_channels(read_dicom(path), mode)
    what = f"{what} {path if len(str(path)) <= 300 and str(path).isprintable() else told(str(path))}"
    # Not by its name: Pillow 13.0 maps an uncompressed TIFF into memory with the sides of the picture turned upright.
    with _told(what, path), path.open("rb") as file, Image.open(file) as picture:
        refuse_bomb(what, *picture.size)
        return pixels_of(picture, mode=mode, stretch=stretch, what=what)


@checked
def is_image_file(path: Path) -> bool:
    """Whether a file counts as a picture: by its ending, or, where it has none, by DICOM's mark (as PACS write it)."""
    if path.suffix.lower() in IMAGE_SUFFIXES + DICOM_SUFFIXES:
        return True
    return not path.suffix and path.is_file() and _has_dicom_mark(path)


@checked
def declared_shape(path: Path) -> tuple[int, int] | None:
    """Height and width by a picture's header, upright; None where even that is lost."""
    try:
        with Image.open(path) as picture:
            tags: Any = getattr(picture, "tag_v2", {})
            width, height = tags.get(256, picture.width), tags.get(257, picture.height)
            shape = (width, height) if picture.getexif().get(274, 1) in (5, 6, 7, 8) else (height, width)
            return shape if shape[0] * shape[1] <= LARGEST_PICTURE else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in DICOM_SUFFIXES or _has_dicom_mark(path)


def _has_dicom_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _with_channels(values: Tensor, mode: str | None) -> Tensor:
    if mode == "RGB" and values.shape[0] == 1:
        return values.expand(3, -1, -1).contiguous()
    return values


@checked
def _check_mode(name: str, mode: str | None) -> None:
    if mode not in (None, "L", "RGB"):
        raise ValueError(f"{name}(mode={told(mode)}): legal are 'L' (grey), 'RGB', and None (as the picture is)")


@checked
def pixels_of(picture: Image.Image, *, mode: str | None = None, stretch: bool = False, what: str = "picture") -> Tensor:
    """What `read_image` reads, of a picture that Pillow has opened: ``(C, H, W)`` in [0, 1].

    Args:
        picture: Of any mode.
        mode, stretch, what: As in `read_image`.

    Raises:
        ImageError: It is cut short, or holds NaN or infinity.
        ValueError: An unknown ``mode``.
    """
    _check_mode("pixels_of", mode)
    with _told(what):
        tags: Any = getattr(picture, "tag_v2", {})
        pixels = _values(ImageOps.exif_transpose(picture), what, mode, stretch, tags.get(262) == _WHITE_IS_ZERO)
    values = torch.from_numpy(pixels)
    return _with_channels(values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous(), mode)


@checked
def left_out(picture: str | os.PathLike[str] | Image.Image) -> tuple[str, ...]:
    """What a picture holds that `read_image` and `pixels_of` do not take, a sentence each: more pages, transparency."""
    if not isinstance(picture, Image.Image):
        try:
            with open(picture, "rb") as file, Image.open(file) as opened:
                return left_out(opened)
        except UnidentifiedImageError:  # DICOM, of one page
            return ()
    found = []
    try:
        pages, page = getattr(picture, "n_frames", 1), picture.tell() + 1
    except (OSError, ValueError):  # its file is closed
        pages = page = 1
    if pages > 1:
        found.append(f"the file holds {pages} pages; {'the first' if page == 1 else f'page {page}'} is explained")
    if picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255:
        found.append("the picture is transparent in places; the colours stored there are what the network is given")
    return tuple(found)


@contextmanager
def _told(what: str, path: Path | None = None) -> Iterator[None]:
    """Whatever reading a picture raises becomes an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        where = f", where its link {path.readlink()} points" if path is not None and path.is_symlink() else ""
        raise ImageError(f"{what} does not exist{where}") from None
    except IsADirectoryError:
        raise ImageError(f"{what} is a folder; give files, such as {path / '*.png' if path else 'a.png'}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{what} is no picture that Pillow knows{_instead(path)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{what} has more than {LARGEST_PICTURE:,} pixels: too large to be unpacked safely") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:  # Broken PNG chunks are SyntaxErrors.
        if isinstance(error, OSError) and error.strerror:  # the system's: nothing is said of what the file holds
            raise ImageError(f"{what} cannot be read: {error.strerror}") from error
        raise ImageError(f"{what} is broken or cut short: {error}; save it again, or fetch it again") from error


def _instead(path: Path | None) -> str:
    """What a file that is no picture is, where that is seen, and what to give."""
    empty = path is not None and path.is_file() and not path.stat().st_size
    seen = ": it is empty" if empty else ""
    return f"{seen}; legal are PNG, JPEG, TIFF, BMP, WebP, GIF and DICOM: save it as PNG, or fetch it again"


def _values(picture: Image.Image, what: str, mode: str | None, stretch: bool, negative: bool) -> _Pixels:
    """Pixels in [0, 1], ``(H, W)`` or ``(H, W, 3)``."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ImageError(
                f"{what} holds {int((~np.isfinite(values)).sum())} pixels that are NaN or infinite; legal are finite "
                "numbers: save it with others in their place"
            )
        low, high = float(values.min()), float(values.max())
        whole = 1.0 if picture.mode == "F" else 65535.0
        if (stretch and picture.mode != "F") or low < 0 or high > whole:
            values = (values - low) / max(high - low, 1e-12)
        else:
            values = values / whole
        return (1.0 - values if negative else values).astype(np.float32)
    if picture.mode in ("L", "1", "LA") or mode == "L":
        grey = picture if picture.mode == "L" else picture.convert("RGB").convert("L")
        return np.asarray(grey, dtype=np.float32) / np.float32(255.0)
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255.0)
