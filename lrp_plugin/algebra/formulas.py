"""The factors by which a multiplier changes on its way back: elementwise formulas, without a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import threshold

from lrp_plugin.algebra.blockwise import blockwise, observed

HALF = (torch.float16, torch.bfloat16)


class Carrier(NamedTuple):
    """One differentiable expression that carries a share of a map's relevance to the map's input.

    Args:
        value: The carrier, of the map's output shape; its own graph leads to the input (or to the input's port).
        share: The part of the relevance it carries: a number, or a tensor of the output's shape.
        bias: The part of ``value`` that comes from bias, broadcastable to it; ``None`` where there is none.
        sign: 1 where ``value`` is known to hold no negative entry, -1 no positive one, 0 where neither is known.
        side: 1 for a carrier of those units alone whose pre-activation is >= 0, -1 of the others, 0 of all.
        partner: What has the rest of the share, >= 0; where it is zero (it cannot take it up) the share is 1.
        owned: Nobody reads ``value`` again: the factor may be written over it.
        covers: The map's value is >= 0, and 0 wherever ``value`` is: nothing is divided by zero but zero.
    """

    value: Tensor
    share: float | Tensor = 1.0
    bias: Tensor | None = None
    sign: int = 0
    side: int = 0
    partner: Tensor | None = None
    owned: bool = False
    covers: bool = False

    def plain(self, value: Tensor) -> Carrier:
        """The same carrier of a map with that ``value``, side and partner written out as shares."""
        share: float | Tensor = self.share
        if self.partner is not None:
            empty, alone = self.value.detach() == 0, self.partner.detach() == 0
            spread = torch.where(alone, torch.ones_like(value), torch.full_like(value, float(share)))
            share = torch.where(empty & ~alone, 0, torch.where(empty & alone, share, spread))
        if self.side:
            share = share * ((value >= 0) == (self.side > 0)).to(value.dtype)
        return Carrier(self.value, share, self.bias, self.sign)


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


def damped(multiplier: Tensor, preactivation: Tensor, epsilon: float, owned: bool = False) -> Tensor:
    """``m * |z| / (|z| + epsilon)``, the epsilon rule's multiplier, of ``multiplier``'s shape and dtype.

    Args:
        multiplier: m. preactivation: z, of its shape.
        epsilon: In units of z.
        owned: Nobody reads the multiplier again: the result may be written over it.
    """

    def formula(m: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
        # m - eps * m / (|z| + eps): three kernels, two of them in place.
        return torch.addcdiv(m, m, z.abs().add_(epsilon), value=-epsilon, out=out)

    wide = widened(multiplier)
    own = wide if owned and not observed() and wide.shape == preactivation.shape else None
    return blockwise(formula, wide, widened(preactivation), out=own).to(multiplier.dtype)


def damped_behind_relu(multiplier: Tensor, rectified: Tensor, epsilon: float) -> Tensor:
    """What `damped` makes of a ReLU's multiplier: ``m * y / (y + epsilon)`` with y the ReLU's value, 0 where y is 0."""

    def formula(m: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
        return torch.mul(m, y, out=out).div_(y + epsilon)  # divided first, m / epsilon might overflow, and 0 inf is NaN

    return blockwise(formula, widened(multiplier), widened(rectified)).to(multiplier.dtype)


def damped_secant(f: Callable[[Tensor], Tensor], epsilon: float, multiplier: Tensor, preactivation: Tensor) -> Tensor:
    """What `damped` makes of f(z)'s multiplier behind f's secant from the origin.

    ``m * f(z) / z * |z| / (|z| + epsilon) = m * f(z) / (z + epsilon sign(z))``: one division, of no zero by zero.

    Args:
        f: A function of one entry, f(0) = 0.
        epsilon: In units of z, > 0. multiplier: m. preactivation: z, of its shape.
    """

    def formula(m: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
        wide = widened(z)
        return torch.div(widened(m) * widened(f(z)), wide.abs().add_(epsilon).copysign_(wide), out=out)

    return blockwise(formula, multiplier, preactivation).to(multiplier.dtype)


def where_positive(tensor: Tensor, condition: Tensor, out: Tensor | None = None) -> Tensor:
    """``tensor`` where ``condition`` is positive, else 0, in one kernel: it is a ReLU's backward; memory of its own."""
    if out is None:
        return torch.ops.aten.threshold_backward(tensor, condition, 0)  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward.grad_input(tensor, condition, 0, grad_input=out)  # type: ignore[no-any-return]


def factor(value: Tensor, carrier: Carrier, stabilizer: float | Tensor) -> Tensor:
    """``share * value / stabilize(carrier)``, 0 where the carrier is 0: the one tensor kept for the backward pass."""
    wide, divisor = widened(value), widened(_unexpanded(carrier.value.detach()))
    if isinstance(stabilizer, Tensor):
        share = carrier.plain(value).share
        return wide * share * reciprocal(divisor, stabilizer)
    optional = [None if part is None else widened(part.detach()) for part in (_tensor(carrier.share), carrier.partner)]

    def formula(v: Tensor, c: Tensor, *rest: Tensor, out: Tensor | None) -> Tensor:
        remaining = list(rest)
        share = carrier.share if optional[0] is None else remaining.pop(0)
        if carrier.side:
            v = v.clamp(min=0) if carrier.side > 0 else v.clamp(max=0)
        result = _divided(v, c, carrier, stabilizer, out)
        if optional[1] is not None:  # 1 + (share - 1) |sign(partner)|: the share, and 1 where the partner is zero
            return result.addcmul_(result, remaining.pop(0).sign(), value=float(share) - 1)
        return result if isinstance(share, float) and share == 1 else result.mul_(share)

    tensors = wide, divisor, *(part for part in optional if part is not None)
    if divisor.shape != wide.shape:
        return formula(*tensors, out=None)
    owned = carrier.owned and divisor.dtype == carrier.value.dtype == wide.dtype and not observed()
    return blockwise(formula, *tensors, out=divisor if owned else None)


def _unexpanded(tensor: Tensor) -> Tensor:
    """The same values before they were expanded: dimensions that repeat one entry hold it once (flat's channels)."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride())):
        tensor = tensor.narrow(dim, 0, 1) if size > 1 and stride == 0 else tensor
    return tensor


def _tensor(share: float | Tensor) -> Tensor | None:
    return share if isinstance(share, Tensor) else None


def _divided(value: Tensor, divisor: Tensor, carrier: Carrier, stabilizer: float, out: Tensor | None) -> Tensor:
    """``value / stabilize(divisor)``, 0 where the divisor is 0: fewer kernels the more is known of the carrier.

    ``out`` is None, fresh memory, or the divisor's own.
    """
    if not carrier.sign:
        inverse = torch.add(divisor, divisor.sign(), alpha=stabilizer).reciprocal_()
        return torch.mul(value, inverse.nan_to_num_(nan=torch.nan, posinf=0.0, neginf=0.0), out=out)
    over = out is not None and out.data_ptr() == divisor.data_ptr()
    size = divisor if carrier.sign > 0 else divisor.neg_() if over else -divisor
    if carrier.covers and stabilizer > 0:
        bound = size.add_(stabilizer) if over else size + stabilizer
    else:
        bound = threshold(size, 0.0, torch.inf, inplace=over).add_(stabilizer)
    return torch.div(value, bound if carrier.sign > 0 else bound.neg_(), out=out)
