"""alpha-beta and gamma with one tensor kept for the backward pass, instead of two factors, or a factor and a sign.

With p = z+ and o = -z- = p - z the two sides' denominators differ by z alone: for ``s = alpha z / (p + d)`` (d the
stabilizer) ``z / (o + d) = s / (alpha - s)``, so s, written over p, tells both factors of alpha-beta. That holds where
neither side is empty; a map with an empty unit is left to the rule's general form. gamma's factor is never negative:
kept with the sign of z it tells which side is favoured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.fast.blockwise import blockwise, pieces
from lrp_plugin.fast.sides import Sides, empty_units
from lrp_plugin.torch_private import keeps_graph, observed

_WIDE = (torch.float32, torch.float64)
Products = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def compact_alphabeta(sides: Sides, alpha: float, beta: float, stabilizer: float) -> Result | None:
    """z, its relevance ``alpha`` for the positive side and ``-beta`` for the negative one; shape as z.

    ``R_i = sum_j (alpha (x_i w_ij)+ / (p_j + d) + beta (x_i w_ij)- / (o_j + d)) z_j m_j``: Bach et al. 2015, eq. 60.

    Args:
        sides: The map's.
        alpha: Weight of the positive side. beta: Of the negative one.
        stabilizer: d, added to the denominators.

    Returns:
        None where the general form is needed: a unit has one side only, a port asks for the carriers, a tracer or another
        device than the CPU would wait for the answer.
    """
    f = sides.f
    if not _is_plain(sides) or f.z.device.type != "cpu" or observed():
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
    upward = sides.gradient(sides.positive_weight())
    downward = sides.gradient(f.weights(f"negative*{beta}", lambda w: w.clamp(max=0).mul_(beta)))
    if upward is None or downward is None:
        return None
    positive = sides.positive_value()
    if _has_empty_side(positive, f.z, sides.rectified):
        return None
    with torch.no_grad():
        kept = _over(positive, f.z, bound, 1 / alpha)
    both = _both_ways(kept, partial(_of_sides, alpha))

    def pullback(m: Tensor) -> Tensor:
        first, second = both(m)
        received = upward(first)
        return received + downward(second) if observed() else received.add_(downward(second))

    return _taken(sides, pullback, f.x)


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

    def formula(total: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
        size = torch.add(z.abs(), total, alpha=gamma / 2 / lift).add_(bound)
        return torch.div(z, size, out=out)

    with torch.no_grad():
        total = absolute.detach()
        kept = blockwise(formula, total, f.z, out=None if observed() else total)
    return _taken(sides, _both_ways(kept, partial(_of_own_sign, gamma / 2 / lift)), whole, absolute)


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

    def pullback(m: Tensor) -> tuple[Tensor, Tensor]:
        if observed():  # a function transform's multiplier has more dimensions than it shows
            return products(m, kept, None, None)
        second = torch.empty_like(kept) if keeps_graph() else kept
        return blockwise(lambda m, s, second, out: products(m, s, second, out)[0], m, kept, second), second

    return pullback


def _of_sides(alpha: float, m: Tensor, s: Tensor, second: Tensor | None, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """``m s``, and ``m z / (o + d)``."""
    rest = torch.rsub(s, alpha)
    first = torch.mul(m, s, out=out)
    return first, torch.div(first, rest, out=second)


def _of_halves(
    alpha: float, beta: float, m: Tensor, s: Tensor, second: Tensor | None, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """With p = (A + z) / 2 and o = (A - z) / 2: what z receives, and what A does."""
    upper, lower = _of_sides(alpha, m, s, None, None)
    return torch.add(upper, lower, alpha=beta, out=out).mul_(0.5), torch.sub(upper, lower, alpha=beta, out=second).mul_(
        0.5
    )


def _of_own_sign(part: float, m: Tensor, t: Tensor, second: Tensor | None, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """``m |t|`` for z, and ``part m t`` for A."""
    first = torch.abs(t) if out is None else torch.abs(t, out=out)
    return first.mul_(m), torch.mul(m, t, out=second).mul_(part)
