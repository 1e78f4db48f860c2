"""Products of two signals, gates, and divisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.primitives import scale, substitute
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import spread_port


def is_product(call: Call) -> bool:
    """Two factors are signals, or one twice, or the addend is, or nothing is a weight: no linear map of one signal."""
    names, signals = call.names, call.signals
    if len(signals) == 1 and "weight" in names and "input" in names:  # a layer
        return id(names["weight"]) in signals or id(names.get("bias")) in signals
    tensors = tensors_in((call.args, call.kwargs), [])
    return len(tensors) == 1 or sum(id(t) in signals for t in tensors) > 1


def uniform_product(call: Call) -> Any:
    """Each of two signal factors gets half the relevance; an added bias keeps its own share.

    An einsum of one tensor moves its entries or adds them up.
    """
    value = call.native()
    tensors = tensors_in((call.args, call.kwargs), [])
    if len(tensors) == 1:
        return Result(value, port=spread_port(call, call.port)) if call.ports else value
    if call.row is not None:
        constant = call.at_zero()
        constant = torch.where(torch.isfinite(constant), constant, 0)  # an addend of -inf is a mask
        call.absorb("bias", lambda m: m * constant)
    addend = call.get("bias")
    if call.is_signal(addend):
        return _added_product(call)
    factors = [t for t in tensors if call.is_signal(t)]
    return scale(value, 1 / len(factors)) if len(factors) > 1 else value


def _added_product(call: Call) -> Any:
    """``b + f(x, W)`` with a signal b: the sum of b and of the product."""
    addend = call["bias"]
    product = call.replaced(lambda t: torch.zeros_like(t) if t is addend else t)
    factors = [t for key, t in call.names.items() if call.is_signal(t) and key != "bias"]
    placed = addend if not call.operation.startswith("conv") else addend.view(-1, 1, 1)
    return (scale(product, 0.5) if len(factors) == 2 else product) + placed


register_rule(  # of two factors; an integral's are the values and their spacing
    "uniform", "outer", "ger", "kron", "cross", "linalg_cross", "linalg_vecdot", "trapezoid", "trapz",
    "cumulative_trapezoid",
)(uniform_product)  # fmt: skip


@register_rule("uniform", "prod", "cumprod", sign="keeps")
def uniform_powers(call: Call) -> Any:
    """A product of n entries: each gets an n-th (Achtibat et al. 2024, arXiv 2402.05602, Proposition 3.2)."""
    value, x, dim = call.native(), call["input"], call.get("dim")
    if call.operation == "prod":
        return scale(value, 1 / max(x.numel() // max(value.numel(), 1), 1))
    length = x.shape[dim] if x.dim() else 1
    counts = torch.arange(1, length + 1, dtype=value.dtype, device=value.device)
    return scale(value, 1 / counts.view(-1, *[1] * (x.dim() - 1 - dim % max(x.dim(), 1))))


def _factors(call: Call) -> tuple[Any, Any]:
    return call["input"], call.get("other", call.args[1] if len(call.args) > 1 else None)


def _split_port(call: Call, port_of: Callable[[Tensor], Tensor], share: Tensor | float) -> Tensor:
    left, right = _factors(call)
    shape = torch.broadcast_shapes(*(t.shape for t in (left, right) if isinstance(t, Tensor)))
    if call.is_signal(left) and call.is_signal(right):
        return share * port_of(left).expand(shape) + (1 - share) * port_of(right).expand(shape)
    return port_of(left if call.is_signal(left) else right).expand(shape)


def halved_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Relevance without a value is split as the rest is: half to each of two signals."""
    return _split_port(call, port_of, 0.5)


def signal_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """All to the signal, none to the gate."""
    gates = _gates(call)
    return _split_port(call, port_of, 0.5 if gates[0] == gates[1] else float(gates[1]))


def ratio_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """By the factors' magnitudes."""
    return _split_port(call, port_of, _magnitude_share(*_factors(call)))


def numerator_port(call: Call, port_of: Callable[[Tensor], Tensor]) -> Tensor:
    """All to the numerator."""
    numerator, divisor = _factors(call)
    shape = torch.broadcast_shapes(numerator.shape, divisor.shape if isinstance(divisor, Tensor) else ())
    return port_of(numerator).expand(shape)


def _gates(call: Call) -> list[bool]:
    """For each of two factors, whether it is a gate."""
    left, right = _factors(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        return [False, False]
    return [call.signal(t).gate or t.numel() < other.numel() for t, other in ((left, right), (right, left))]


def _magnitude_share(left: Any, right: Any) -> Tensor | float:
    """``|a| / (|a| + |b|)``, a half where both are zero."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return 0.5
    total = left.detach().abs() + right.detach().abs()
    return torch.where(total == 0, 0.5, left.detach().abs() / torch.where(total == 0, 1, total))


@register_rule("uniform", "mul", sign="keeps", port=halved_port)
def uniform(call: Call) -> Any:
    """Each of two signals gets half; a constant factor is a coefficient and gets nothing.

    AttnLRP's rule for products (Achtibat et al. 2024, arXiv 2402.05602, Proposition 3.2).
    """
    return scale(call.native(), 0.5) if all(call.is_signal(t) for t in _factors(call)) else call.native()


@register_rule("signal", "mul", sign="keeps", port=signal_port)
def signal_takes_all(call: Call) -> Any:
    """All to the signal, none to the gate (Arras et al. 2017, arXiv 1706.07206, eq. 5 and following).

    The gate is the factor that came through a sigmoid-like function or is broadcast from a pooled path; where neither
    or both did, each gets half.
    """
    left, right = _factors(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        return call.native()
    gates = _gates(call)
    if gates[0] == gates[1]:
        return scale(call.native(), 0.5)
    gate = left if gates[0] else right
    return call.replaced(lambda t: t.detach() if t is gate else t)


@register_rule("ratio", "mul", sign="keeps", port=ratio_port)
def ratio_product(call: Call) -> Any:
    """Each factor gets the part ``|a| / (|a| + |b|)`` of the relevance (Otsuki et al., ECCV 2024)."""
    left, right = _factors(call)
    if not (call.is_signal(left) and call.is_signal(right)):
        return call.native()
    share = _magnitude_share(left, right)
    first, second = left * right.detach(), left.detach() * right
    value = call.native().detach()
    return substitute(value, lambda m: (m * share, m * (1 - share)), first, second)


@register_rule("gradient", "mul", sign="keeps", port=halved_port)
def gradient_product(call: Call) -> Any:
    """Each of two signals gets its gradient times itself: all the relevance, twice. Conserves nothing.

    Gradient times input's product rule, for gates whose effect the others leave out; booked as ``other``.
    """
    value = call.native()
    if all(call.is_signal(t) for t in _factors(call)):
        held = value.detach()
        call.absorb("other", lambda m: -m * held)
    return value


@register_rule("native", "div", sign="keeps", port=numerator_port)
def division(call: Call) -> Any:
    """The divisor is held constant (Ali et al. 2022, arXiv 2202.07304); a constant over a signal carries nothing."""
    numerator, divisor = _factors(call)
    if not call.is_signal(numerator):
        return held(call.native())
    if call.is_signal(divisor):
        value = call.replaced(lambda t: t.detach() if t is divisor else t)
        return held(value) if divisor is numerator else value
    return call.native()


@register_rule("constant", "rdiv", "floor_divide", "remainder", "fmod")
def reversed_division(call: Call) -> Any:
    """A constant divided by a signal: a divisor carries no relevance."""
    return held(call.native())
