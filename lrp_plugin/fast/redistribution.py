"""Relevance shared out among carriers of which something is known, with one factor each kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import threshold

from lrp_plugin.algebra.formulas import HALF, reciprocal, widened
from lrp_plugin.fast.blockwise import blockwise
from lrp_plugin.torch_private import keeps_graph, observed, plain


class KnownCarrier(NamedTuple):
    """A `Carrier` of which more is known: the more, the fewer kernels its factor takes.

    Args:
        value: The carrier, of the map's output shape; its own graph leads to the input (or to the input's port).
        share: The part of the relevance it carries: a number, or a tensor of the output's shape.
        sign: 1 where ``value`` is known to hold no negative entry, -1 no positive one, 0 where neither is known.
        side: 1 for a carrier of those units alone whose pre-activation is >= 0, -1 of the others, 0 of all.
        partner: What has the rest of the share, >= 0; where it is zero (it cannot take it up) the share is 1.
        owned: Nobody reads ``value`` again: the factor may be written over it.
        covers: The map's value is >= 0, and 0 wherever ``value`` is: nothing is divided by zero but zero.
    """

    value: Tensor
    share: float | Tensor = 1.0
    sign: int = 0
    side: int = 0
    partner: Tensor | None = None
    owned: bool = False
    covers: bool = False

    def plain(self, value: Tensor) -> KnownCarrier:
        """The same carrier of a map with that ``value``, side and partner written out as shares."""
        share: float | Tensor = self.share
        if self.partner is not None:
            empty, alone = self.value.detach() == 0, self.partner.detach() == 0
            spread = torch.where(alone, torch.ones_like(value), torch.full_like(value, float(share)))
            share = torch.where(empty & ~alone, 0, torch.where(empty & alone, share, spread))
        if self.side:
            share = share * ((value >= 0) == (self.side > 0)).to(value.dtype)
        return KnownCarrier(self.value, share, self.sign)


class _Redistribute(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: list[Tensor], *carriers: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        ctx.dtypes = [carrier.dtype for carrier in carriers]
        return plain(value)

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        sent = [_product(multiplier, factor).to(dtype) for factor, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return (None, None, *sent)


def _product(multiplier: Tensor, factor: Tensor) -> Tensor:
    """``multiplier * factor``, in the factor's memory in the last backward pass: it is no one else's."""
    last = not keeps_graph() and not observed() and multiplier.shape == factor.shape
    return factor.mul_(multiplier) if last else multiplier * factor


def redistribute(value: Tensor, carriers: Sequence[KnownCarrier], stabilizer: float | Tensor) -> Tensor:
    """``value`` in the forward pass; backward, carrier i receives ``share_i * m * value / stabilize(carrier_i)``."""
    with torch.no_grad():
        factors = [factor(value.detach(), carrier, stabilizer) for carrier in carriers]
    return _Redistribute.apply(value.detach(), factors, *(c.value for c in carriers))  # type: ignore[no-any-return]


def factor(value: Tensor, carrier: KnownCarrier, stabilizer: float | Tensor) -> Tensor:
    """``share * value / stabilize(carrier)``, 0 where the carrier is 0: the one tensor kept for the backward pass."""
    divisor = _unexpanded(carrier.value.detach())
    if isinstance(stabilizer, Tensor):
        return widened(value) * carrier.plain(value).share * reciprocal(widened(divisor), stabilizer)
    shares = [part.detach() for part in (carrier.share, carrier.partner) if isinstance(part, Tensor)]
    form = Form(
        None if isinstance(carrier.share, Tensor) else carrier.share, carrier.sign, carrier.side,
        carrier.partner is not None, carrier.covers, stabilizer,
    )  # fmt: skip
    owned = carrier.owned and carrier.value.dtype == value.dtype not in HALF and not observed()
    over = divisor if owned and divisor.shape == value.shape else None
    return blockwise(partial(_factor, form), value, divisor, *shares, out=over)


class Form(NamedTuple):
    """What is known of a carrier before its entries are.

    Args:
        share: Its share, or None where that is a tensor, which is given then.
        sign, side, covers: Of the `KnownCarrier`. partnered: Its partner is given.
        stabilizer: Of the rule.
    """

    share: float | None
    sign: int
    side: int
    partnered: bool
    covers: bool
    stabilizer: float


def _factor(form: Form, v: Tensor, c: Tensor, *rest: Tensor, out: Tensor | None) -> Tensor:
    v, c, remaining = widened(v), widened(c), [widened(one) for one in rest]
    share = remaining.pop(0) if form.share is None else form.share
    if form.side:
        v = v.clamp(min=0) if form.side > 0 else v.clamp(max=0)
    result = _divided(v, c, form, out)
    if form.partnered:  # 1 + (share - 1) |sign(partner)|: the share, and 1 where the partner is zero
        return result.addcmul_(result, remaining.pop(0).sign(), value=float(share) - 1)
    return result if isinstance(share, float) and share == 1 else result.mul_(share)


def _unexpanded(tensor: Tensor) -> Tensor:
    """The same values before they were expanded: dimensions that repeat one entry hold it once (flat's channels)."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride())):
        tensor = tensor.narrow(dim, 0, 1) if size > 1 and stride == 0 else tensor
    return tensor


def _divided(value: Tensor, divisor: Tensor, form: Form, out: Tensor | None) -> Tensor:
    """``value / stabilize(divisor)``, 0 where the divisor is 0: fewer kernels the more is known of the form.

    ``out`` is None, fresh memory, or the divisor's own.
    """
    if not form.sign:
        inverse = torch.add(divisor, divisor.sign(), alpha=form.stabilizer).reciprocal_()
        return torch.mul(value, inverse.nan_to_num_(nan=torch.nan, posinf=0.0, neginf=0.0), out=out)
    over = out is not None and out.data_ptr() == divisor.data_ptr()
    size = divisor if form.sign > 0 else divisor.neg_() if over else -divisor
    if form.covers and form.stabilizer > 0:
        bound = size.add_(form.stabilizer) if over else size + form.stabilizer
    else:
        bound = threshold(size, 0.0, torch.inf, inplace=over).add_(form.stabilizer)
    return torch.div(value, bound if form.sign > 0 else bound.neg_(), out=out)
