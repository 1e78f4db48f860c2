"""Where the logit went: the ledger of a propagation, drawn layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import Array
from lrp_plugin.visualization.style import NEUTRAL, PAGE, canvas, figure_style, finish, number

LEDGER_COLUMNS: dict[str, str] = {
    "bias": "#c98a00",
    "constant": "#7a4fa3",
    "stabilizer": "#2a9d8f",
    "no_receiver": "#d1495b",
    "other": "#8d99ae",
}
"""What may absorb relevance, and its colour; a column that a row lacks counts as zero."""


class LedgerRow(Protocol):
    """What is drawn of a row; per-example tensors ``(N,)`` in logits. Further columns are read by name."""

    @property
    def path(self) -> str:
        """The module path, such as ``layer1.0.conv1``."""
        ...

    @property
    def operation(self) -> str:
        """The operation, such as ``conv2d``."""
        ...

    @property
    def relevance_out(self) -> Tensor:
        """Relevance that reached the operation's output."""
        ...

    @property
    def relevance_in(self) -> Tensor:
        """Relevance that it passed to its inputs."""
        ...


@dataclass(frozen=True)
class _Line:
    """One line of the plot: numbers in logits, mean over the examples."""

    label: str
    passed_in: float
    passed_out: float
    absorbed: Mapping[str, float]

    @property
    def size(self) -> float:
        return sum(abs(value) for value in self.absorbed.values())


def _lines(rows: Sequence[LedgerRow], columns: Sequence[str], example: int | None) -> list[_Line]:
    def amount(row: LedgerRow, name: str) -> float:
        values = getattr(row, name, None)
        if values is None:
            return 0.0
        array = np.atleast_1d(torch.as_tensor(values).detach().cpu().double().numpy())
        if example is not None and not -len(array) <= example < len(array):
            raise ValueError(f"example {example} is outside the ledger's {len(array)} examples")
        return float(array.mean() if example is None else array[example])

    return [
        _Line(
            f"{row.path or '(top)'}  {row.operation}",
            amount(row, "relevance_in"),
            amount(row, "relevance_out"),
            {name: amount(row, name) for name in columns},
        )
        for row in rows
    ]


def _merged(lines: Sequence[_Line], columns: Sequence[str]) -> _Line:
    absorbed = {name: sum(line.absorbed[name] for line in lines) for name in columns}
    return _Line(f"{len(lines)} more, absorbing less", np.nan, np.nan, absorbed)


@checked
def plot_ledger(
    rows: Sequence[LedgerRow],
    *,
    example: int | None = None,
    columns: Mapping[str, str] | None = None,
    top: int = 30,
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The relevance that reaches and leaves each operation, and what it absorbed, in the order of `rows`.

    Args:
        rows: The ledger's rows, each with ``path``, ``operation``, ``relevance_out``, ``relevance_in`` and
            the columns, per-example tensors ``(N,)`` in logits.
        example: Which example; None shows the mean over all.
        columns: What absorbs, as row attribute to colour; `LEDGER_COLUMNS` if None.
        top: At most this many operations, those that absorb most; the rest is summed up in one line.
        title: Above the plot.
        ax: A place made by ``subplots``, which is divided; None makes a new figure.
        save_path: Where to save.

    Returns:
        The figure.

    Raises:
        ValueError: `rows` is empty, `top` is below 1, or `example` is outside the ledger.
    """
    if not rows or top < 1:
        raise ValueError(f"{len(rows)} rows and top={top}: nothing to draw; give rows and a top of 1 or more")
    colours = LEDGER_COLUMNS if columns is None else columns
    lines = _lines(rows, list(colours), example)
    kept = sorted(sorted(range(len(lines)), key=lambda index: -lines[index].size)[:top])
    shown = [lines[index] for index in kept]
    if len(shown) < len(lines):
        shown.append(_merged([line for index, line in enumerate(lines) if index not in kept], list(colours)))
    with figure_style():
        figure = canvas(ax, PAGE, 0.155 * len(shown) + (1.1 if title else 0.85))
        flow, absorbed = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.5))
        _draw_flow(flow, shown)
        _draw_absorbed(absorbed, shown, colours)
        figure.suptitle(title or "", fontsize=9)
        return finish(figure, save_path)


def _draw_flow(panel: Axes, lines: Sequence[_Line]) -> None:
    """Two dots a line: what reached the operation's output, and what it passed on."""
    places = np.arange(len(lines))
    reached = np.array([line.passed_out for line in lines])
    passed = np.array([line.passed_in for line in lines])
    panel.hlines(places, reached, passed, color="#c3cad2", lw=1.6, zorder=1)
    panel.plot(reached, places, "o", ms=3.6, mfc="white", mec=NEUTRAL, mew=0.9, label="reached its output")
    panel.plot(passed, places, "o", ms=2.4, color="black", label="passed to its inputs")
    panel.margins(x=0.08)
    # Bars would need the zero; dots may leave it out, and small losses stay visible.
    if panel.get_xlim()[0] <= 0 <= panel.get_xlim()[1]:
        panel.axvline(0, color="#9aa3ad", lw=0.6, zorder=0)
    panel.set_yticks(places, [line.label for line in lines], fontsize=6.5)
    panel.set_ylim(len(lines) - 0.4, -0.6)
    panel.set_xlabel("relevance (logit)")
    panel.grid(axis="y", color="#eceff2", lw=0.5)
    panel.set_axisbelow(True)
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1, borderaxespad=0.2, handletextpad=0.2)


def _draw_absorbed(panel: Axes, lines: Sequence[_Line], colours: Mapping[str, str]) -> None:
    """Stacked bars from zero, positive to the right, negative to the left; idle columns are left out."""
    places = np.arange(len(lines))
    right, left = np.zeros(len(lines)), np.zeros(len(lines))
    for name, colour in colours.items():
        values: Array = np.array([line.absorbed[name] for line in lines])
        if not values.any():
            continue
        start = np.where(values >= 0, right, left)
        label = f"{name.replace('_', ' ')} {number(float(values.sum()))}"
        panel.barh(places, values, 0.72, start, color=colour, linewidth=0, label=label)
        right += values.clip(0)
        left += values.clip(None, 0)
    # A bar's start counts as an edge that margins respect, also where a bar of no length ends a stack.
    panel.use_sticky_edges = False
    panel.margins(x=0.05)
    panel.axvline(0, color="#9aa3ad", lw=0.6)
    panel.tick_params(axis="y", length=0, labelleft=False)
    panel.set_xlabel("absorbed (logit)")
    panel.grid(axis="y", color="#eceff2", lw=0.5)
    panel.set_axisbelow(True)
    if panel.containers:
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=0.9,
                     columnspacing=1.0, handletextpad=0.4)  # fmt: skip
    else:
        panel.text(0.5, 0.5, "nothing absorbed", transform=panel.transAxes, ha="center", color=NEUTRAL)
