"""How figures look: sizes and fonts for print, the colours of relevance, and one scale from values to
colours. Where figures come from: `lrp_plugin.visualization.showing`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import Array
from lrp_plugin.visualization.saving import save_figure
from lrp_plugin.visualization.showing import new_figure

COLUMN = 3.5
"""Width of one printed column in inches (89 mm)."""
PAGE = 7.2
"""Width of a printed page in inches (183 mm)."""

POSITIVE, NEGATIVE, NEUTRAL = "#c8102e", "#1f5fbf", "#5f6b7a"
"""For the class, against it, and neither: the colours of bars and lines."""

# An odd number of colours has one in the middle, which is exactly white; matplotlib's own maps have 256.
RELEVANCE = LinearSegmentedColormap.from_list(
    "relevance",
    ["#053061", "#2166ac", "#6aaed6", "#d1e5f0", "#ffffff", "#fddbc7", "#f4876a", "#c8102e", "#67001f"],
    N=257,
)
"""Blue, exact white at zero, red: for maps on white."""
RELEVANCE_ON_IMAGE = LinearSegmentedColormap.from_list(
    "relevance_on_image", ["#1e7bff", "#a5caff", "#ffffff", "#ffab9c", "#ff2a12"], N=257
)
"""The same with bright ends, which stay visible on the dark lungs of a radiograph."""
MAGNITUDE = LinearSegmentedColormap.from_list("magnitude", ["#ffffff", "#a8ddb5", "#2b8c57", "#00441b"], N=257)
"""White to green: for values without a sign, such as a gradient's magnitude, which are neither for nor against."""
MAGNITUDE_ON_IMAGE = LinearSegmentedColormap.from_list("magnitude_on_image", ["#ffffff", "#8af5b1", "#00c853"], N=257)
"""The same with a bright end."""

STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.dpi": 150.0,
    "legend.frameon": False,
}


@checked
def number(value: float) -> str:
    """Three digits, plain from 0.001 to a million, with a minus sign as wide as the plus."""
    plain = 1000 <= abs(value) < 1e6
    return (f"{value:.0f}" if plain else f"{value:.3g}").replace("-", "\u2212")


@checked
def percent(share: float) -> str:
    """A share of 1 as percent, as many digits as a reader needs: ``97 %``, ``4.1 %``, ``0.023 %``, ``< 0.01 %``."""
    value = 100 * share
    if 0 < abs(value) < 0.01:
        return "< 0.01 %"
    text = f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
    return f"{text} %".replace("-", "\u2212")


@contextmanager
def figure_style() -> Iterator[None]:
    """The package's fonts and lines inside the block; the user's own settings after it."""
    with matplotlib.rc_context(STYLE):
        yield


def canvas(ax: Axes | None, width: float, height: float) -> Figure | SubFigure:
    """A figure for several panels: a new one, or the place of a given `ax`.

    Args:
        ax: An axes made by ``subplots`` or ``add_subplot``, whose place is taken; None for a new figure.
        width: Of a new figure, in inches.
        height: Of a new figure, in inches.

    Raises:
        ValueError: `ax` has no place in a grid that could be divided.
    """
    if ax is None:
        return new_figure(width, height)
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("ax is free-standing and cannot be divided into panels; give one made by subplots")
    ax.set_axis_off()
    return ax.figure.add_subfigure(place)


def axes_for(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or the only one of a new figure of this size in inches."""
    return ax if ax is not None else new_figure(width, height).add_subplot()


def finish(figure: Figure | SubFigure, save_path: str | os.PathLike[str] | None) -> Figure:
    """The whole figure that a panel belongs to, saved where a path is given."""
    root = figure.get_figure(root=True)
    assert isinstance(root, Figure)
    if save_path is not None:
        save_figure(root, save_path)
    return root


def fit_titles(panels: Sequence[Axes], least: float = 5.0, spare: float = 1.02) -> None:
    """Sets panels' titles so that none reaches over its neighbour: smaller to `least` points, then in more lines.

    Args:
        panels: Of one figure.
        least: The smallest letters, in points.
        spare: A title may be so many times as wide as its panel.
    """
    root = panels[0].get_figure(root=True)
    if root is None:
        return
    for _ in range(2):  # titles and panels depend on one another: the layout engine places both when drawing
        root.draw_without_rendering()
        for panel in panels:
            _fit(panel, least, spare)


def _fit(panel: Axes, least: float, spare: float) -> None:
    title, room = panel.title, panel.get_window_extent().width * spare
    wide = title.get_window_extent().width
    if wide > room:
        now = float(title.get_fontsize())
        size = max(now * room / wide, least)
        lines = title.get_text().split("\n")
        fitting = max(int(max(map(len, lines)) * room / wide * now / size), 8)
        title.set_fontsize(size)
        title.set_text("\n".join(part for line in lines for part in _wrapped(line, fitting)))


def _wrapped(line: str, width: int) -> list[str]:
    """A line in pieces of at most `width` letters, broken after blanks, ``_`` and ``-`` where there are any."""
    pieces, current = [], ""
    for word in re.findall(r"[^\s_-]+[\s_-]*|[\s_-]+", line) or [""]:
        if current and len(current) + len(word.rstrip()) > width:
            pieces.append(current.rstrip(" "))
            current = ""
        current += word
    return [*pieces, current]


def diverging(cmap: str | Colormap | None, default: Colormap) -> Colormap:
    """A colour map by name or as it is, with an odd number of colours so that zero meets the middle one."""
    if cmap is None:
        return default
    chosen = matplotlib.colormaps[cmap] if isinstance(cmap, str) else cmap
    return chosen if chosen.N % 2 else chosen.resampled(chosen.N + 1)


@dataclass(frozen=True)
class ColourScale:
    """How values become colours: symmetric about zero, which is the middle of the colour map.

    Attributes:
        limit: The value of the last colour, in the map's unit; never 0.
        signed: Whether any value is negative; otherwise the colour bar starts at zero.
        clipped: Whether values lie beyond the limit.
        label: The colour bar's label, with the unit.
        magnitude: The values have no sign: colours run from zero.
    """

    limit: float
    signed: bool
    clipped: bool
    label: str
    magnitude: bool = False

    @property
    def norm(self) -> Normalize:
        """From values to the colour map's [0, 1]."""
        return Normalize(0.0 if self.magnitude else -self.limit, self.limit)


def colour_scale(
    maps: Sequence[Array], *, limit: float | None, percentile: float, unit: str, normalize: bool
) -> ColourScale:
    """One scale for some maps.

    Args:
        maps: Arrays ``(H, W)`` with their sign.
        limit: The value of the last colour; None takes it from the maps.
        percentile: Of the magnitudes of all maps, in percent; 100 is the maximum.
        unit: For the label.
        normalize: Label the colours as shares of the limit, and say what that is, instead of in units.

    Raises:
        ValueError: `limit` is not above 0, or `percentile` is not in (0, 100].
    """
    if limit is not None and not (limit > 0 and math.isfinite(limit)):
        raise ValueError(f"limit is {limit}; give a value above 0 in the map's unit, or None")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; give one above 0 and at most 100")
    magnitudes = np.abs(np.concatenate([values.ravel() for values in maps]))
    chosen, one = limit or float(np.percentile(magnitudes, percentile)), f"above {percentile:g} % of pixels"
    if limit is not None:
        one = f"{number(limit)} {unit}"
    elif percentile == 100 or not chosen:  # sparse maps have more zeros than the percentile leaves out
        chosen, one = float(magnitudes.max()) or 1.0, "the greatest"
    label = f"against \u2190   \u2192 for\n1: {one}" if normalize else f"relevance ({unit})"
    return ColourScale(
        chosen,
        any(bool((values < 0).any()) for values in maps),
        bool(magnitudes.max() > chosen * (1 + 1e-9)),
        label,
    )


def colour_bar(ax: Axes, scale: ColourScale, cmap: Colormap, *, normalize: bool, below: bool = False) -> Axes:
    """A colour bar along the picture, with the power of ten in its label rather than at each tick.

    Args:
        ax: The picture.
        scale: Its colours' scale.
        cmap: Its colours.
        normalize: Label the last colour 1.
        below: Along its lower edge; otherwise beside it, as high as the picture.
    """
    side = ax.inset_axes((0.0, -0.09, 1.0, 0.045) if below else (1.03, 0.0, 0.045, 1.0))
    extend = "neither" if not scale.clipped else "both" if scale.signed else "max"
    bar = ax.figure.colorbar(
        ScalarMappable(scale.norm, cmap), cax=side, extend=extend, extendfrac=0.035,
        ticks=MaxNLocator(5 if scale.signed else 9, symmetric=scale.signed),
        orientation="horizontal" if below else "vertical",
    )  # fmt: skip
    exponent = 0 if normalize else math.floor(math.log10(scale.limit))
    exponent = 0 if -2 <= exponent <= 2 else exponent
    divisor = scale.limit if normalize else 10.0**exponent
    if normalize:
        half = [0.0, scale.limit / 2, scale.limit]
        bar.set_ticks(half if scale.magnitude else [-scale.limit, -scale.limit / 2, *half])
    axis = bar.ax.xaxis if below else bar.ax.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value / divisor)))
    bar.set_label(scale.label if not exponent else scale.label.replace("(", f"($10^{{{exponent}}}$ "))
    bar.outline.set_linewidth(0.4)
    if not scale.signed:
        (bar.ax.set_xlim if below else bar.ax.set_ylim)(0, scale.limit)
    return side
