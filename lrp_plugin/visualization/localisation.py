"""How much of each method's relevance lies inside a region, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrp_plugin.visualization.classes import literal

# Distinct for the colour-blind (Okabe & Ito).
_COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")


def plot_evidence(rows: Sequence[Any], region: str) -> Figure:
    """Mean share inside ``region`` with its interval, a group for each class, a colour for each method.

    Args:
        rows: Each with ``class_name``, ``method``, ``inside`` (an `Interval` of shares in [0, 1]) and ``chance``.
        region: As it reads after "inside the".

    Returns:
        The figure.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError(f"no picture has the region {region!r}: nothing to draw")
    classes = list(dict.fromkeys(row.class_name for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(7.0, 0.6 + 0.16 * (len(methods) + 1.5) * len(classes)), layout="constrained")
    ax = figure.subplots()
    step = 1.0 / (len(methods) + 1.5)
    for row in rows:
        place = classes.index(row.class_name) + (methods.index(row.method) - (len(methods) - 1) / 2) * step
        colour = _COLOURS[methods.index(row.method) % len(_COLOURS)]
        ax.plot([100 * row.inside.low, 100 * row.inside.high], [place] * 2, color=colour, lw=2)
        ax.plot(100 * row.inside.mean, place, "o", ms=4, color=colour)
        if row.method == methods[0]:
            edges = classes.index(row.class_name) - 0.45, classes.index(row.class_name) + 0.45
            ax.vlines(100 * row.chance, *edges, color="#9aa3ad", lw=1.2, linestyles="--")
    ax.set_yticks(range(len(classes)), [literal(name) for name in classes])
    ax.set_ylim(len(classes) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel(f"positive relevance inside the {region}, % (95 % bootstrap interval)")
    ax.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=_COLOURS[i % len(_COLOURS)], marker="o", ms=4, lw=2) for i in range(len(methods))]
    handles.append(Line2D([], [], color="#9aa3ad", lw=1.2, ls="--"))
    figure.legend(
        handles,
        [*map(literal, methods), "chance (area)"],
        loc="outside upper center",
        ncols=min(len(handles), 5),
        frameon=False,
        fontsize=8,
    )
    return figure
