"""Activations, and other functions of one entry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.blockwise import blockwise, observed
from lrp_plugin.call import Call
from lrp_plugin.factors import widened
from lrp_plugin.primitives import scale, substitute
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import book_constant, distributed


@register_rule("native", "relu", sign="nonnegative", port="keeps", rectifies=True)
def relu(call: Call) -> Tensor:
    """ReLU: homogeneous of degree 1, native: the multiplier passes where the input is positive.

    Where the map before has seen to it, or the operation before knows what the two of them do together, its value may
    be written over its input as the model asked: fresh memory costs more than the arithmetic.
    """
    x, signal = call["input"], call.signal(call["input"])
    if signal.is_masked(x):
        return substitute(x.detach() if signal.rectified else torch.relu(x.detach()), lambda m: m.view_as(m), x)
    behind = signal.joined
    if behind is None:
        return call.native()  # type: ignore[no-any-return]
    overwrites = call.overwrites and not observed()
    value = torch.relu_(x.detach()) if overwrites else torch.relu(x.detach())
    return substitute(value, behind.rectified(value), *behind.sources)


@register_rule("native", "abs", sign="nonnegative", port="keeps")
def absolute(call: Call) -> Tensor:
    """Absolute value: homogeneous of degree 1, native."""
    return call.native()  # type: ignore[no-any-return]


def elementwise(call: Call, *, bias: str = "absorb") -> Tensor:
    """The secant from the origin: ``m * (f(x) - f(0)) / x``, f'(0) at x = 0; f(0) is booked as a constant.

    ``bias="distribute"`` hands f(0)'s relevance on to the entry of the same place (by its port).

    The identity rule of AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, eq. 9) where f(0) = 0: all relevance passes.
    """
    x, held = call["input"], call["input"].detach()
    with torch.no_grad():
        value = call.native()
        origin = _at_origin(call)
    at_zero = origin[0]
    pullback = _through_secant(_of_one(call), held, origin)
    if bias == "distribute" and at_zero:
        return distributed(call, value, pullback, torch.full_like(held, at_zero))
    if call.row is not None and at_zero:
        book_constant(call, torch.full_like(widened(held), at_zero))
    return substitute(value, pullback, x)


def _of_one(call: Call) -> Callable[[Tensor], Tensor]:
    """The function of the input alone, which holds no signal."""
    function, rest = call.function, call.args[1:]
    named = {key: value for key, value in call.kwargs.items() if key != "input"}
    return lambda x: function(x, *rest, **named)


def _through_secant(
    function: Callable[[Tensor], Tensor], x: Tensor, origin: tuple[float, float, float]
) -> Callable[[Tensor], Tensor]:
    """``m * (f(x) - f(0)) / x``, from x when it is needed: the map before often keeps x, and a factor would be one more."""
    at_zero, slope, bend = origin

    def formula(m: Tensor, x: Tensor, out: Tensor | None) -> Tensor:
        value, wide = widened(function(x)), widened(x)
        if not at_zero:
            return torch.mul(m, torch.where(wide == 0, slope, value / wide), out=out)
        # (f(x) - f(0)) / x loses digits near 0 as eps / |x|, its series f' + x f''/2 as x^2: they meet at eps^(1/3).
        close = wide.abs() <= torch.finfo(wide.dtype).eps ** (1 / 3)
        secant = (value - at_zero) / torch.where(close, 1, wide)
        return torch.mul(m, torch.where(close, slope + bend * wide / 2, secant), out=out)

    return lambda m: blockwise(formula, m, x).to(x.dtype)


def _valued(value: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    dtype = x.dtype  # the pullback must not hold x itself
    return substitute(value, lambda m: (m * factor).to(dtype), x)


def _at_origin(call: Call) -> tuple[float, float, float]:
    """f(0), f'(0) and f''(0), 0 where a derivative is not finite (R is 0 there in any case)."""
    rest = call.args[1:]
    try:
        return _derivatives(call.function, rest, tuple(sorted(call.kwargs.items())))
    except TypeError:  # an argument that cannot be a key, such as a tensor: nothing is kept
        return _derivatives.__wrapped__(call.function, rest, tuple(call.kwargs.items()))


@functools.lru_cache(maxsize=256)
def _derivatives(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]
) -> tuple[float, float, float]:
    named = {key: value for key, value in kwargs if key not in ("inplace", "input")}
    with torch.enable_grad():
        zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        value = function(zero, *args, **named)
        if not value.requires_grad:
            return float(value), 0.0, 0.0
        (slope,) = torch.autograd.grad(value.sum(), zero)
    step = torch.tensor([1e-4, -1e-4], dtype=torch.float64)
    centre = value.detach()
    ahead, behind = function(step, *args, **named).double()
    bend = (ahead - 2 * centre + behind) / 1e-8
    numbers = [float(value), float(slope), float(bend)]
    return tuple(n if torch.isfinite(torch.tensor(n)) else 0.0 for n in numbers)  # type: ignore[return-value]


register_rule(
    "identity", "gelu", "silu", "hardswish", "mish", "elu", "celu", "selu", "tanh", "softsign", "tanhshrink",
    "hardshrink", "softshrink", "threshold", "sin", "tan", "atan", "erf", "expm1", "sinh", "asinh", "clamp", "hardtanh",
    "clamp_max", "nan_to_num", "round", "floor", "ceil", "trunc", "asin", "atanh", "square",
    port="keeps",
)(elementwise)  # fmt: skip
register_rule("identity", "relu6", "clamp_min", "sqrt", sign="nonnegative", port="keeps")(elementwise)
register_rule("identity", "sigmoid", "hardsigmoid", sign="nonnegative", port="keeps", gate=True)(elementwise)
register_rule("identity", "exp", "softplus", "cosh", "exp2", "cos", "erfc", port="keeps")(elementwise)


@register_rule("identity", "pow", "float_power", port="keeps")
def power(call: Call) -> Any:
    """A power: ``m * x ** (p - 1)`` for p >= 1; a negative power is a divisor and carries no relevance."""
    base, exponent = (call["input"], call.get("exponent", call.args[1] if len(call.args) > 1 else None))
    if not call.is_signal(base):
        return elementwise_of(call, exponent)
    if isinstance(exponent, (int, float)) and exponent > 0:
        return elementwise(call)
    call.constant = True
    return call.native()


def elementwise_of(call: Call, exponent: Tensor) -> Any:
    """``c ** x``: the secant in the exponent."""
    x = exponent
    with torch.no_grad():
        value, constant = call.native(), call.at_zero()
        wide = widened(x)
        factor = torch.where(wide == 0, 0, (value - constant) / torch.where(wide == 0, 1, wide))
    book_constant(call, constant)
    return _valued(value, x, factor)


@register_rule("constant", "rsqrt", "reciprocal", "sign", "detach", "std_mean", "var_mean")
def held_constant(call: Call) -> Any:
    """A divisor or normalizer: it is held constant and carries no relevance (Ali et al. 2022, arXiv 2202.07304)."""
    call.constant = True
    return call.native()


@register_rule("native", "std")
def deviation(call: Call) -> Any:
    """A standard deviation: homogeneous of degree 1, native."""
    return call.native()


@register_rule("identity", "var")
def variance(call: Call) -> Any:
    """A variance: homogeneous of degree 2, so half its gradient conserves (Euler's theorem)."""
    return scale(call.native(), 0.5)


@register_rule("gradient_softmax", "softmax", "softmin", sign="nonnegative", gate=True)
def softmax(call: Call) -> Tensor:
    """Softmax by its own gradient: AttnLRP, Proposition 3.1 (Achtibat et al. 2024, arXiv 2402.05602).

    ``R_i = x_i (m_i s_i - s_i sum_j m_j s_j)``; the second-order part that is lost is booked as ``other``.
    """
    x, value = call["input"], call.native()
    if call.row is not None:
        held, s = x.detach(), value.detach()
        dim = call.get("dim", -1)
        dim = -1 if dim is None else dim
        finite = torch.where(torch.isfinite(held), held, 0)
        call.absorb("other", lambda m: (s * m).sum() - (finite * s * (m - (s * m).sum(dim, keepdim=True))).sum())
    return value  # type: ignore[no-any-return]


@register_rule("identity", "glu")
def gated_linear_unit(call: Call) -> Tensor:
    """GLU, ``a * sigmoid(b)``: each factor gets half, as in any product of two signals."""
    signal, gate = call["input"].chunk(2, dim=call.get("dim", -1))
    with torch.no_grad():
        opened = torch.sigmoid(gate)
        value = signal * opened
        wide = widened(gate)
        near = wide.abs() <= torch.finfo(wide.dtype).eps ** (1 / 3)
        secant = torch.where(near, 0.25, (widened(opened) - 0.5) / torch.where(near, 1, wide))
    if call.row is not None:
        held = signal.detach()
        call.absorb("constant", lambda m: 0.25 * m * held)
    kept = signal.detach()
    return substitute(value, lambda m: (m * opened / 2, (m * kept / 2 * secant).to(m.dtype)), signal, gate)


def _gated(call: Call, gate: Callable[[Tensor], Tensor]) -> Tensor:
    x = call["input"]
    value = call.native().detach()
    held = x.detach()
    call.absorb("other", lambda m: m * value - gate(m) * held)
    return substitute(value, gate, x)


@register_rule("guided_backprop", "relu", sign="nonnegative", port="keeps")
def guided_backprop(call: Call) -> Tensor:
    """Guided backprop: the gradient passes where both it and the input are positive.

    ``m_in = m (m > 0) (x > 0)``: Springenberg et al. 2015 (arXiv 1412.6806), section 3.4. For comparison; it conserves
    nothing, the ledger books what it drops as ``other``.
    """
    active = call["input"].detach() > 0
    return _gated(call, lambda m: m.clamp(min=0) * active)


@register_rule("deconvnet", "relu", sign="nonnegative", port="keeps")
def deconvnet(call: Call) -> Tensor:
    """Deconvnet: the gradient passes where it is positive, whatever the input.

    ``m_in = m (m > 0)``: Zeiler and Fergus 2014 (arXiv 1311.2901), section 2.1. For comparison, as guided backprop.
    """
    return _gated(call, lambda m: m.clamp(min=0))
