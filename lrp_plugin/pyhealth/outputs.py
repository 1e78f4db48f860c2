"""What PyHealth's models return, and PyHealth's targets: logits ``(N, K)`` and one class index per example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.gradients import resolve_target


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned.

    Args:
        output: A tensor, or a mapping with ``logit`` or ``logits``, else ``y_prob`` (its logarithm stands for the
            logit: they differ by a constant of the example), else ``y_pred``.

    Returns:
        Logits ``(N, K)``; K is 1 for a model that gives one number per example.

    Raises:
        ValueError: Neither a tensor ``(N,)`` or ``(N, K)`` nor such a mapping.
    """
    if isinstance(output, Mapping):
        found = next((output[key] for key in ("logit", "logits") if key in output), None)
        if found is None and "y_prob" in output:
            found = (output["y_prob"] + 1e-10).log()
        output = output.get("y_pred", ", ".join(map(str, output))) if found is None else found
    if not isinstance(output, Tensor) or output.ndim not in (1, 2):
        shape = tuple(output.shape) if isinstance(output, Tensor) else repr(output)
        raise ValueError(
            f"the model returned {shape}; legal are a tensor (N,) or (N, K), or a mapping with one of them as 'logit', "
            "'y_prob' or 'y_pred'"
        )
    return output if output.ndim == 2 else output[:, None]


def class_indices(target: Any, logits: Tensor) -> Tensor:
    """PyHealth's targets: as `resolve_target`; negative ones count from the end; one logit leaves nothing to choose.

    Args:
        target: None (each example's highest logit), an int, NumPy int or 0-d tensor for all, a list, array or 1-d
            tensor with one per example.
        logits: ``(N, K)``.

    Returns:
        Class indices ``(N,)``, int64.

    Raises:
        ValueError: A target that is no whole number, of another length than N, or outside -K..K-1.
    """
    count, classes = logits.shape
    if classes == 1:
        return torch.zeros(count, dtype=torch.int64, device=logits.device)
    if target is None:
        return resolve_target(None, logits)
    given = torch.as_tensor(target, device=logits.device)
    if given.is_floating_point() or given.dtype == torch.bool:
        raise ValueError(f"target {target!r} is no whole number; legal are {-classes} to {classes - 1}")
    if bool(((given < -classes) | (given >= classes)).any()):
        raise ValueError(f"target {target!r} is out of range: legal are {-classes} to {classes - 1}")
    return resolve_target(torch.where(given < 0, given + classes, given), logits)


def takes_keyword(forward: Callable[..., Any], name: str) -> bool:
    """Whether ``forward`` can be called with that keyword."""
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def check_keywords(forward: Callable[..., Any], names: Collection[str]) -> None:
    """Refuses names that are no parameters of the model's forward.

    Raises:
        ValueError: One is not; the legal ones are listed.
    """
    unknown = [name for name in names if not takes_keyword(forward, name)]
    if unknown:
        legal = ", ".join(repr(name) for name in inspect.signature(forward).parameters)
        raise ValueError(f"the model's forward has no parameter {', '.join(map(repr, unknown))}; legal are {legal}")
