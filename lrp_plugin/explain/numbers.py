"""``explain_signal``, ``explain_table``, ``explain_volume``: numbers that are no picture and no text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_plugin.composites import Composite
from lrp_plugin.errors import told
from lrp_plugin.explain import figures
from lrp_plugin.explain.core import device_of, dtype_of, forward, named, noted, scores_of, whole_call
from lrp_plugin.explain.explanation import Explanation
from lrp_plugin.explain.names import Labels, names_of, read_labels
from lrp_plugin.explain.picture import explain_class
from lrp_plugin.kinds import checked


@whole_call
@checked
def explain_signal(
    model: nn.Module | Callable[..., Any],
    signal: Any,
    target: int | str | Tensor | None = None,
    method: str | Composite = "auto",
    *,
    rate: float | None = None,
    channels: Sequence[str] | None = None,
    **options: Any,
) -> Explanation:
    """Explains one answer about a signal over time: an ECG, an EEG, a voice.

    Args:
        model: Takes a batch of such signals; returns ``(N, K)`` or ``(N,)``.
        signal: One signal as the model takes it, without the batch: ``(T,)`` or ``(C, T)``; array or tensor.
        target: The class by number or name; the best one if None.
        method: As in `explain_image`.
        rate: Samples a second, for the figure's axis.
        channels: C names.
        **options: ``labels``, ``bias``, ``output``, ``probabilities``, ``topk``, ``ledger``, ``name`` and further ones
            as in `explain_image`.

    Returns:
        The explanation; ``relevance`` has the signal's shape, in logits.

    Raises:
        ValueError: The model, the signal's shape, the target or a name is not legal.
    """
    values = _numbers("signal", signal)
    if values.dim() not in (1, 2):
        raise ValueError(f"signal has shape {tuple(values.shape)}; give one, (T,) or (C, T)")
    if channels is not None and len(channels) != (1 if values.dim() == 1 else len(values)):
        raise ValueError(f"{len(channels)} names for a signal of shape {tuple(values.shape)}; give one a channel")
    view = {"rate": rate, "channels": None if channels is None else list(channels)}
    return _explained(model, values, target, method, "signal", figures.draw_signal, view, **options)


@whole_call
@checked
def explain_table(
    model: nn.Module | Callable[..., Any],
    row: Any,
    target: int | str | Tensor | None = None,
    method: str | Composite = "auto",
    *,
    names: Sequence[str] | None = None,
    shown: Sequence[Any] | None = None,
    **options: Any,
) -> Explanation:
    """Explains one answer about a row of a table.

    Args:
        model: Takes ``(N, F)``; returns ``(N, K)`` or ``(N,)``.
        row: F numbers as the model takes them (scaled, where it was trained so): a list, array, tensor ``(F,)``, a dict
            or pandas Series from name to number.
        target: The class by number or name; the best one if None.
        method: As in `explain_image`.
        names: F names; a dict's and a Series' own if None.
        shown: F values to show behind the names, where those of `row` were scaled.
        **options: As in `explain_signal`.

    Returns:
        The explanation; ``relevance`` ``(F,)``, in logits.

    Raises:
        ValueError: The model, a length, the target or a name is not legal.
    """
    if names is None and (isinstance(row, Mapping) or hasattr(row, "index") and hasattr(row, "to_numpy")):
        names = [str(name) for name in (row if isinstance(row, Mapping) else row.index)]
    row = list(row.values()) if isinstance(row, Mapping) else row.to_numpy() if hasattr(row, "to_numpy") else row
    values = _numbers("row", row)
    values = values[0] if values.dim() == 2 and len(values) == 1 else values
    if values.dim() != 1:
        raise ValueError(f"row has shape {tuple(values.shape)}; give one row, (F,)")
    for what, given in (("names", names), ("shown", shown)):
        if given is not None and len(given) != len(values):
            raise ValueError(f"{len(given)} {what} for {len(values)} features; give one for each")
    view = {"names": None if names is None else list(names), "values": shown if shown is not None else values.tolist()}
    return _explained(model, values, target, method, "table", figures.draw_table, view, **options)


@whole_call
@checked
def explain_volume(
    model: nn.Module | Callable[..., Any],
    volume: Any,
    target: int | str | Tensor | None = None,
    method: str | Composite = "auto",
    *,
    axes: Sequence[str] = ("axis 0", "axis 1", "axis 2"),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **options: Any,
) -> Explanation:
    """Explains one answer about a volume: a CT, an MRI, a short film.

    Args:
        model: Takes ``(N, C, D, H, W)``; returns ``(N, K)`` or ``(N,)``.
        volume: ``(C, D, H, W)`` as the model takes it, or ``(D, H, W)`` for one channel; array or tensor.
        target: The class by number or name; the best one if None.
        method: As in `explain_image`.
        axes: The axes' names for the figure, such as ``("axial", "coronal", "sagittal")``.
        spacing: A voxel's size along each axis, for the figure's proportions.
        **options: As in `explain_signal`.

    Returns:
        The explanation; ``relevance`` ``(C, D, H, W)``, in logits.

    Raises:
        ValueError: The model, the volume's shape, the target or a name is not legal.
    """
    values = _numbers("volume", volume)
    values = values[0] if values.dim() == 5 and len(values) == 1 else values
    values = values[None] if values.dim() == 3 else values
    if values.dim() != 4:
        raise ValueError(f"volume has shape {tuple(values.shape)}; give one, (C, D, H, W) or (D, H, W)")
    view = {"volume": values.double().mean(0), "geometry": {"axes": tuple(axes), "spacing": tuple(spacing)}}
    return _explained(model, values, target, method, "volume", figures.draw_volume, view, **options)


def _numbers(what: str, given: Any) -> Tensor:
    try:
        values = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(np.array(given, dtype=float))
    except (TypeError, ValueError):
        raise ValueError(f"{what}={told(given)}; give an array or a tensor of numbers") from None
    if not values.numel() or not bool(torch.isfinite(values).all()):
        raise ValueError(f"{what} of shape {tuple(values.shape)} is empty, or holds NaN or infinite values")
    return values


def _explained(
    model: Any, values: Tensor, target: Any, method: Any, kind: str, draw: Any, view: dict[str, Any], *,
    labels: Labels = None, bias: str = "absorb", output: Any = None, probabilities: str | None = None, topk: int = 5,
    ledger: bool = True, name: str | None = None, **options: Any,
) -> Explanation:  # fmt: skip
    inputs = values.to(device_of(model), dtype_of(model))[None]
    scores = scores_of(forward(model, inputs), output)
    names = read_labels(labels) or names_of(model, scores.shape[1] if scores.dim() > 1 else 1)
    request = {"method": method, "bias": bias, "ledger": ledger, **options}
    facts = {"input": values, "model": name or named(model), "view": view}
    found = explain_class(model, inputs, scores, target, names, output, probabilities, topk, request, kind=kind,
                          draw=draw, facts=facts)  # fmt: skip
    return noted(found, bias)
