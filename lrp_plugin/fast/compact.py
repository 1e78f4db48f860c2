"""alpha-beta and gamma with one tensor kept for the backward pass, instead of two factors, or a factor and a sign.

With p = z+ and o = -z- = p - z the two sides' denominators differ by z alone: for ``s = alpha z / (p + d)`` (d the
stabilizer) ``z / (o + d) = s / (alpha - s)``, so s, written over p, tells both factors of alpha-beta. That holds where
neither side is empty; a map with an empty unit is left to the rule's general form. gamma's factor is never negative:
kept with the sign of z it tells which side is favoured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.fast import kernels
from lrp_plugin.fast.blockwise import blockwise, both, pair, pieces
from lrp_plugin.fast.sides import Sides, empty_units
from lrp_plugin.torch_private import keeps_graph, observed

_WIDE = (torch.float32, torch.float64)
Products = Callable[..., tuple[Tensor, Tensor]]


def compact_alphabeta(sides: Sides, alpha: float, beta: float, stabilizer: float) -> Result | None:
    """z, its relevance ``alpha`` for the positive side and ``-beta`` for the negative one; shape as z.

    ``R_i = sum_j (alpha (x_i w_ij)+ / (p_j + d) + beta (x_i w_ij)- / (o_j + d)) z_j m_j``: Bach et al. 2015, eq. 60.

    Args:
        sides: The map's.
        alpha: Weight of the positive side. beta: Of the negative one.
        stabilizer: d, added to the denominators.

    Returns:
        None where the general form is needed: a unit has one side only, a port asks for the carriers, a tracer or a device
        without kernels of its own (`kernels`, which see to such units) would wait for the answer.
    """
    f = sides.f
    if not _is_plain(sides) or observed():
        return None
    if kernels.serves((f.z,)):
        return _in_one_kernel(sides, _Sides(alpha, beta, stabilizer, empty_units(f.z.dtype)))
    if f.z.device.type != "cpu":
        return None
    bound = max(stabilizer, torch.finfo(f.z.dtype).tiny) / alpha
    if not f.nonnegative:
        whole, absolute = sides.signed()
        if _has_empty_half(absolute.detach(), f.z):
            return None
        with torch.no_grad():
            doubled = absolute.detach().add_(f.z)
            kept = _over(doubled, f.z, bound, 0.5 / alpha)
        return _taken(sides, _both_ways(kept, partial(_of_halves, alpha, beta)), whole, absolute)
    gradient = _of_both(sides, f.weights(f"negative*{beta}", lambda w: w.clamp(max=0).mul_(beta)))
    if gradient is None:
        return None
    positive = sides.positive_value()
    if _has_empty_side(positive, f.z, sides.rectified):
        return None
    with torch.no_grad():
        kept = _over(positive, f.z, bound, 1 / alpha)
    sent = _both_ways(kept, partial(_of_sides, alpha))
    return _taken(sides, lambda m: gradient(*sent(m)), f.x)


def _of_both(sides: Sides, lower: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """From the multipliers of both sides of a non-negative input's map to the input's; ``lower``: the negative one's weight."""
    upward, downward = sides.gradient(sides.positive_weight()), sides.gradient(lower)
    if upward is None or downward is None:
        return None

    def gradient(first: Tensor, second: Tensor) -> Tensor:
        received = upward(first)
        return received + downward(second) if observed() else received.add_(downward(second))

    return gradient


class _Sides(NamedTuple):
    """alpha-beta's numbers; ``ulps``: the part of a sum of magnitudes that rounding alone may have filled."""

    alpha: float
    beta: float
    stabilizer: float
    ulps: float


def _in_one_kernel(sides: Sides, form: _Sides) -> Result | None:
    """Both factors from the values themselves when they are needed: nothing is made in the forward pass, or kept for it."""
    f = sides.f
    if not f.nonnegative:
        whole, absolute = sides.signed()
        held = absolute.detach()
        return _taken(sides, lambda m: both(partial(_by_halves, form), m, held, f.z), whole, absolute)
    gradient = _of_both(sides, f.weights("opposed", lambda w: (-w).clamp(min=0)))
    if gradient is None:
        return None
    positive = sides.positive_value()
    return _taken(sides, lambda m: gradient(*both(partial(_by_parts, form), m, positive, f.z)), f.x)


def _by_parts(form: _Sides, m: Tensor, p: Tensor, z: Tensor, out: None = None) -> tuple[Tensor, Tensor]:
    """What the positive part p receives, and the negative one's magnitude ``p - z``."""
    left = p - z
    return _shared(form, m, p, torch.where(left > form.ulps * p, left, 0), z)


def _by_halves(form: _Sides, m: Tensor, total: Tensor, z: Tensor, out: None = None) -> tuple[Tensor, Tensor]:
    """What z receives, and ``A``, whose halves ``(A + z) / 2`` and ``(A - z) / 2`` are the parts."""
    p, o = ((total + side) * 0.5 for side in (z, -z))
    bound = form.ulps * total
    first, second = _shared(form, m, torch.where(p > bound, p, 0), torch.where(o > bound, o, 0), z)
    return (first - second) * 0.5, (first + second) * 0.5


def _shared(form: _Sides, m: Tensor, p: Tensor, o: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """``alpha m z / (p + d)`` and ``-beta m z / (o + d)``; a part alone has all of it, an empty one nothing."""
    received = m * z
    upper = torch.where(p > 0, received / (p + form.stabilizer), 0) * torch.where(o > 0, form.alpha, 1.0)
    lower = torch.where(o > 0, received / (o + form.stabilizer), 0) * torch.where(p > 0, -form.beta, 1.0)
    return upper, lower


def compact_gamma(sides: Sides, gamma: float, stabilizer: float) -> Result | None:
    """z of a signed input, contributions of its own sign weighing ``1 + gamma``; shape as z.

    ``z + gamma (z + s A) / 2 = s ((1 + gamma / 2) |z| + gamma A / 2)`` with s the sign of z and ``A = f(|x|, |W|, |b|)``:
    the generalized gamma rule of Andéol et al. 2021 (arXiv 2106.13472).

    Args:
        sides: The map's.
        gamma: How much the favoured side gains.
        stabilizer: Added to the denominator.

    Returns:
        None where a port asks for the carrier.
    """
    if not _is_plain(sides):
        return None
    f, (whole, absolute) = sides.f, sides.signed()
    lift = 1 + gamma / 2
    bound = max(stabilizer, torch.finfo(f.z.dtype).tiny) / lift

    with torch.no_grad():
        total = absolute.detach()
        kept = blockwise(partial(_over_own, gamma / 2 / lift, bound), total, f.z, out=None if observed() else total)
    return _taken(sides, _both_ways(kept, partial(_of_own_sign, gamma / 2 / lift)), whole, absolute)


def _over_own(part: float, bound: float, total: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
    return torch.div(z, torch.add(z.abs(), total, alpha=part).add_(bound), out=out)


def _is_plain(sides: Sides) -> bool:
    """Whether nobody asks for the carriers (a port), and the memory of what the map makes is its own."""
    return sides.ignored is None and not sides.f.call.ports and sides.owned and sides.f.z.dtype in _WIDE


def _taken(sides: Sides, pullback: Callable[[Tensor], Any], *sources: Tensor) -> Result:
    """z; entries that a ReLU sets to 0 have received a factor of 0."""
    return Result(substitute(sides.f.z, pullback, *sources), free=True, masked=sides.rectified)


def _has_empty_side(p: Tensor, z: Tensor, rectified: bool) -> bool:
    """Whether p, or p - z, is empty somewhere; of a rectified map only where its value is not 0."""
    tolerance = empty_units(p.dtype)
    for positive, value in pieces(p, z):
        # p - z > tolerance * z, exact where p is near z; where both are 0 there is nothing to share out.
        if torch.sub(positive, value, alpha=1 + tolerance).min() < 0 or (not rectified and positive.min() <= 0):
            return True
    return False


def _has_empty_half(total: Tensor, z: Tensor) -> bool:
    """Whether ``(A + z) / 2`` or ``(A - z) / 2`` is empty somewhere."""
    tolerance = 2 * empty_units(total.dtype)
    return any(bool(torch.sub(a, v.abs(), alpha=1 + tolerance).min() < 0) for a, v in pieces(total, z))


def _over(part: Tensor, z: Tensor, bound: float, weight: float) -> Tensor:
    """``z / (weight part + bound)``, in the part's memory."""
    return torch.div(z, torch.add(part.new_tensor(bound), part, alpha=weight, out=part), out=part)


def _both_ways(kept: Tensor, products: Products) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """From the value's multiplier to the two carriers', one of them over what was kept in the last backward pass."""
    return lambda m: pair(products, m, kept, free=not keeps_graph())


def _of_sides(
    alpha: float, m: Tensor, s: Tensor, second: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``m s``, and ``m z / (o + d)``."""
    rest = torch.rsub(s, alpha)
    first = torch.mul(m, s, out=out)
    return first, torch.div(first, rest, out=second)


def _of_halves(
    alpha: float, beta: float, m: Tensor, s: Tensor, second: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """With p = (A + z) / 2 and o = (A - z) / 2: what z receives, and what A does."""
    upper, lower = _of_sides(alpha, m, s, None, None)
    return torch.add(upper, lower, alpha=beta, out=out).mul_(0.5), torch.sub(upper, lower, alpha=beta, out=second).mul_(
        0.5
    )


def _of_own_sign(
    part: float, m: Tensor, t: Tensor, second: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``m |t|`` for z, and ``part m t`` for A."""
    first = torch.abs(t) if out is None else torch.abs(t, out=out)
    return first.mul_(m), torch.mul(m, t, out=second).mul_(part)
