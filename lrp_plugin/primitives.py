"""Operations with an unchanged forward value and a changed backward: what rules are made of.

The backward pass carries the multiplier ``m`` of every tensor ``t``, with relevance ``R(t) = t * m(t)``. A *port* is
a signal of ones, so that its multiplier is relevance itself; it reaches entries whose value is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

_HALF = (torch.float16, torch.bfloat16)


class Carrier(NamedTuple):
    """One differentiable expression that carries a share of a map's relevance to the map's input.

    Args:
        value: The carrier, of the map's output shape; its own graph leads to the input (or to the input's port).
        share: The part of the relevance it carries: a number, or a tensor of the output's shape.
        bias: The part of ``value`` that comes from bias, broadcastable to it; ``None`` where there is none.
    """

    value: Tensor
    share: float | Tensor = 1.0
    bias: Tensor | None = None


def widened(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 where it is of half precision: 0 / (0 + 1e-9) is NaN in float16."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def stabilize(tensor: Tensor, stabilizer: float | Tensor) -> Tensor:
    """``tensor + stabilizer * sign(tensor)`` with ``sign(0) = 1``, of ``tensor``'s shape."""
    return torch.where(tensor >= 0, tensor + stabilizer, tensor - stabilizer)


def reciprocal(tensor: Tensor, stabilizer: float | Tensor) -> Tensor:
    """``1 / stabilize(tensor)``, and 0 where ``tensor`` is 0: nothing there can receive relevance."""
    return torch.where(tensor == 0, 0, 1 / stabilize(tensor, stabilizer))


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: Tensor | float) -> Tensor:
        if isinstance(factor, Tensor):
            ctx.save_for_backward(factor)
        ctx.factor = None if isinstance(factor, Tensor) else factor
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        factor = ctx.factor if ctx.factor is not None else ctx.saved_tensors[0]
        return (multiplier * factor).to(multiplier.dtype), None


def scale(tensor: Tensor, factor: Tensor | float) -> Tensor:
    """The same value; the multiplier is scaled by ``factor`` on its way back.

    Args:
        tensor: A signal of any shape.
        factor: A number, or a tensor broadcastable to ``tensor``'s shape.
    """
    return _Scale.apply(tensor, factor)  # type: ignore[no-any-return]


# One block of three float32 arrays stays in a core's L2 cache, so the damped multiplier costs one trip through memory
# instead of three (ResNet-18, batch 8, two cores: 41 ms -> 13 ms of a 480 ms pass).
_BLOCK = 1 << 17


def _damped_block(multiplier: Tensor, preactivation: Tensor, epsilon: float) -> Tensor:
    # m - eps * m / (|z| + eps) = m |z| / (|z| + eps): three kernels, one of them in place.
    return torch.addcdiv(multiplier, multiplier, preactivation.abs().add_(epsilon), value=-epsilon)


def damped(multiplier: Tensor, preactivation: Tensor, epsilon: float) -> Tensor:
    """``m * |z| / (|z| + epsilon)``, the epsilon rule's multiplier, of ``multiplier``'s shape and dtype."""
    m, z = widened(multiplier), widened(preactivation)
    blockwise = (
        m.device.type == "cpu"
        and type(m) is Tensor
        and m.numel() > 4 * _BLOCK
        and m.is_contiguous()
        and z.is_contiguous()
        and m.dtype == z.dtype
        and not torch.is_grad_enabled()
        and torch._C._len_torch_dispatch_stack() == 0  # a tracer wants one plain formula
    )
    if not blockwise:
        return _damped_block(m, z, epsilon).to(multiplier.dtype)
    out = torch.empty_like(m)
    for left, right, target in zip(m.view(-1).split(_BLOCK), z.view(-1).split(_BLOCK), out.view(-1).split(_BLOCK)):
        torch.addcdiv(left, left, right.abs().add_(epsilon), value=-epsilon, out=target)
    return out.to(multiplier.dtype)


class _Damp(Function):
    @staticmethod
    def forward(ctx: Any, preactivation: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(preactivation)
        ctx.epsilon = epsilon
        return preactivation.detach()

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return damped(multiplier, ctx.saved_tensors[0], ctx.epsilon), None


def damp(preactivation: Tensor, epsilon: float) -> Tensor:
    """The same value ``z``; the multiplier is scaled by ``|z| / (|z| + epsilon)`` on its way back."""
    return _Damp.apply(preactivation, epsilon)  # type: ignore[no-any-return]


class _Redistribute(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: list[Tensor], *carriers: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        ctx.dtypes = [carrier.dtype for carrier in carriers]
        return value.detach()

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        sent = [(multiplier * factor).to(dtype) for factor, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return (None, None, *sent)


class _RedistributeWithPort(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: list[Tensor], *carriers: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(value, *factors)
        ctx.dtypes = [carrier.dtype for carrier in carriers]
        ctx.set_materialize_grads(False)
        return value.detach(), torch.ones_like(value)

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor | None, relevance: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        value, *factors = ctx.saved_tensors
        total = torch.zeros_like(value) if multiplier is None else value * multiplier
        if relevance is not None:
            total = total + relevance
        return (None, None, *((total * factor).to(dtype) for factor, dtype in zip(factors, ctx.dtypes)))


def redistribute(value: Tensor, carriers: Sequence[Carrier], stabilizer: float | Tensor) -> Tensor:
    """``value`` in the forward pass; backward, carrier i receives ``share_i * m * value / stabilize(carrier_i)``.

    A carrier that is exactly zero receives nothing. Shapes: ``value`` and every carrier alike.
    """
    wide = widened(value.detach())
    factors = [wide * carrier.share * reciprocal(widened(carrier.value.detach()), stabilizer) for carrier in carriers]
    return _Redistribute.apply(value.detach(), factors, *(c.value for c in carriers))  # type: ignore[no-any-return]


def redistribute_with_port(
    value: Tensor, carriers: Sequence[Carrier], stabilizer: float | Tensor
) -> tuple[Tensor, Tensor]:
    """As `redistribute`, and a port: what arrives at either, ``R = value * m + r``, is shared out together.

    Returns:
        The value and its port, both of ``value``'s shape.
    """
    factors = [
        torch.as_tensor(c.share, device=value.device) * reciprocal(widened(c.value.detach()), stabilizer)
        for c in carriers
    ]
    return _RedistributeWithPort.apply(value.detach(), factors, *(c.value for c in carriers))  # type: ignore[no-any-return]


class _Substitute(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, pullback: Callable[..., Any], *inputs: Tensor) -> Tensor:
        ctx.pullback = pullback
        return value.detach()

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        sent = ctx.pullback(multiplier)
        return (None, None, *(sent if isinstance(sent, tuple) else (sent,)))


def substitute(value: Tensor, pullback: Callable[[Tensor], Any], *inputs: Tensor) -> Tensor:
    """``value`` in the forward pass; backward, ``pullback(m)`` is what ``inputs`` receive (one tensor, or a tuple)."""
    return _Substitute.apply(value, pullback, *inputs)  # type: ignore[no-any-return]


class _EndPort(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, stabilizer: float) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.stabilizer = stabilizer
        return torch.ones_like(tensor)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (tensor,) = ctx.saved_tensors
        return (relevance * reciprocal(widened(tensor), ctx.stabilizer)).to(tensor.dtype), None


def end_port(tensor: Tensor, stabilizer: float) -> Tensor:
    """A port for a signal that has none: the relevance r it receives becomes the multiplier ``r / stabilize(tensor)``.

    Entries that are zero cannot take it up; the ledger books them as ``no_receiver``.
    """
    return _EndPort.apply(tensor, stabilizer)  # type: ignore[no-any-return]


class _Overwrite(Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, value: Tensor, like: Tensor) -> Tensor:
        ctx.place = like.size(), like.stride(), like.storage_offset()
        written = flat.clone()
        written.as_strided(*ctx.place).copy_(value)
        return written

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        kept = multiplier.clone(memory_format=torch.contiguous_format)
        place = kept.as_strided(*ctx.place)
        written = place.clone()
        place.zero_()
        return kept, written, None


def overwrite(flat: Tensor, value: Tensor, like: Tensor) -> Tensor:
    """``flat``, shape (n,), with ``value`` written where ``like`` lies in its own storage.

    torch.as_strided_scatter does this too, but its backward (torch 2.15) also sends the overwritten entries' gradient
    to ``flat``: relevance would count twice.
    """
    return _Overwrite.apply(flat, value, like)  # type: ignore[no-any-return]


class _Tap(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sink: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.sink = sink
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.sink(ctx.saved_tensors[0], multiplier)
        return multiplier, None


def tap(tensor: Tensor, sink: Callable[[Tensor, Tensor], None]) -> Tensor:
    """The same value and multiplier; ``sink(tensor, multiplier)`` is called when the multiplier passes."""
    return _Tap.apply(tensor, sink)  # type: ignore[no-any-return]
