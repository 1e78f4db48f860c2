"""Alpha-beta on a non-negative input, with one tensor kept for the backward pass instead of two factors.

With p = z+ and o = -z- = p - z the two sides' denominators differ by z alone: for ``s = alpha z / (p + d)`` (d the
stabilizer) ``z / (o + d) = s / (alpha - s)``, so s, written over p, tells both factors. That holds where neither side
is empty; a map with an empty unit is left to the rule's general form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_plugin.blockwise import blockwise, observed, pieces
from lrp_plugin.primitives import keeps_graph, substitute
from lrp_plugin.rules.linear_maps import LinearMap
from lrp_plugin.rules.parts import empty_units


def two_sided(f: LinearMap, alpha: float, beta: float, stabilizer: float) -> Tensor | None:
    """z, its relevance ``alpha`` for the positive side and ``-beta`` for the negative one; shape as z.

    ``R_i = sum_j x_i (alpha w_ij+ / (p_j + d) + beta w_ij- / (o_j + d)) z_j m_j``: Bach et al. 2015, eq. 60.

    Args:
        f: The map, its input known to be non-negative.
        alpha: Weight of the positive side. beta: Of the negative one.
        stabilizer: d, added to the denominators.

    Returns:
        None where the general form is needed: a unit has one side only, the ledger or a port asks for the carriers, a
        tracer or another device than the CPU would wait for the answer.
    """
    call, z = f.call, f.z
    plain = f.mode == "absorb" and call.row is None and not call.ports
    if (
        not plain
        or not f.owned
        or z.device.type != "cpu"
        or z.dtype not in (torch.float32, torch.float64)
        or observed()
    ):
        return None
    gradients = [
        f.gradient(f.weights("positive", lambda w: w.clamp(min=0))),
        f.gradient(f.weights(f"negative*{beta}", lambda w: w.clamp(max=0).mul_(beta))),
    ]
    p = f.positive_value()
    if None in gradients or _has_empty_side(p, z, call.rectified):
        return None
    with torch.no_grad():
        bound = p.new_tensor(max(stabilizer, torch.finfo(p.dtype).tiny) / alpha)
        kept = torch.div(z, torch.add(bound, p, alpha=1 / alpha, out=p), out=p)
    f.release()
    call.masked, call.free = call.rectified, True
    return substitute(z, _pullback(kept, alpha, *gradients), f.x)  # type: ignore[arg-type]


def _has_empty_side(p: Tensor, z: Tensor, rectified: bool) -> bool:
    """Whether p, or p - z, is empty somewhere; of a rectified map only where its value is not 0."""
    tolerance = empty_units(p.dtype)
    for positive, value in pieces(p, z):
        # p - z > tolerance * z, exact where p is near z; where both are 0 there is nothing to share out.
        if torch.sub(positive, value, alpha=1 + tolerance).min() < 0 or (not rectified and positive.min() <= 0):
            return True
    return False


def _pullback(
    kept: Tensor, alpha: float, upward: Callable[[Tensor], Tensor], downward: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def formula(m: Tensor, s: Tensor, second: Tensor, out: Tensor | None) -> Tensor:
        divisor = torch.rsub(s, alpha)
        first = torch.mul(m, s, out=out)
        torch.div(first, divisor, out=second)
        return first

    def pullback(m: Tensor) -> Tensor:
        if observed():  # a function transform's multiplier has more dimensions than it shows
            first = m * kept
            return upward(first) + downward(first / (alpha - kept))
        second = torch.empty_like(kept) if keeps_graph() else kept  # in the last backward pass s is not read again
        first = blockwise(formula, m, kept, second)
        return upward(first).add_(downward(second))

    return pullback
