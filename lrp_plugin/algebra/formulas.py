"""Formulas of one entry: the stabilizer, the epsilon rule's damping, relevance itself."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def cast_of(device: str) -> torch.dtype | None:
    """What autocast casts to on a kind of device; None where it does not, or there is none (``meta``)."""
    known = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if known else None


def widened(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 where it is of half precision: 0 / (0 + 1e-9) is NaN in float16."""
    return tensor.float() if tensor.dtype in HALF else tensor


def relevance_of(tensor: Tensor, multiplier: Tensor) -> Tensor:
    """``t * m``, and 0 where ``m`` is 0, also of an infinite entry (a mask's)."""
    return torch.where(multiplier == 0, 0, tensor * multiplier)


def stabilize(tensor: Tensor, stabilizer: float | Tensor) -> Tensor:
    """``tensor + stabilizer * sign(tensor)`` with ``sign(0) = 1``, of ``tensor``'s shape."""
    return torch.where(tensor >= 0, tensor + stabilizer, tensor - stabilizer)


def reciprocal(tensor: Tensor, stabilizer: float | Tensor) -> Tensor:
    """``1 / stabilize(tensor)``, and 0 where ``tensor`` is 0: nothing there can receive relevance."""
    return torch.where(tensor == 0, 0, 1 / stabilize(tensor, stabilizer))


def damping(preactivation: Tensor, epsilon: float | Tensor) -> Tensor:
    """``|z| / (|z| + epsilon)``, by which the epsilon rule scales a multiplier; 0 where both are 0."""
    size = widened(preactivation.detach()).abs()
    return size / (size + epsilon).clamp(min=torch.finfo(size.dtype).tiny)


def where_positive(tensor: Tensor, condition: Tensor, out: Tensor | None = None) -> Tensor:
    """``tensor`` where ``condition`` is positive, else 0, in one kernel: it is a ReLU's backward; memory of its own."""
    if out is None:
        return torch.ops.aten.threshold_backward(tensor, condition, 0)  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward.grad_input(tensor, condition, 0, grad_input=out)  # type: ignore[no-any-return]
