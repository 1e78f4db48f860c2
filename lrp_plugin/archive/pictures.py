"""A chunk's files as tensors: read, checked, their bytes hashed. What fails keeps its place and says why."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from lrp_plugin.archive import places
from lrp_plugin.archive.items import Item
from lrp_plugin.archive.settings import Picture
from lrp_plugin.images import read_image


@dataclass
class Read:
    """One item after reading.

    Attributes:
        item: The item.
        checksum: SHA-256 of the file's bytes, or None where they could not be read.
        mask: Booleans (H, W), or None.
        error: What went wrong, or None.
    """

    item: Item
    checksum: str | None = None
    mask: np.ndarray | None = None
    error: str | None = None


def read_items(items: Sequence[Item], picture: Picture) -> tuple[np.ndarray, list[Read]]:
    """Reads the pictures of some items.

    Returns:
        float32 (N, channels, H, W) in [0, 1], zeros where reading failed, and what was read, in order.
    """
    values = np.zeros((len(items), picture.channels, *picture.size), np.float32)
    found = []
    for place, item in enumerate(items):
        read = Read(item)
        try:
            content = places.read_bytes(item.source)
            read.checksum = hashlib.sha256(content).hexdigest()
            values[place] = _picture(item.source, content, picture).numpy()
            if item.mask is not None:
                read.mask = _mask(item.mask, picture)
        except Exception as error:  # whatever a decoder raises on a broken file is this item's, not the run's
            values[place] = 0
            read.error = f"reading: {type(error).__name__}: {error}"
        found.append(read)
    return values, found


def checksum(source: str) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    return hashlib.sha256(places.read_bytes(source)).hexdigest()


def _picture(source: str, content: bytes, picture: Picture) -> Tensor:
    values = _decoded(source, content, "L" if picture.channels == 1 else "RGB", picture.stretch, "picture")
    if not torch.isfinite(values).all():
        raise ValueError(
            f"picture {source} holds {int((~torch.isfinite(values)).sum())} values that are NaN or infinite"
        )
    return _fitted(values, picture, transforms.InterpolationMode(picture.interpolation)).clamp_(0, 1)


def _mask(source: str, picture: Picture) -> np.ndarray:
    values = _decoded(source, places.read_bytes(source), "L", False, "mask")
    return (_fitted(values, picture, transforms.InterpolationMode.NEAREST_EXACT)[0] >= 0.5).numpy()


def _decoded(source: str, content: bytes, mode: str, stretch: bool, what: str) -> Tensor:
    if places.is_local(source):
        return read_image(places.local_path(source), mode=mode, stretch=stretch, what=what)
    # The reader takes a path: decoders seek, and some are C libraries that open files themselves.
    descriptor, path = tempfile.mkstemp(suffix=Path(source).suffix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        return read_image(path, mode=mode, stretch=stretch, what=what)
    except Exception as error:
        raise ValueError(str(error).replace(path, source)) from error
    finally:
        os.unlink(path)


def _fitted(values: Tensor, picture: Picture, mode: transforms.InterpolationMode) -> Tensor:
    height, width = picture.size
    if picture.fit == "squash":
        return transforms.resize(values, [height, width], interpolation=mode, antialias=True)
    factor = max(round(height / picture.crop) / values.shape[-2], round(width / picture.crop) / values.shape[-1])
    sides = [max(height, round(values.shape[-2] * factor)), max(width, round(values.shape[-1] * factor))]
    return transforms.center_crop(transforms.resize(values, sides, interpolation=mode, antialias=True), [height, width])
