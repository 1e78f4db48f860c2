"""Additions of signals: skip connections, and added constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.primitives import Carrier, redistribute_with_port, scale, substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import native_affine


def _operands(call: Call) -> tuple[Any, Any]:
    return call["input"], call.get("other", call.args[1] if len(call.args) > 1 else None)


def _terms(call: Call, left: Any, right: Any) -> tuple[Any, Any]:
    """The two addends with their signs and alpha: their sum is the value."""
    alpha = call.get("alpha", 1)
    if call.operation == "rsub":
        return -alpha * left, right
    return left, (-alpha if call.operation == "sub" else alpha) * right


def _magnitude_share(call: Call) -> Tensor:
    """``|a| / (|a| + |b|)`` of the two addends, a half where both are zero."""
    held = [t.detach() if isinstance(t, Tensor) else t for t in _operands(call)]
    first, second = (abs(term) for term in _terms(call, *held))
    total = first + second
    return torch.where(total == 0, 0.5, first / torch.where(total == 0, 1, total))


def shared_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Relevance without a value is split by the addends' magnitudes: a + b may be near 0, |a| + |b| is not."""
    left, right = _operands(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        only = port_of(left if call.is_signal(left) else right)
        return only.expand(torch.broadcast_shapes(*(t.shape for t in (left, right) if isinstance(t, Tensor))))
    share = _magnitude_share(call)
    return share * port_of(left) + (1 - share) * port_of(right)


@register_rule("epsilon", "add", "sub", "rsub", "add_relu", sign="any", port=shared_port, form="sum")
def signed_addition(call: Call, *, epsilon: float = 0.0) -> Result:
    """Each addend gets its signed part: ``R_a = a R / (a + b + epsilon sign)``, the literature's rule.

    Native in this form; an added constant (bias, position embedding) keeps its own part.
    """
    value = native_affine(call)
    gate = len(call.signals) == 1 and all(signal.gate for signal in call.signals.values())  # 1 - z
    if epsilon == 0:
        return Result(value, gate=gate)
    held = value.detach()
    factor = held.abs() / (held.abs() + epsilon)
    if call.row is not None:
        columns = [(column, place, formula) for column, place, formula in call.row.absorptions]
        call.row.absorptions[:] = [
            (column, place, lambda m, formula=formula: formula(m * factor)) for column, place, formula in columns
        ]
        call.absorb("stabilizer", lambda m: m * held * (1 - factor))
    return Result(scale(value, factor), gate=gate)


def _shared(call: Call, share: Tensor | float) -> Any:
    """The sum, with the part ``share`` of its relevance for the first operand and the rest for the second."""
    left, right = _operands(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        return native_affine(call)
    value = call.native().detach()
    first, second = (call.port(operand).expand_as(value) for operand in (left, right))
    carriers = [Carrier(first, share), Carrier(second, 1 - share)]
    for carrier in carriers:  # an entry that is a constant (a class token) has no port to take its share up
        lost = carrier.share * (carrier.value.detach() == 0)
        call.absorb("no_receiver", lambda m, lost=lost: m * value * lost)
        call.absorb("port:no_receiver", lambda r, lost=lost: r * lost)
    return Result(*redistribute_with_port(value, carriers, 0.0))


@register_rule("ratio", "add", "sub")
def ratio(call: Call) -> Any:
    """Each addend gets the part ``|a| / (|a| + |b|)`` (Otsuki et al., ECCV 2024): bounded, and blind to signs."""
    left, right = _operands(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        return native_affine(call)
    if call.ports:
        return _shared(call, _magnitude_share(call))
    # R_a = s m (a + b) sent as the multiplier s m (a + b) / a = m (a + b) sign(a) / (|a| + |b|): no small divisor.
    value = call.native().detach()
    first, second = _terms(call, left.expand_as(value), right.expand_as(value))
    total = first.detach().abs() + second.detach().abs()
    bounded = torch.where(total == 0, 0, value / torch.where(total == 0, 1, total))
    signs = first.detach().sign(), second.detach().sign()
    return substitute(value, lambda m: (m * bounded * signs[0], m * bounded * signs[1]), first, second)


@register_rule("equal", "add", "sub", ports=True)
def equal(call: Call) -> Any:
    """Each of two signals gets half the sum's relevance, whatever their values."""
    return _shared(call, 0.5)


@register_rule("skip", "add", "sub", ports=True, lineage=True)
def skip(call: Call) -> Any:
    """All to the operand with the shorter path of operations from the operands' last common signal."""
    return _shared_by_path(call, shorter=True)


@register_rule("branch", "add", "sub", ports=True, lineage=True)
def branch(call: Call) -> Any:
    """All to the operand with the longer path of operations from the operands' last common signal."""
    return _shared_by_path(call, shorter=False)


def _shared_by_path(call: Call, shorter: bool) -> Any:
    left, right = _operands(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        return native_affine(call)
    first, second = path_lengths(call.signal(left), call.signal(right))
    if first == second:
        raise UnsupportedOperationError(
            f"rule 'skip'/'branch' for operation {call.operation!r}: both operands are {first} operations from their "
            f"last common signal, so neither is the skip; choose 'epsilon', 'ratio' or 'equal' there"
        )
    return _shared(call, 1.0 if (first < second) == shorter else 0.0)


def path_lengths(left: Signal, right: Signal) -> tuple[int, int]:
    """How many operations lie between the operands' last common signal and each of them."""
    reached = [_distances(left), _distances(right)]
    common = [signal for signal in reached[0] if signal in reached[1]]
    if not common:
        return left.lineage.depth, right.lineage.depth
    last = max(common, key=lambda signal: signal.lineage.depth)
    return reached[0][last], reached[1][last]


def _distances(signal: Signal) -> dict[Signal, int]:
    """The longest number of operations back to every ancestor, each visited once, the deepest first."""
    found: dict[Signal, int] = {signal: 0}
    waiting = {signal}
    while waiting:
        current = max(waiting, key=lambda known: known.lineage.depth)
        waiting.remove(current)
        for parent in current.lineage.parents:
            found[parent] = max(found.get(parent, 0), found[current] + 1)
            waiting.add(parent)
    return found
