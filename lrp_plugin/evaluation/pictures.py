"""A comparison as pictures: perturbation curves with bands, mean ranks with what is not told apart, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrp_plugin.evaluation.methods import RANDOM
from lrp_plugin.visualization.style import NEUTRAL, PAGE, figure_style

if TYPE_CHECKING:
    from lrp_plugin.evaluation.comparison import Comparison

COLOURS = ("#c8102e", "#1f5fbf", "#2a9d8f", "#c98a00", "#7a4fa3", "#3a3a3a")
"""Of the methods that are drawn, best first; told apart by eyes that see red and green alike, with the lines' styles."""
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def plot_curves(comparison: Comparison, methods: Sequence[str] | None = None) -> Figure:
    """MoRF and LeRF curves: mean over the examples, bands of 95 % bootstrap intervals.

    Args:
        comparison: With curves (one of the metrics ``srg``, ``morf``, ``lerf``).
        methods: Which; None: the six best by the comparison's own order, and the random floor.

    Raises:
        ValueError: There are no curves.
    """
    known = [name for name in comparison.ordered() if name in comparison.curves]
    chosen = [name for name in known if name != RANDOM][: len(COLOURS)] if methods is None else list(methods)
    missing = [name for name in chosen if name not in comparison.curves]
    if not chosen or missing:
        raise ValueError(f"no curves of {', '.join(missing) or 'any method'}: compare with the metric 'srg'")
    with figure_style():
        figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for place, (ax, title) in enumerate(
            zip(panels, ("most relevant removed first", "least relevant removed first"))
        ):
            if RANDOM in comparison.curves and RANDOM not in chosen:
                _curve(ax, comparison, RANDOM, place, NEUTRAL, "-", 0.8)
            for name, colour, style in zip(chosen, _cycled(COLOURS), _cycled(STYLES)):
                _curve(ax, comparison, name, place, colour, style, 1.3)
            ax.set_title(title)
            ax.set_xlabel("share of regions removed")
            ax.set_xlim(0, 1)
        panels[0].set_ylabel("score of the explained class")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        figure.suptitle(f"{len(comparison.targets)} examples, mean and 95 % bootstrap band", fontsize=8)
    return figure


def _cycled(values: Sequence[object]) -> list[object]:
    return [values[k % len(values)] for k in range(64)]


def _curve(
    ax: Axes, comparison: Comparison, name: str, place: int, colour: object, style: object, width: float
) -> None:
    values = comparison.curves[name][:, place].numpy()
    values = values[~np.isnan(values).any(1)]
    if not len(values):
        return
    generator = np.random.default_rng(0)
    drawn = np.stack([values[generator.integers(0, len(values), len(values))].mean(0) for _ in range(300)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    shares = comparison.shares.numpy()
    ax.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(shares, values.mean(0), color=colour, linestyle=style, linewidth=width, label=name)


def plot_ranks(comparison: Comparison, metric: str) -> Figure:
    """Mean ranks over the examples (1 is best) with 95 % intervals; a bar joins methods that the leader is not told from.

    In the manner of Demsar's critical differences (2006, JMLR 7), with paired bootstrap intervals in place of one critical
    distance for all pairs: each bar spans a method and those below it whose paired difference has 0 in its interval.

    Raises:
        ValueError: No method has values of the metric.
    """
    ranks = comparison.mean_ranks(metric)
    if not ranks:
        raise ValueError(f"no method has values of {metric!r}")
    names = sorted(ranks, key=lambda name: ranks[name].mean)
    with figure_style():
        figure = Figure(figsize=(PAGE * 0.75, 0.6 + 0.2 * len(names)), layout="constrained")
        ax = figure.add_subplot()
        for row, name in enumerate(names):
            rank = ranks[name]
            colour = NEUTRAL if name == RANDOM else COLOURS[0] if row == 0 else COLOURS[1]
            ax.plot([rank.low, rank.high], [row, row], color=colour, linewidth=1.2)
            ax.plot([rank.mean], [row], "o", color=colour, markersize=3.5)
        right = max(rank.high for rank in ranks.values())
        drawn = 0
        reached = -1
        for row, name in enumerate(names):
            last = max((k for k in range(row, len(names)) if _untold(comparison, metric, name, names[k])), default=row)
            if last > row and last > reached:
                ax.plot([right + 0.25 + 0.15 * drawn] * 2, [row - 0.25, last + 0.25], color="#3a3a3a", linewidth=2)
                drawn, reached = drawn + 1, last
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlabel(f"mean rank by {comparison.metrics[metric].title} (1 is best)")
        if drawn:
            bars = Line2D([], [], color="#3a3a3a", linewidth=2, label="not told apart")
            ax.legend(handles=[bars], loc="lower left")
    return figure


def _untold(comparison: Comparison, metric: str, first: str, second: str) -> bool:
    from lrp_plugin.evaluation.comparison import _has_zero

    return first == second or _has_zero(comparison.difference(metric, first, second))


def plot_agreement(comparison: Comparison) -> Figure:
    """Mean rank correlation of the methods' maps, a square for each pair, best method first."""
    names = [name for name in comparison.ordered() if name not in comparison.failures]
    order = [comparison.methods.index(name) for name in names]
    table = comparison.agreement.numpy()[np.ix_(order, order)]
    with figure_style():
        side = 1.8 + 0.32 * len(names)
        figure = Figure(figsize=(side + 0.5, side), layout="constrained")
        ax = figure.add_subplot()
        image = ax.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(~np.isnan(table)):
            value = table[row, column]
            shown = f"{round(float(value), 2) + 0.0:.2f}".replace("0.", ".", 1)  # + 0.0: no -.00
            ax.text(column, row, shown, ha="center", va="center", fontsize=5.5,
                    color="white" if abs(value) > 0.6 else "black")  # fmt: skip
        figure.colorbar(image, ax=ax, shrink=0.6, label="mean rank correlation of maps")
    return figure
