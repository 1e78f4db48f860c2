"""Signals over time with their relevance behind them, and features of a table as bars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import Array, ArrayLike, _as_array
from lrp_plugin.visualization.style import (
    COLUMN,
    NEGATIVE,
    PAGE,
    POSITIVE,
    RELEVANCE,
    ColourScale,
    axes_for,
    canvas,
    colour_bar,
    colour_scale,
    figure_style,
    finish,
    number,
)

BINS = 600
"""So many steps of time are coloured at most: more than a page's pixels say nothing."""


@checked
def plot_signal(
    signal: ArrayLike,
    relevance: ArrayLike,
    *,
    rate: float | None = None,
    channels: Sequence[str] | None = None,
    unit: str = "logit",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Each channel's curve, its relevance as colour behind it, all channels on one scale.

    Args:
        signal: ``(T,)``, ``(C, T)`` or ``(1, C, T)``.
        relevance: As `signal`, in `unit`.
        rate: Samples a second, for an axis in seconds; None counts samples.
        channels: C names.
        unit: Of the relevance.
        title: Above the curves.
        ax: A place made by ``subplots``, which is divided; None makes a new figure.
        save_path: Where to save.

    Returns:
        The figure. Where it has more than 600 samples, neighbours' relevance is added up for display, and the figure
        says so.

    Raises:
        ValueError: The shapes differ or are not legal, or the names do not fit.
    """
    curves, values = _rows("signal", signal), _rows("relevance", relevance)
    if curves.shape != values.shape:
        raise ValueError(f"signal has shape {curves.shape}, relevance {values.shape}; give the same")
    if channels is not None and len(channels) != len(curves):
        raise ValueError(f"{len(channels)} names for {len(curves)} channels")
    if rate is not None and not 0 < rate < float("inf"):
        raise ValueError(f"rate is {told(rate)}; give samples a second, above 0, or None")
    length = curves.shape[1]
    step = -(-length // BINS)
    binned = np.add.reduceat(values, np.arange(0, length, step), axis=1)
    scale = colour_scale([binned], limit=None, percentile=99.5, unit=unit, normalize=False)
    with figure_style():
        figure = canvas(ax, PAGE, 0.75 + (0.9 if len(curves) > 1 else 1.5) * len(curves) + (0.2 if title else 0))
        panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for place, panel in enumerate(panels):
            _draw_curve(panel, curves[place], binned[place], step, rate or 1.0, scale)
            panel.set_ylabel(channels[place] if channels is not None else "" if len(curves) == 1 else str(place))
        panels[-1].set_xlabel("time (s)" if rate else "sample")
        colour_bar(panels[0] if len(panels) < 3 else panels[len(panels) // 2], scale, RELEVANCE, normalize=False)
        if step > 1:
            figure.supxlabel(f"colour: relevance of {step} neighbouring samples added up, for display only", fontsize=7)
        figure.suptitle(title or "", fontsize=9)
        return finish(figure, save_path)


def _draw_curve(panel: Axes, curve: Array, bins: Array, step: int, rate: float, scale: ColourScale) -> None:
    low, high = float(curve.min()), float(curve.max())
    margin = 0.06 * (high - low or 1.0)
    edges = (0.0, len(bins) * step / rate, low - margin, high + margin)
    panel.imshow(
        bins[None], cmap=RELEVANCE, norm=scale.norm, extent=edges, aspect="auto", alpha=0.85, interpolation="nearest"
    )
    panel.plot(np.arange(len(curve)) / rate, curve, color="black", lw=0.7)
    panel.set(xlim=(0, len(curve) / rate), ylim=edges[2:])


def _rows(name: str, given: ArrayLike) -> Array:
    array = _as_array(name, given).astype(np.float64)
    shape = array.shape
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {shape}; give (T,), (C, T) or (1, C, T): one example")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} NaN or infinite values")
    return array


@checked
def plot_features(
    relevance: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    values: Sequence[float | str] | ArrayLike | None = None,
    top: int = 20,
    unit: str = "logit",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Bars with the features' names, the strongest first: red speaks for the class, blue against it.

    Args:
        relevance: ``(F,)`` or ``(1, F)``, in `unit`.
        names: F names; numbered if None.
        values: The features' own values ``(F,)``, written behind their names.
        top: So many bars at most; the others are added up in one.
        unit: Of the relevance.
        title: Above the bars.
        ax: Where to draw; None makes a new figure.
        save_path: Where to save.

    Returns:
        The figure.

    Raises:
        ValueError: A length does not fit, `top` is below 1, or a value is not finite.
    """
    bars, labels = _bars(relevance, names, values, top)
    order = np.argsort(-np.abs(bars), kind="stable")
    first, rest = order[:top], order[top:]
    lengths, lines = [float(bars[place]) for place in first], [labels[place] for place in first]
    if len(rest):
        lengths.append(float(bars[rest].sum()))
        lines.append(f"{len(rest)} others together")
    with figure_style():
        panel = axes_for(ax, COLUMN * 1.5, 0.7 + 0.2 * len(lines) + (0.2 if title else 0))
        colours = [POSITIVE if length >= 0 else NEGATIVE for length in lengths]
        drawn = panel.barh(range(len(lines)), lengths, 0.7, color=colours)
        panel.bar_label(drawn, [number(length) for length in lengths], padding=2, fontsize=6.5)
        panel.set_yticks(range(len(lines)), lines)
        for label in panel.get_yticklabels():
            label.set_parse_math(False)
        panel.set_ylim(len(lines) - 0.4, -0.6)
        panel.use_sticky_edges = False
        panel.margins(x=0.16)
        panel.axvline(0, color="#9aa3ad", lw=0.6)
        panel.set_xlabel(f"against the class \u2190 relevance ({unit}) \u2192 for the class")
        panel.set_title(title or "", loc="left")
        return finish(panel.figure, save_path)


def _bars(relevance: ArrayLike, names: Sequence[str] | None, values: Any, top: int) -> tuple[Array, list[str]]:
    """Checked lengths and the lines' labels."""
    bars = _as_array("relevance", relevance).astype(np.float64)
    bars = bars[0] if bars.ndim == 2 and len(bars) == 1 else bars
    if bars.ndim != 1 or top < 1 or not np.isfinite(bars).all():
        raise ValueError(f"relevance has shape {bars.shape}, top is {top}; give (F,) finite values, and 1 or more")
    labels = [f"feature {place}" for place in range(len(bars))] if names is None else [str(name) for name in names]
    several = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    shown = None if several is None else list(several) if getattr(several, "ndim", 1) else [several]
    for what, given in (("names", labels), ("values", shown)):
        if given is not None and len(given) != len(bars):
            raise ValueError(f"{len(given)} {what} for {len(bars)} features; give one for each")
    if shown is not None:
        labels = [f"{name} = {_value(one)}" for name, one in zip(labels, shown, strict=True)]
    return bars, labels


def _value(one: object) -> str:
    try:
        return number(float(one))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(one)
