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

from lrp_plugin.algebra.formulas import damping, reciprocal, widened
from lrp_plugin.algebra.looks import Looks
from lrp_plugin.torch_private import keeps_graph, plain


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


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: Tensor | float) -> Tensor:
        if isinstance(factor, Tensor):
            ctx.save_for_backward(factor)
        ctx.factor = None if isinstance(factor, Tensor) else factor
        return plain(tensor)

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


def damp(preactivation: Tensor, epsilon: float | Tensor) -> Tensor:
    """The same value ``z``; the multiplier is scaled by ``|z| / (|z| + epsilon)`` on its way back."""
    return scale(preactivation, damping(preactivation, epsilon))


class _Redistribute(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: list[Tensor], *carriers: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        ctx.dtypes = [carrier.dtype for carrier in carriers]
        return plain(value)

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
        value = plain(value)
        return value, value.new_ones(()).expand(value.shape)  # ones that take no memory

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor | None, relevance: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        value, *factors = ctx.saved_tensors
        if multiplier is None:
            total = torch.zeros_like(value) if relevance is None else relevance
        else:
            total = value * multiplier if relevance is None else torch.addcmul(relevance, value, multiplier)
        return (None, None, *((total * factor).to(dtype) for factor, dtype in zip(factors, ctx.dtypes)))


def redistribute(value: Tensor, carriers: Sequence[Carrier], stabilizer: float | Tensor) -> Tensor:
    """``value`` in the forward pass; backward, carrier i receives ``share_i * m * value / stabilize(carrier_i)``.

    A carrier that is exactly zero receives nothing. Shapes: ``value`` and every carrier alike.
    """
    factors = [widened(value.detach()) * factor for factor in _factors(value, carriers, stabilizer)]
    return _Redistribute.apply(value.detach(), factors, *(c.value for c in carriers))  # type: ignore[no-any-return]


def _factors(value: Tensor, carriers: Sequence[Carrier], stabilizer: float | Tensor) -> list[Tensor]:
    """``share / stabilize(carrier)`` of each."""
    shares = [torch.as_tensor(carrier.share, device=value.device) for carrier in carriers]
    return [share * reciprocal(widened(c.value.detach()), stabilizer) for share, c in zip(shares, carriers)]


def redistribute_with_port(
    value: Tensor, carriers: Sequence[Carrier], stabilizer: float | Tensor
) -> tuple[Tensor, Tensor]:
    """As `redistribute`, and a port: what arrives at either, ``R = value * m + r``, is shared out together.

    Returns:
        The value and its port, both of ``value``'s shape.
    """
    factors = _factors(value, carriers, stabilizer)
    return _RedistributeWithPort.apply(value.detach(), factors, *(c.value for c in carriers))  # type: ignore[no-any-return]


class _Substitute(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, pullback: Callable[..., Any], *inputs: Tensor) -> Tensor:
        ctx.pullback = pullback
        return plain(value)

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        sent = ctx.pullback(multiplier)
        if not keeps_graph():
            ctx.pullback = None  # lets go of what it holds now, as autograd does with saved tensors, not with the graph
        return (None, None, *(sent if isinstance(sent, tuple) else (sent,)))


def substitute(value: Tensor, pullback: Callable[[Tensor], Any], *inputs: Tensor) -> Tensor:
    """``value`` in the forward pass; backward, ``pullback(m)`` is what ``inputs`` receive (one tensor, or a tuple)."""
    return _Substitute.apply(value, pullback, *inputs)  # type: ignore[no-any-return]


class _HandOn(Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, pullback: Callable[[Tensor], Tensor], shift: Tensor, tensor: Tensor, port: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(shift, port)
        ctx.pullback = pullback
        ctx.set_materialize_grads(False)
        return plain(value), plain(port).clone()

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor | None, relevance: Tensor | None) -> tuple[Any, ...]:  # type: ignore[override]
        if multiplier is None:
            return (None, None, None, None, relevance)
        shift, port = ctx.saved_tensors
        moved = multiplier * shift * reciprocal(port, 0.0)
        return (None, None, None, ctx.pullback(multiplier), moved if relevance is None else moved + relevance)


def hand_on(
    value: Tensor, pullback: Callable[[Tensor], Tensor], shift: Tensor, tensor: Tensor, port: Tensor
) -> tuple[Tensor, Tensor]:
    """``value`` and its port; backward, ``tensor`` receives ``pullback(m)`` and its ``port`` the relevance ``m * shift``.

    The value's port is the input's: an entry that is a constant (a class token, padding) has none, its port is 0.

    Args:
        value: The operation's value. shift: The constant it adds, broadcastable to it.
        pullback: From the value's multiplier to the tensor's.
        tensor, port: The operation's input and its port, of ``value``'s shape.
    """
    return _HandOn.apply(value, pullback, shift, tensor, port)  # type: ignore[no-any-return]


class ForgottenSourceError(BaseException):
    """Unseen work read the value of a map whose rule waits, and was not met: the pass must run again and keep such values.

    No ``Exception``: the model's own ``except`` must not swallow it.
    """


class Mark(Function):
    """A value that says in autograd's graph which signals it depends on, and keeps nothing else of how it was made."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, looks: Looks, *signals: Tensor) -> Tensor:
        """Overridden; see `mark`."""
        ctx.count, ctx.looks = len(signals), looks
        return plain(value)

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> Any:  # type: ignore[override]
        """Nothing flows on, and nothing should arrive: the tensor that stands for a marked value carries its multiplier.

        So a pass that lost relevance here is found without looking for it: this runs in no other.
        """
        ctx.looks.ask(multiplier.any, _forgotten, must=True)
        return (None,) * (2 + ctx.count)


def _forgotten() -> None:
    raise ForgottenSourceError


def mark(value: Tensor, signals: Sequence[Tensor], looks: Looks) -> Tensor:
    """``value``, of any shape, whose graph leads to the signals it was made from; ``looks``: the pass's."""
    return Mark.apply(value, looks, *signals)  # type: ignore[no-any-return]


class _EndPort(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, stabilizer: float) -> Tensor:
        ctx.save_for_backward(tensor)
        ctx.stabilizer = stabilizer
        return torch.ones_like(plain(tensor))

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
        return plain(tensor)

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.sink(ctx.saved_tensors[0], multiplier)
        return multiplier, None


def tap(tensor: Tensor, sink: Callable[[Tensor, Tensor], None]) -> Tensor:
    """The same value and multiplier; ``sink(tensor, multiplier)`` is called when the multiplier passes."""
    return _Tap.apply(tensor, sink)  # type: ignore[no-any-return]
