"""Functions of one entry: the secant from the origin.

A function f passes ``m * (f(x) - f(0)) / x`` on; what it adds, f(0), is a constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.curves import Origin, at_origin, of_one
from lrp_plugin.algebra.formulas import widened
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import book_constant, distributed, selected_port
from lrp_plugin.torch_private import observed


def elementwise(call: Call, *, bias: str = "absorb") -> Tensor | Result:
    """The secant from the origin: ``m * (f(x) - f(0)) / x``, f'(0) at x = 0; f(0) is booked as a constant.

    ``bias="distribute"`` hands f(0)'s relevance on to the entry of the same place (by its port).

    The identity rule of AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, eq. 9) where f(0) = 0: all relevance passes.
    """
    given = tensors_in((call.args, call.kwargs), [])
    if len(given) > 1:
        return _limited(call) if len(call.signals) > 1 or not call.is_signal(call["input"]) else _by_entry(call, bias)
    return _secant(call, bias)


def _secant(call: Call, bias: str = "absorb") -> Tensor | Result:
    x, held, value, origin = call["input"], call["input"].detach(), call.valued(), at_origin(call)
    at_zero = origin.value
    pullback = _through_secant(of_one(call), held, origin)
    if bias == "distribute" and at_zero:
        return distributed(call, value, pullback, torch.full_like(held, at_zero))
    if call.row is not None:
        book_constant(call, _absorbed(held, value, torch.full_like(widened(held), at_zero)))
    return substitute(value, pullback, x)


def _absorbed(x: Tensor, value: Tensor, at_zero: Tensor) -> Tensor:
    """f(0), and all of f(x) where x is infinite (a mask's): such an entry is a constant."""
    return torch.where(torch.isinf(x), widened(value), at_zero)


def _limited(call: Call) -> Tensor:
    """A clamp between limits that are signals: native, homogeneous of degree 1 in the input and the limits together."""
    value = call.native()
    if call.row is not None:
        held = value.detach()
        taken = [
            held == signal.detach() for signal in tensors_in((call.args, call.kwargs), []) if call.is_signal(signal)
        ]
        book_constant(call, torch.where(functools.reduce(torch.logical_or, taken), 0, held))
    return value  # type: ignore[no-any-return]


def _by_entry(call: Call, bias: str) -> Tensor | Result:
    """The secant of a function whose other arguments are tensors: f(0) and f'(0) differ from entry to entry."""
    x = next(t for t in tensors_in((call.args, call.kwargs), []) if call.is_signal(t))
    value, constant = call.valued(), call.at_zero()
    wide = widened(x.detach())
    with torch.enable_grad():
        zero = torch.zeros_like(x, requires_grad=True)
        bent = call.replaced(lambda t: zero if call.is_signal(t) else t)
        (slope,) = torch.autograd.grad(bent.sum(), zero)
    near = wide.abs() <= torch.finfo(wide.dtype).eps ** 0.5
    secant = (widened(value) - constant) / torch.where(near, 1, wide)
    factor = torch.where(near, slope.nan_to_num(posinf=0, neginf=0), secant)
    if bias == "distribute" and x.shape == value.shape:
        dtype = x.dtype
        return distributed(call, value, lambda m: (m * factor).to(dtype), constant)
    book_constant(call, _absorbed(wide, value, constant))
    return _valued(value, x, torch.where(torch.isinf(wide), 0, factor))


def _through_secant(function: Callable[[Tensor], Tensor], x: Tensor, origin: Origin) -> Callable[[Tensor], Tensor]:
    """``m * (f(x) - f(0)) / x``; near 0 its series."""
    wide, value = widened(x), widened(function(x))
    if origin.value:
        # (f(x) - f(0)) / x loses digits near 0 as eps / |x|, its series f' + x f''/2 as x^2: they meet at eps^(1/3).
        close = wide.abs() <= torch.finfo(wide.dtype).eps ** (1 / 3)
        series = origin.slope + origin.bend * wide / 2
    else:
        close, series = wide == 0, torch.full_like(wide, origin.slope)
    factor = torch.where(close, series, (value - origin.value) / torch.where(close, 1, wide))
    return lambda m: (m * factor).to(x.dtype)


def _valued(value: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    dtype = x.dtype  # the pullback must not hold x itself; where x was broadcast autograd adds up
    return substitute(value, lambda m: (m * factor).to(dtype), x)


# Functions of one entry: f(0) = 0 here. Behind: those never negative, gates (a factor of a product by nature), f(0) != 0.
register_rule(
    "identity", "gelu", "silu", "hardswish", "mish", "elu", "celu", "selu", "tanh", "softsign", "tanhshrink",
    "hardshrink", "softshrink", "threshold", "sin", "tan", "atan", "erf", "expm1", "sinh", "asinh", "clamp", "hardtanh",
    "clamp_max", "nan_to_num", "round", "floor", "ceil", "trunc", "asin", "atanh", "square",
    "erfinv", "frac",
    port="keeps", form="curve",
)(elementwise)  # fmt: skip
register_rule("identity", "relu6", "clamp_min", "sqrt", sign="nonnegative", port="keeps", form="curve")(elementwise)
register_rule("identity", "sigmoid", "hardsigmoid", sign="nonnegative", port="keeps", gate=True, form="curve")(
    elementwise
)


@register_rule("gradient", "sigmoid", sign="nonnegative", gate=True)
def sigmoid_gradient(call: Call) -> Tensor:
    """A sigmoid by its derivative, for gates under the products' rule ``gradient``; what is lost is booked as ``other``."""
    value = call.native()
    x, held = call["input"].detach(), value.detach()
    call.absorb("other", lambda m: m * (held - x * held * (1 - held)))
    return value  # type: ignore[no-any-return]


register_rule(
    "identity", "exp", "softplus", "cosh", "exp2", "cos", "erfc", "acos", "sinc", "log_sigmoid", port="keeps", form="curve",
)(elementwise)  # fmt: skip


@register_rule("native", "max", "min", "maximum", "minimum", "fmax", "fmin", sign="keeps", port=selected_port)
def extreme(call: Call) -> Any:
    """The larger or smaller entry takes all; beside a constant it is a function of one entry, as ``clamp`` is: its secant."""
    other = call.get("other")
    if isinstance(other, Tensor) and not (call.is_signal(other) and call.is_signal(call["input"])):
        return _by_entry(call, "absorb")
    return call.native()


@register_rule("identity", "pow", "float_power", port="keeps")
def power(call: Call) -> Any:
    """A power: ``m * x ** (p - 1)`` for p > 0; entries with p <= 0 are divisors and carry no relevance.

    Raises:
        UnsupportedOperationError: Where base and exponent are both signals.
    """
    base, exponent = (call["input"], call.get("exponent", call.args[1] if len(call.args) > 1 else None))
    if not call.is_signal(base):
        return elementwise_of(call, exponent)
    if isinstance(exponent, (int, float)) and exponent > 0:
        return _secant(call)  # often not the base's only reader, as in a GELU written out
    if isinstance(exponent, Tensor):  # a learned one: GeM pooling's
        if call.is_signal(exponent):
            raise UnsupportedOperationError(
                "operation 'pow': base and exponent both depend on the input, and no rule says how they share relevance; "
                "register a rule for it (register_rule('name', 'pow'))"
            )
        if observed() or exponent.device.type != "cpu" or (exponent > 0).any():  # a look would wait for the device
            return _powers(call, exponent)
    return held(call.native())


def _powers(call: Call, exponent: Tensor) -> Tensor:
    """The base to a constant tensor of exponents."""
    x, value = call["input"], call.valued()
    wide = widened(x.detach())
    at_zero = (exponent == 1).to(wide.dtype)  # the slope; where it is not finite R is 0 in any case
    secant = torch.where(wide == 0, at_zero, widened(value) / torch.where(wide == 0, 1, wide))
    book_constant(call, torch.where((exponent > 0) & ~torch.isinf(wide), 0, value))
    return _valued(value, x, torch.where(exponent > 0, secant, 0))


def elementwise_of(call: Call, exponent: Tensor) -> Any:
    """``c ** x``: the secant in the exponent."""
    x = exponent
    value, constant, wide = call.valued(), call.at_zero(), widened(x.detach())
    factor = torch.where(wide == 0, 0, (value - constant) / torch.where(wide == 0, 1, wide))
    book_constant(call, _absorbed(wide, value, constant))
    return _valued(value, x, factor)
