"""Functions of one entry: the secant from the origin.

A function f passes ``m * (f(x) - f(0)) / x`` on; what it adds, f(0), is a constant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.blockwise import blockwise, observed
from lrp_plugin.algebra.call import Call, tensors_in
from lrp_plugin.algebra.formulas import HALF, widened
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import book_constant, distributed, selected_port


def elementwise(call: Call, *, bias: str = "absorb") -> Tensor:
    """The secant from the origin: ``m * (f(x) - f(0)) / x``, f'(0) at x = 0; f(0) is booked as a constant.

    ``bias="distribute"`` hands f(0)'s relevance on to the entry of the same place (by its port).

    The identity rule of AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, eq. 9) where f(0) = 0: all relevance passes.
    """
    given = tensors_in((call.args, call.kwargs), [])
    if len(given) > 1:
        return _limited(call) if len(call.signals) > 1 or not call.is_signal(call["input"]) else _by_entry(call, bias)
    behind = call.signal(call["input"]).joined
    if behind is not None and behind.curved is not None and _at_origin(call).value == 0:
        return substitute(call.valued(), behind.curved(_of_one(call)), *behind.sources)
    return _secant(call, bias)


def _secant(call: Call, bias: str = "absorb") -> Tensor:
    x, held, value, origin = call["input"], call["input"].detach(), call.valued(), _at_origin(call)
    at_zero = origin.value
    pullback = _through_secant(_of_one(call), held, origin)
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


def _by_entry(call: Call, bias: str) -> Tensor:
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


def _of_one(call: Call) -> Callable[[Tensor], Tensor]:
    """The function of the input alone, which holds no signal."""
    function, rest = call.function, call.args[1:]
    named = {key: value for key, value in call.kwargs.items() if key != "input"}
    return lambda x: function(x, *rest, **named)


_BESIDE = 1e-30  # beside 0: f(x) / x is f'(0) there to rounding, and no float32 is lost below


class _Origin(NamedTuple):
    """A function of one entry at 0.

    Args:
        value: f(0). slope: f'(0). bend: f''(0); a derivative that is not finite is 0 (R is 0 there in any case).
        smooth: The slope is the same on either side, and not 0.
    """

    value: float
    slope: float
    bend: float
    smooth: bool = False


def _through_secant(function: Callable[[Tensor], Tensor], x: Tensor, origin: _Origin) -> Callable[[Tensor], Tensor]:
    """``m * (f(x) - f(0)) / x``, from x when it is needed: the map before often keeps x, and a factor would be one more."""
    at_zero, slope, bend, smooth = origin

    def formula(m: Tensor, x: Tensor, out: Tensor | None) -> Tensor:
        if smooth and not at_zero and x.dtype not in HALF:  # no 0 / 0: a comparison and a choice take twice f's time
            away = x.abs().clamp_(min=_BESIDE).copysign_(x)
            return torch.mul(m, function(away) / away, out=out)
        value, wide = widened(function(x)), widened(x)
        if not at_zero:
            return torch.mul(m, torch.where(wide == 0, slope, value / wide), out=out)
        # (f(x) - f(0)) / x loses digits near 0 as eps / |x|, its series f' + x f''/2 as x^2: they meet at eps^(1/3).
        close = wide.abs() <= torch.finfo(wide.dtype).eps ** (1 / 3)
        secant = (value - at_zero) / torch.where(close, 1, wide)
        return torch.mul(m, torch.where(close, slope + bend * wide / 2, secant), out=out)

    return lambda m: blockwise(formula, m, x).to(x.dtype)


def _valued(value: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    dtype = x.dtype  # the pullback must not hold x itself; where x was broadcast autograd adds up
    return substitute(value, lambda m: (m * factor).to(dtype), x)


def _at_origin(call: Call) -> _Origin:
    rest = call.args[1:]
    try:
        return _derivatives(call.function, rest, tuple(sorted(call.kwargs.items())))
    except TypeError:  # an argument that cannot be a key, such as a tensor: nothing is kept
        return _derivatives.__wrapped__(call.function, rest, tuple(call.kwargs.items()))


@functools.lru_cache(maxsize=256)
def _derivatives(function: Callable[..., Any], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> _Origin:
    named = {key: value for key, value in kwargs if key not in ("inplace", "input")}
    with torch.enable_grad():
        zero = torch.zeros(1, dtype=torch.float64, requires_grad=True, device="cpu")
        value = function(zero, *args, **named)
        if not value.requires_grad:
            return _Origin(float(value), 0.0, 0.0)
        (slope,) = torch.autograd.grad(value.sum(), zero)
    step = torch.tensor([1e-4, -1e-4], dtype=torch.float64, device="cpu")
    centre = value.detach()
    ahead, behind = function(step, *args, **named).double()
    bend = (ahead - 2 * centre + behind) / 1e-8
    finite = [number if math.isfinite(number) else 0.0 for number in map(float, (centre, slope, bend))]
    beside = torch.tensor([_BESIDE, -_BESIDE], dtype=torch.float64, device="cpu")
    sides = (function(beside, *args, **named).double() / beside).tolist()
    smooth = finite[1] != 0 and all(math.isclose(side, finite[1], rel_tol=1e-9) for side in sides)
    return _Origin(finite[0], finite[1], finite[2], smooth)


register_rule(
    "identity", "gelu", "silu", "hardswish", "mish", "elu", "celu", "selu", "tanh", "softsign", "tanhshrink",
    "hardshrink", "softshrink", "threshold", "sin", "tan", "atan", "erf", "expm1", "sinh", "asinh", "clamp", "hardtanh",
    "clamp_max", "nan_to_num", "round", "floor", "ceil", "trunc", "asin", "atanh", "square",
    "erfinv", "frac",
    port="keeps",
)(elementwise)  # fmt: skip
register_rule("identity", "relu6", "clamp_min", "sqrt", sign="nonnegative", port="keeps")(elementwise)
register_rule("identity", "sigmoid", "hardsigmoid", sign="nonnegative", port="keeps", gate=True)(elementwise)


@register_rule("gradient", "sigmoid", sign="nonnegative", gate=True)
def sigmoid_gradient(call: Call) -> Tensor:
    """A sigmoid by its derivative, for gates under the products' rule ``gradient``; what is lost is booked as ``other``."""
    value = call.native()
    x, held = call["input"].detach(), value.detach()
    call.absorb("other", lambda m: m * (held - x * held * (1 - held)))
    return value  # type: ignore[no-any-return]


register_rule(
    "identity", "exp", "softplus", "cosh", "exp2", "cos", "erfc", "acos", "sinc", "log_sigmoid", port="keeps"
)(elementwise)


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
        if observed() or (exponent > 0).any():  # a tracer cannot branch on it
            return _powers(call, exponent)
    call.constant = True
    return call.native()


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
