"""The rules of linear maps, specialised: one table from a formula's parts to quicker ways to the same relevance.

Every entry gives a `Result` or None, where the next one, and in the end the formula as it is written, serves. The law that
holds them (tests): fast equals general. Without a ledger and without ``bias="distribute"`` only: these ask for every part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import HALF
from lrp_plugin.algebra.linear_map import LinearMap
from lrp_plugin.algebra.parts import Part, Shares
from lrp_plugin.algebra.primitives import Carrier, redistribute_with_port, substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.fast import switches
from lrp_plugin.fast.compact import compact_alphabeta, compact_gamma
from lrp_plugin.fast.elementwise import damped
from lrp_plugin.fast.pulls import MapPull
from lrp_plugin.fast.redistribution import KnownCarrier, redistribute
from lrp_plugin.fast.sides import Sides


def specialised(rule: Shares) -> Result | None:
    """The rule's result by the first specialisation that fits it, or None."""
    if rule.map.call.row is not None or rule.bias == "distribute":
        return None
    first, *rest = rule.shares
    key = (first.part.kinds, rest[0].part.kinds) if rest else (first.part.kinds,)
    if key != _WHOLE:
        rule.map.check_has_parts()
    if any(len(share.part.parts) == 1 and share.part.parts[0].scale != 1 for share in rule.shares):
        return None  # the stabilizer would be in other units
    sides = Sides(rule.map, rule.bias)
    for name, build in PLAN.get(key, ()):
        if name not in switches.off and (found := build(sides, rule)) is not None:
            return found
    return None


# ---- the whole map -----------------------------------------------------------------------------------------------
def native_whole(sides: Sides, rule: Shares) -> Result | None:
    """Epsilon and LRP-0: one backward application, which keeps no input where it need not, the damping within it."""
    f, epsilon, waited = rule.map, rule.stabilizer, rule.map.call.waited
    if rule.bias != "absorb" or isinstance(epsilon, Tensor) or (waited is not None and waited.followers):
        return None
    real = not (f.weight.is_complex() or f.x.is_complex()) and f.weight.layout == torch.strided
    gradient = sides.gradient(f.weight) if f.is_layer and real else None
    if gradient is None:
        return _damped_afterwards(f, epsilon) if epsilon else None
    pull = MapPull(f, gradient, epsilon)
    own = gradient if epsilon == 0 else pull.behind(partial(_damped, epsilon))
    return Result(substitute(f.z, own, f.x), pull=pull, free=epsilon == 0)


def _damped_afterwards(f: LinearMap, epsilon: float) -> Result:
    """The map's own backward, which may read its value, behind a damping that keeps that value and nothing else."""
    z = f.call.native()
    held = z.detach()
    return Result(substitute(held, lambda m: damped(m, held, epsilon), z))


def _damped(epsilon: float, m: Tensor, z: Tensor) -> Tensor:
    return damped(m, z, epsilon)


# ---- sides -------------------------------------------------------------------------------------------------------
def one_side(sides: Sides, rule: Shares) -> Result | None:
    """z+: one modified weight on a non-negative input, one forward for |x| on another."""
    if not rule.map.nonnegative and _is_half(rule):
        return None
    return shared_out(sides, [sides.positive()], rule)


def _is_half(rule: Shares) -> bool:
    """Whether a side that is left over by a difference would be rounding: in bfloat16 a map of six layers grew 3e5 times."""
    return rule.map.z.dtype in HALF


def two_sides_in_one(sides: Sides, rule: Shares) -> Result | None:
    """alpha-beta with one tensor kept."""
    upper, lower = rule.shares
    return compact_alphabeta(sides, upper.amount, -lower.amount, float(rule.stabilizer))


def two_sides(sides: Sides, rule: Shares) -> Result | None:
    """alpha-beta: both parts share their forward application."""
    if _is_half(rule):
        return None
    upper, lower = rule.shares
    positive, opposed = sides.both()
    first = positive._replace(share=upper.amount, partner=opposed.value, owned=False)  # the other's partner
    return shared_out(sides, [first, opposed._replace(share=lower.amount, partner=positive.value)], rule)


# ---- gamma -------------------------------------------------------------------------------------------------------
def _gamma(rule: Shares) -> float | None:
    """gamma of ``z + gamma z+``, below zero ``z + gamma z-``; None of other numbers before these parts."""
    (above, favoured), below = rule.shares[0].part.parts, rule.shares[0].part.below
    assert below is not None
    alike = above.scale == below[0].scale == 1 and favoured.scale == below[1].scale
    return favoured.scale if alike else None


def own_sign_in_one(sides: Sides, rule: Shares) -> Result | None:
    """gamma on a signed input, with one tensor kept."""
    gamma = _gamma(rule)
    if rule.map.nonnegative or gamma is None:
        return None
    return compact_gamma(sides, gamma, float(rule.stabilizer))


def favoured(sides: Sides, rule: Shares) -> Result | None:
    """gamma on a non-negative input: one or two modified weights instead of three maps."""
    f, gamma = rule.map, _gamma(rule)
    if not f.nonnegative or gamma is None:
        return None
    bias = sides.bias
    sign = 1 if rule.bias == "absorb" else 0  # a bias left out may turn a carrier's sign against z's
    lifted = f.weights(f"gamma+{gamma}", lambda w: w + gamma * w.clamp(min=0))
    if sides.rectified:
        raised = None if bias is None else bias + gamma * bias.clamp(min=0)
        return shared_out(
            sides, [KnownCarrier(sides.carried(f.x, lifted, raised), sign=sign, side=1, owned=sides.owned)], rule
        )
    lowered = f.weights(f"gamma-{gamma}", lambda w: w + gamma * w.clamp(max=0))
    whole, positive = sides.whole_value(), sides.positive_value()
    with torch.no_grad():
        up = torch.add(whole, positive, alpha=gamma)
        down = torch.lerp(positive, whole, 1 + gamma)  # whole + gamma (whole - positive)
    above = KnownCarrier(sides.known(up, lifted), sign=sign, side=1, owned=True)
    below = KnownCarrier(sides.known(down, lowered), sign=-sign, side=-1, owned=True)
    return shared_out(sides, [above, below], rule)


def favoured_side(sides: Sides, rule: Shares) -> Result | None:
    """gamma on a signed input, ``z + gamma (z + s A) / 2`` with s the sign of z: two backward applications."""
    f, gamma = rule.map, _gamma(rule)
    if f.nonnegative or _is_half(rule) or gamma is None:
        return None
    whole, absolute = sides.signed()
    up = f.z >= 0
    with torch.no_grad():
        side = sides.half(1)
        if not sides.rectified:
            side = torch.where(up, side, -sides.half(-1))
        value = torch.add(whole, side, alpha=gamma)
        # One byte per entry: as gamma / 2 with its sign a transformer's would take as much as all its factors.
        sign = None if sides.rectified else torch.where(up, 1, -1).to(torch.int8)

    def pullback(m: Tensor) -> tuple[Tensor, Tensor]:
        return m * (1 + gamma / 2), (m * (gamma / 2) if sign is None else (m * sign).mul_(gamma / 2))

    return shared_out(sides, [KnownCarrier(substitute(value, pullback, whole, absolute), owned=True)], rule)


# ---- changed weights, and ports ----------------------------------------------------------------------------------
def changed_weight(sides: Sides, rule: Shares) -> Result | None:
    """A map with another weight, which keeps no input."""
    f, (changed,) = rule.map, rule.shares[0].part.parts
    assert changed.change is not None
    bias = None if sides.bias is None else changed.change(sides.bias)
    value = sides.carried(f.x, f.weights(changed.name, changed.change), bias)
    return shared_out(sides, [KnownCarrier(value, owned=sides.owned)], rule)


def from_port(sides: Sides, rule: Shares) -> Result | None:
    """flat, w^2, pass: a carrier that starts at the input's port."""
    f, (asked,) = rule.map, rule.shares[0].part.parts
    port = f.call.port(f.x)
    if asked.kind == "port":
        return shared_out(sides, [KnownCarrier(port)], rule)
    if not isinstance(asked.at, float) or asked.at != 1 or asked.change is None:
        return None
    if asked.name == "ones":
        return shared_out(sides, [KnownCarrier(f.count().expand_as(f.z))], rule)
    return shared_out(sides, [KnownCarrier(f.apply(port, f.weights(asked.name, asked.change)))], rule)


def between_bounds(sides: Sides, rule: Shares) -> Result | None:
    """z^B: one map for both bounds where each is one number for all entries; the bias goes with it."""
    f, (whole, *bounds) = rule.map, rule.shares[0].part.parts
    if whole.scale != 1 or any(isinstance(bound.at, Tensor) for bound in bounds):
        return None
    levels = [-bound.scale * float(bound.at) for bound in bounds]
    name = "/".join(["bounds", *map(str, levels)])
    merged = f.weights(name, lambda w: _merged(bounds, levels, w))
    ends = sides.carried(f.call.port(f.x), merged, f.bias)
    return shared_out(sides, [KnownCarrier(sides.known(f.z, f.weight) - ends, owned=True)], rule)


def _merged(bounds: list[Part], levels: list[float], weight: Tensor) -> Tensor:
    total = torch.zeros_like(weight)
    for bound, level in zip(bounds, levels):
        assert bound.change is not None
        total = total + level * bound.change(weight)
    return total


# ---- the end of every rule ---------------------------------------------------------------------------------------
def shared_out(sides: Sides, carriers: list[KnownCarrier], rule: Shares) -> Result:
    """z, its relevance shared among the carriers; a port where the pass carries them."""
    f, ports = sides.f, sides.f.call.ports
    port = partial(_port_of, f, carriers, rule.stabilizer) if ports else None
    if sides.rectified:  # the value has no negative entries any more
        covers = f.nonnegative and rule.bias == "absorb"
        carriers = [c._replace(side=0, covers=covers and c.sign > 0) for c in carriers]
    if ports:  # they ask for the carriers' values later
        carriers = [carrier._replace(owned=False) for carrier in carriers]
    value = redistribute(f.z, carriers, rule.stabilizer)
    return Result(value, port=port, free=not ports, masked=sides.rectified)


def _port_of(f: LinearMap, carriers: list[KnownCarrier], stabilizer: float | Tensor) -> Tensor:
    plain = [carrier.plain(f.z) for carrier in carriers]
    return redistribute_with_port(f.z, [Carrier(c.value.expand_as(f.z), c.share) for c in plain], stabilizer)[1]


Build = Callable[[Sides, Shares], Result | None]
_WHOLE: Any = (("whole",),)
_OWN_SIGN: Any = (("whole", "positive", "below", "whole", "negative"),)
PLAN: dict[Any, tuple[tuple[str, Build], ...]] = {
    _WHOLE: (("native_whole", native_whole),),
    (("positive",),): (("one_side", one_side),),
    (("positive",), ("negative",)): (("two_sides_in_one", two_sides_in_one), ("two_sides", two_sides)),
    _OWN_SIGN: (("own_sign_in_one", own_sign_in_one), ("favoured", favoured), ("favoured_side", favoured_side)),
    (("weighted",),): (("changed_weight", changed_weight),),
    (("at_port",),): (("from_port", from_port),),
    (("port",),): (("from_port", from_port),),
    (("whole", "-at_port", "-at_port"),): (("between_bounds", between_bounds),),
}
"""By the kinds of each share's parts (`Sum.kinds`): the specialisations, in the order they are tried. What the numbers before
the parts must be, a specialisation sees to itself, and gives None otherwise."""


def specialise(kinds: tuple[tuple[str, ...], ...], name: str, build: Build) -> None:
    """Adds a specialisation, tried before those that are there; ``switches.without(name)`` rules it out again.

    Args:
        kinds: The kinds of each share's parts: ``(("positive",), ("whole",))`` for a share of z+ and one of z.
        name: Of its switch.
        build: Gives the result, or None where it does not fit.

    Raises:
        ValueError: Where the name is taken.
    """
    switches.add(name)
    PLAN[kinds] = ((name, build), *PLAN.get(kinds, ()))
