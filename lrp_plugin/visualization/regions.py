"""The k regions that matter most, and how a map's values are distributed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from typing_extensions import Unpack

from lrp_plugin.kinds import at_least, checked
from lrp_plugin.visualization.arrays import Array, ArrayLike, relevance_map
from lrp_plugin.visualization.look import Look, LookOptions, shape_of
from lrp_plugin.visualization.style import (
    COLUMN,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    axes_for,
    figure_style,
    finish,
    number,
)


@dataclass(frozen=True)
class Region:
    """A square of a map.

    Attributes:
        row: Upper edge, in pixels from the top.
        column: Left edge, in pixels from the left.
        size: Side in pixels.
        relevance: Sum of the map inside, in its unit.
        share: That sum over the map's positive sum; NaN for a map without positive values.
    """

    row: int
    column: int
    size: int
    relevance: float
    share: float


@checked
def top_regions(relevance: ArrayLike, k: int = 5, *, size: int = 16) -> list[Region]:
    """The k squares with the most relevance that do not overlap, the best first.

    Chosen greedily: the best square, then the best that does not overlap it, and so on. Positive and negative
    relevance inside a square balance. For evidence against the class pass ``-relevance``; for single pixels
    of great magnitude pass ``abs(relevance)`` and ``size=1``.

    Args:
        relevance: ``(C, H, W)``, ``(H, W)`` or ``(1, C, H, W)``.
        k: How many; fewer come back where no further square holds positive relevance.
        size: Side of a square in pixels.

    Returns:
        The regions, by falling relevance.

    Raises:
        ValueError: `k` is below 1, or `size` does not fit into the map.
    """
    values = relevance_map(relevance)
    if k < 1 or not 1 <= size <= min(values.shape):
        raise ValueError(f"k is {k} and size {size} for a map of {values.shape}; give k >= 1 and a size that fits")
    sums = _square_sums(values, size)
    total = float(values.clip(0).sum())
    # Sums come from differences of running sums; below this they are rounding, not relevance.
    noise = 1e-12 * float(np.abs(values).sum())
    found: list[Region] = []
    while len(found) < k:
        row, column = (int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
        best = float(sums[row, column])
        if best <= noise:
            break
        found.append(Region(row, column, size, best, best / total if total else float("nan")))
        sums[max(row - size + 1, 0) : row + size, max(column - size + 1, 0) : column + size] = -np.inf
    return found


def _square_sums(values: Array, size: int) -> Array:
    """Sum of every square, by its upper left corner: ``(H - size + 1, W - size + 1)``."""
    table = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return table[size:, size:] - table[:-size, size:] - table[size:, :-size] + table[:-size, :-size]


@checked
def plot_top_regions(
    image: ArrayLike,
    relevance: ArrayLike,
    k: int = 5,
    *,
    size: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """The map over its image, its k best squares numbered, with their share of the positive relevance.

    Args:
        image: The image.
        relevance: Its map.
        k: How many squares.
        size: Their side in pixels of the image; an eighth of its shorter side if None.
        title: Above the picture.
        ax: Where to draw.
        save_path: Where to save.
        **look: See `Look`.

    Returns:
        The figure.

    Raises:
        TypeError: An unknown keyword.
        ValueError: A shape, `k` or `size` is not legal.
    """
    style = Look.of(look)
    picture = style.picture(image)
    height, width = shape_of(picture)
    values = style.values(relevance, (height, width))
    regions = top_regions(values, k, size=size or max(min(height, width) // 8, 1))
    (scale,) = style.scales([values])
    with figure_style():
        panel = axes_for(ax, COLUMN, COLUMN * 0.66 * height / width + (0.3 if title else 0.1))
        style.draw(panel, values, scale, picture)
        for rank, region in enumerate(regions, 1):
            corner = (region.column - 0.5, region.row - 0.5)
            panel.add_patch(Rectangle(corner, region.size, region.size, fill=False, ec="#ffd60a", lw=1.0))
            panel.annotate(
                str(rank), corner, (1.5, -1.5), textcoords="offset points", ha="left", va="top", fontsize=6.5,
                color="black", bbox={"boxstyle": "round,pad=0.12", "fc": "#ffd60a", "ec": "none"},
            )  # fmt: skip
        lines = [f"{rank}  {number(100 * region.share)} %" for rank, region in enumerate(regions, 1)]
        legend = "\n".join(["share of", "positive", "relevance", *lines]) if lines else "none positive"
        panel.text(1.03, 1.0, legend, transform=panel.transAxes, va="top", fontsize=7, linespacing=1.35)
        panel.set_title(title or "")
        style.note(panel)
        return finish(panel.figure, save_path)


@checked
def plot_distribution(
    relevance: ArrayLike | Mapping[str, ArrayLike],
    *,
    bins: int = 61,
    unit: str = "logit",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
) -> Figure:
    """How a map's values are distributed: a histogram symmetric about zero, pixels counted on a log axis.

    Args:
        relevance: One map, with its mean and median marked; or several by name, each divided by its greatest
            magnitude so that they share an axis.
        bins: How many; an odd number has a bin centred at zero.
        unit: The map's unit.
        title: Above the picture.
        ax: Where to draw.
        save_path: Where to save.

    Returns:
        The figure.

    Raises:
        ValueError: A shape is not legal, or there is no map.
    """
    at_least(1, bins=bins)
    with figure_style():
        panel = axes_for(ax, COLUMN, 2.5)
        if isinstance(relevance, Mapping):
            _draw_distributions(panel, relevance, bins)
        else:
            _draw_distribution(panel, relevance_map(relevance), bins, unit)
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylabel("pixels")
        panel.set_ylim(bottom=0.7)
        panel.set_title(title or "")
        return finish(panel.figure, save_path)


def _edges(limit: float, bins: int) -> Array:
    return np.linspace(-limit, limit, bins + 1)


def _draw_distribution(panel: Axes, values: Array, bins: int, unit: str) -> None:
    limit = float(np.abs(values).max()) or 1.0
    counts, edges = np.histogram(values, _edges(limit, bins))
    centres = (edges[:-1] + edges[1:]) / 2
    width = edges[1] - edges[0]
    colours = [NEUTRAL if abs(c) < width / 2 * 0.99 else POSITIVE if c > 0 else NEGATIVE for c in centres]
    panel.bar(centres, counts, width * 0.92, color=colours, linewidth=0)
    for value, name, dash in ((values.mean(), "mean", "-"), (np.median(values), "median", ":")):
        panel.axvline(float(value), color="black", lw=0.9, ls=dash, label=f"{name} {number(float(value))}")
    sums = {"positive": values.clip(0).sum(), "negative": values.clip(None, 0).sum(), "total": values.sum()}
    text = "\n".join(f"{name} {number(float(value))}" for name, value in sums.items())
    panel.text(0.02, 0.98, f"sums ({unit})\n{text}", transform=panel.transAxes, va="top", fontsize=6.5)
    panel.set_xlabel(f"relevance of a pixel ({unit})")
    panel.legend(loc="upper right", handlelength=1.4)


def _draw_distributions(panel: Axes, relevances: Mapping[str, ArrayLike], bins: int) -> None:
    if not relevances:
        raise ValueError("relevance is empty; give at least one {name: map}")
    for name, relevance in relevances.items():
        values = relevance_map(relevance)
        counts, edges = np.histogram(values / (np.abs(values).max() or 1.0), _edges(1.0, bins))
        panel.stairs(counts, edges, label=name, lw=1.1)
    panel.set_xlabel("relevance of a pixel / greatest magnitude")
    panel.legend(loc="upper right", handlelength=1.4)
