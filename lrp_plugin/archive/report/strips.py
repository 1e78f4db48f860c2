"""A case's picture: the source and its maps laid over it, side by side in one small file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from lrp_plugin.archive.items import Item
from lrp_plugin.archive.pictures import read_items
from lrp_plugin.archive.reader import Explained
from lrp_plugin.archive.settings import Picture
from lrp_plugin.visualization.arrays import display_image, relevance_map
from lrp_plugin.visualization.look import Look

SIDE = 160  # Pixels of the longer side; a page of fifty has room for this.


def strip(item: Item, found: Explained, picture: Picture) -> bytes:
    """A JPEG of (1 + maps) panels: the source as the model saw it, then each map over it on its own scale."""
    image, read = read_items([item], picture)
    height, width = _size(picture)
    shown = display_image(image[0])
    grey = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, 2)
    base = np.asarray(Image.fromarray(_bytes(grey)).resize((width, height), Image.Resampling.BILINEAR)) / 255.0
    if read[0].error is not None:  # It vanished since: the maps are there, the picture is not.
        base = np.full((height, width, 3), 0.85)
    panels = [base, *(_over(base, explanation.map) for explanation in found.explanations)]
    buffer = io.BytesIO()
    Image.fromarray(_bytes(np.concatenate(panels, axis=1))).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _size(picture: Picture) -> tuple[int, int]:
    scale = SIDE / max(picture.size)
    return max(round(picture.size[0] * scale), 1), max(round(picture.size[1] * scale), 1)


def _over(base: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    look = Look(normalize=True, alpha=0.95)
    values = relevance_map(relevance, base.shape[:2])
    layer = look.layer(values, look.scales([values])[0])
    return layer[..., :3] * layer[..., 3:] + base * (1 - layer[..., 3:])


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
