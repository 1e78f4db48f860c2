"""Photographs of scikit-image and scikit-learn with their ImageNet class, and 2x2 mosaics of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

data = pytest.importorskip("skimage.data", reason="scikit-image is not installed (extra real)")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed (extra real)")


class Photograph(NamedTuple):
    """One photograph.

    Args:
        load: Gives its pixels, (H, W) or (H, W, 3), 0 to 255.
        classes: The ImageNet classes that name what it shows, the nearest there are; chosen by looking at the
            photograph and at the network's answer to it alone, before any map was seen.
        box: Top, bottom, left, right of the part that shows it; None for the largest square in the middle.
    """

    load: Callable[[], np.ndarray]
    classes: tuple[int, ...]
    box: tuple[int, int, int, int] | None = None


PHOTOGRAPHS = {
    "camera": Photograph(data.camera, (872,)),  # tripod
    "cat": Photograph(data.chelsea, (281, 282, 285)),  # tabby, tiger cat, Egyptian cat
    "coffee": Photograph(data.coffee, (967, 968, 504)),  # espresso, cup, coffee mug
    "motorcycle": Photograph(lambda: data.stereo_motorcycle()[0], (665, 670)),  # moped, motor scooter
    "rocket": Photograph(data.rocket, (657, 744)),  # missile, projectile
    "temple": Photograph(lambda: datasets.load_sample_image("china.jpg"), (698,)),  # palace
    "flower": Photograph(
        lambda: datasets.load_sample_image("flower.jpg"), (985,)
    ),  # daisy, ImageNet's nearest to a dahlia
    "shuttle": Photograph(data.astronaut, (812,), (50, 250, 312, 512)),  # space shuttle, the model behind the astronaut
}


def picture(name: str, edge: int) -> Tensor:
    """A photograph cut to a square, (3, edge, edge), 0 to 255."""
    photograph = PHOTOGRAPHS[name]
    pixels = photograph.load()
    pixels = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    top, bottom, left, right = photograph.box or (top, top + side, left, left + side)
    cut = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).permute(2, 0, 1).double()
    return functional.interpolate(cut[None], (edge, edge), mode="bilinear", antialias=True, align_corners=False)[0]


def mosaic(names: tuple[str, str, str, str], edge: int) -> Tensor:
    """Four photographs in quarters, row by row: (3, edge, edge)."""
    tiles = [picture(name, edge // 2) for name in names]
    return torch.cat([torch.cat(tiles[:2], 2), torch.cat(tiles[2:], 2)], 1)


def mosaics() -> list[tuple[str, str, str, str]]:
    """Each photograph once in each quarter, with three neighbours in the list's order."""
    names = list(PHOTOGRAPHS)
    return [tuple(names[(start + k) % len(names)] for k in range(4)) for start in range(len(names))]  # type: ignore[misc]


def quarter(place: int, edge: int) -> tuple[slice, slice]:
    """Rows and columns of one of a mosaic's quarters."""
    half = edge // 2
    row, column = divmod(place, 2)
    return slice(row * half, (row + 1) * half), slice(column * half, (column + 1) * half)
