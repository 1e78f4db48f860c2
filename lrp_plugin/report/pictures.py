"""Pictures inside the page: PNG as data URLs, outlines as SVG paths."""

from __future__ import annotations

import base64
import io

import numpy as np
from contourpy import contour_generator
from PIL import Image

from lrp_plugin.report.data import Example, Explanation
from lrp_plugin.visualization.arrays import Array, ArrayLike, display_image, region_mask, relevance_map
from lrp_plugin.visualization.look import Look

LARGEST_SIDE = 384
"""Pixels; a larger image is reduced to this, which is what the page has room for."""


def _bytes(pixels: Array) -> Array:
    return (np.asarray(pixels) * 255).round().astype(np.uint8)


def _png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def data_url(png: bytes) -> str:
    """A PNG's bytes as a URL that holds them."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def image_url(pixels: Array) -> str:
    """An image ``(H, W)`` or ``(H, W, 3)`` in [0, 1] as a PNG data URL."""
    return data_url(_png(Image.fromarray(_bytes(pixels))))


def reduced_image(example: Example) -> Array:
    """The example's image in [0, 1], at most `LARGEST_SIDE` on a side."""
    if isinstance(example.image, str):
        raise TypeError(f"example {example.identifier!r} links a picture: there are no pixels to reduce")
    picture = display_image(example.image)
    scale = LARGEST_SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    small = Image.fromarray(_bytes(picture)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small) / 255.0


def layer_url(explanation: Explanation, size: tuple[int, int]) -> str:
    """The map as a transparent layer over an image of `size` pixels; a linked one as it is."""
    if isinstance(explanation.relevance, str):
        return explanation.relevance
    return data_url(layer_png(explanation.relevance, size))


def layer_png(relevance: ArrayLike, size: tuple[int, int]) -> bytes:
    """A map as a transparent PNG to be laid over its image, on the map's own scale.

    A palette of 255 colours holds every value, zero exactly transparent in its middle: a quarter of the bytes
    of four channels, and what a noisy map weighs decides what the page weighs.

    Args:
        relevance: ``(C, H, W)`` or ``(H, W)``, signed; summed over the channels.
        size: Height and width of the layer in pixels; the map is resized to it.

    Returns:
        The file's content.
    """
    look = Look(normalize=True, alpha=0.95)
    values = relevance_map(relevance, size)
    scale = look.scales([values])[0]
    palette = _bytes(look.layer(np.linspace(-scale.limit, scale.limit, 255)[None], scale)[0])
    image = Image.fromarray(((values / scale.limit).clip(-1, 1) * 127 + 127).round().astype(np.uint8), "P")
    image.putpalette(palette[:, :3].tobytes())
    return _png(image, transparency=palette[:, 3].tobytes())


def outline(mask: ArrayLike | None, size: tuple[int, int]) -> str:
    """A mask's outline as the ``d`` of an SVG path, in the pixels of an image of `size`; empty for None."""
    if mask is None:
        return ""
    # A frame of zeros closes the outline of a region at the border; places are then one pixel off.
    padded = np.pad(region_mask(mask, size), 1).astype(float)
    lines = contour_generator(z=padded).lines(0.5)
    parts = []
    for line in lines:
        points = np.asarray(line) - 0.5
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(parts)
