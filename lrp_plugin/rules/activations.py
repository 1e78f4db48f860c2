"""ReLU, softmax, gated units, and what is held constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.primitives import scale, substitute
from lrp_plugin.algebra.result import held
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import book_the_rest


@register_rule("native", "relu", sign="nonnegative", port="keeps", form="rectifier")
def relu(call: Call) -> Tensor:
    """ReLU: homogeneous of degree 1, native: the multiplier passes where the input is positive."""
    return call.native()  # type: ignore[no-any-return]


@register_rule("native", "abs", sign="nonnegative", port="keeps")
def absolute(call: Call) -> Tensor:
    """Absolute value: homogeneous of degree 1, native."""
    return call.native()  # type: ignore[no-any-return]


@register_rule("constant", "rsqrt", "reciprocal", "sign", "detach", "sgn", "affine_grid_generator")
def held_constant(call: Call) -> Any:
    """A divisor, normalizer or grid of places: held constant, carries no relevance (Ali et al. 2022, arXiv 2202.07304)."""
    return held(call.native())


@register_rule("constant", "heaviside")
def step(call: Call) -> Any:
    """A step: constant but where it jumps; torch knows no gradient."""
    return held(call.valued())


@register_rule("native", "std")
def deviation(call: Call) -> Any:
    """A standard deviation: homogeneous of degree 1, native."""
    return call.native()


@register_rule("identity", "var", "cov")
def variance(call: Call) -> Any:
    """A variance or covariance: homogeneous of degree 2, so half its gradient conserves (Euler's theorem)."""
    return scale(call.native(), 0.5)


@register_rule("gradient_softmax", "softmax", "softmin", sign="nonnegative", gate=True)
def softmax(call: Call) -> Tensor:
    """Softmax by its own gradient: AttnLRP, Proposition 3.1 (Achtibat et al. 2024, arXiv 2402.05602).

    ``R_i = x_i (m_i s_i - s_i sum_j m_j s_j)``; the second-order part that is lost is booked as ``other``.
    """
    x, value = call["input"], call.native()
    if "dim" not in call.names:  # written by hand, over what is known to itself alone
        book_the_rest(call, value, "other")
    elif call.row is not None:
        held, s = x.detach(), value.detach()
        dim = call.get("dim", -1)
        dim = -1 if dim is None else dim
        finite = torch.where(torch.isfinite(held), held, 0) * (-1 if call.operation == "softmin" else 1)
        call.absorb("other", lambda m: (s * m).sum() - (finite * s * (m - (s * m).sum(dim, keepdim=True))).sum())
    return value  # type: ignore[no-any-return]


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
