"""What a rule of linear maps is written in: parts of ``z = f(x, W, b)``, and shares of its relevance for them.

A rule says which parts get which share; ``R_i = sum_j share_k contribution_k,ij / part_k,j R_j`` is the same for all. Here
every part is computed as it is written; `lrp_plugin.fast` has quicker ways to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import damping, reciprocal, widened
from lrp_plugin.algebra.linear_map import LinearMap
from lrp_plugin.algebra.primitives import Carrier, redistribute, redistribute_with_port, scale
from lrp_plugin.algebra.result import Result

Kind = Literal["whole", "positive", "negative", "weighted", "port", "at_port"]
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """One expression of a map's contributions, times a number.

    Args:
        kind: ``"whole"``: f(x, W, b). ``"positive"``, ``"negative"``: the contributions of that sign. ``"weighted"``:
            f(x, change(W), change(b)). ``"at_port"``: f(at p, change(W)) with p the input's port. ``"port"``: p itself.
        scale: The number.
        name: The weight's change by name: modified weights are kept under it.
        change: What is done to the weight (and bias).
        at: What the input's entries are worth at the port, a number or a tensor broadcastable to the input.
    """

    kind: Kind
    scale: float = 1.0
    name: str = ""
    change: Change | None = None
    at: float | Tensor = 1.0


@dataclass(frozen=True)
class Sum:
    """A sum of parts; where ``below`` is given, another one for units whose value is negative."""

    parts: tuple[Part, ...]
    below: tuple[Part, ...] | None = None

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.parts + other.parts)

    def __sub__(self, other: Sum) -> Sum:
        return self + -1.0 * other

    def __rmul__(self, number: float) -> Sum:
        return Sum(tuple(replace(part, scale=number * part.scale) for part in self.parts))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its parts, a minus before those that are subtracted; behind ``"below"`` those for negative units."""
        above = tuple(_signed(part) for part in self.parts)
        return above if self.below is None else (*above, "below", *(_signed(part) for part in self.below))


def _signed(part: Part) -> str:
    return part.kind if part.scale >= 0 else f"-{part.kind}"


WHOLE, POSITIVE, NEGATIVE, PORT = (Sum((Part(kind),)) for kind in ("whole", "positive", "negative", "port"))


def weighted(name: str, change: Change) -> Sum:
    """``f(x, change(W), change(b))``."""
    return Sum((Part("weighted", name=name, change=change),))


def at_port(name: str, change: Change, at: float | Tensor = 1.0) -> Sum:
    """``f(at p, change(W))``: what the units would be if every input entry were worth ``at``, zero or not."""
    return Sum((Part("at_port", name=name, change=change, at=at),))


def by_sign(above: Sum, below: Sum) -> Sum:
    """``above`` for units whose value is >= 0, ``below`` for the others."""
    return Sum(above.parts, below.parts)


class Share(NamedTuple):
    """The part of a unit's relevance that goes by one sum of parts; where that is empty, the other shares take it."""

    part: Sum
    amount: float = 1.0


class Shares(NamedTuple):
    """A rule of linear maps: who gets what.

    Args:
        map: The map.
        shares: They add up to 1.
        stabilizer: Added to each part where it divides.
        bias: What becomes of the bias's share: ``"absorb"`` (Bach et al. 2015, eq. 60: it stays in the denominator and the
            bias keeps its share), ``"ignore"`` (left out of the denominator), ``"distribute"`` (its share is spread evenly
            over the unit's inputs, zero or not).
    """

    map: LinearMap
    shares: tuple[Share, ...]
    stabilizer: float | Tensor
    bias: str = "absorb"

    @classmethod
    def of(cls, map: LinearMap, part: Sum, stabilizer: float | Tensor, bias: str = "absorb") -> Shares:
        """All of it by one sum of parts."""
        return cls(map, (Share(part),), stabilizer, bias)

    @property
    def is_whole(self) -> bool:
        """All of it goes by the whole map."""
        return len(self.shares) == 1 and self.shares[0].part == WHOLE


def evaluate(rule: Shares) -> Result:
    """z, its relevance shared out, and the ledger's account of it."""
    f, call = rule.map, rule.map.call
    if rule.is_whole and rule.bias == "absorb" and not (call.waited and call.waited.followers):
        return _whole(f, rule.stabilizer)
    f.check_has_parts()
    if rule.is_whole and rule.bias == "distribute":
        return _handed_on(f, rule.stabilizer)
    carriers = _shared([_carrier(f, share.part, rule.bias) for share in rule.shares], [s.amount for s in rule.shares])
    spare: list[Carrier] = []
    if rule.bias == "distribute":
        carriers, spare = _with_spare(f, carriers, rule.stabilizer)
    if call.row is not None:
        _account(f, carriers, rule)
    carriers = [c._replace(value=c.value.expand_as(f.z)) for c in (*carriers, *spare)]
    if call.ports:
        return Result(*redistribute_with_port(f.z, carriers, rule.stabilizer))
    return Result(redistribute(f.z, carriers, rule.stabilizer))


def _whole(f: LinearMap, epsilon: float | Tensor) -> Result:
    """The epsilon rule: the map's own backward, damped; LRP-0 is its own backward."""
    z, call = f.call.native(), f.call
    if isinstance(epsilon, (int, float)) and epsilon == 0:
        if call.row is not None:
            constant = f.added()
            call.absorb("bias", lambda m: m * constant)
        return Result(z)
    factor = damping(z, epsilon)
    if call.row is not None:
        held, constant = widened(z.detach()), f.added()
        call.absorb("bias", lambda m: m * constant * factor)
        call.absorb("stabilizer", lambda m: m * held * (1 - factor))
    return Result(scale(z, factor))


# ---- parts -----------------------------------------------------------------------------------------------------
def _carrier(f: LinearMap, part: Sum, mode: str) -> Carrier:
    value, bias = _sum(f, part.parts, mode)
    if part.below is not None:
        below, below_bias = _sum(f, part.below, mode)
        up = f.z >= 0
        value = torch.where(up, value, below)
        above_bias, below_bias = f.placed(bias), f.placed(below_bias)
        if above_bias is not None and below_bias is not None:
            bias = torch.where(up, above_bias, below_bias)
    bias = f.placed(bias)
    if bias is None or mode != "distribute":
        return Carrier(value, bias=bias)
    even = f.evenly()
    # A unit that reads constants alone (a class token, padding) has nobody to hand its bias's part to.
    kept = None if f.call.row is None else bias * (even.detach() == 0)
    return Carrier(value + (even - even.detach()) * bias, bias=kept)


def _sum(f: LinearMap, parts: tuple[Part, ...], mode: str) -> tuple[Tensor, Tensor | None]:
    """The parts' value, and what of it is bias."""
    held = None if mode == "ignore" or f.bias is None else f.bias.detach()
    value, bias = None, None
    for part in parts:
        one, added = _value(f, part, held)
        one, added = (
            (one, added) if part.scale == 1 else (part.scale * one, None if added is None else part.scale * added)
        )
        value = one if value is None else value + one
        bias = added if bias is None else bias if added is None else bias + added
    assert value is not None
    return value, bias


def _value(f: LinearMap, part: Part, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    x, weight, change = f.x, f.weight, part.change
    if part.kind == "whole":
        return f.apply(x, weight, bias), bias
    if part.kind == "weighted" and change is not None:
        changed = None if bias is None else change(bias)
        return f.apply(x, f.weights(part.name, change), changed), changed
    if part.kind == "port":
        return f.call.port(x), None
    if part.kind == "at_port" and change is not None:
        if part.name == "ones" and isinstance(part.at, float) and part.at == 1:
            return f.count(), None
        return f.apply(f.call.port(x) * part.at, f.weights(part.name, change), None), None
    up, down = f.weights("positive", _positive), f.weights("negative", _negative)
    same, other = (up, down) if part.kind == "positive" else (down, up)
    taken = None if bias is None else (_positive if part.kind == "positive" else _negative)(bias)
    if f.nonnegative:
        return f.apply(x, same, taken), taken
    size = x.abs()  # its slope at 0 is 0, so an entry that is 0 has half of either side's
    return f.apply((x + size) / 2, same, taken) + f.apply((x - size) / 2, other, None), taken


def _positive(weight: Tensor) -> Tensor:
    return weight.clamp(min=0)


def _negative(weight: Tensor) -> Tensor:
    return weight.clamp(max=0)


# ---- shares ----------------------------------------------------------------------------------------------------
def _shared(carriers: list[Carrier], amounts: list[float]) -> list[Carrier]:
    """The carriers with their shares: an empty one's goes to the others (an all-positive unit would return 2 R at alpha 2)."""
    if len(carriers) == 1:
        return [carriers[0]._replace(share=amounts[0])]
    empty = [carrier.value.detach() == 0 for carrier in carriers]
    shares = []
    for place, amount in enumerate(amounts):
        alone = torch.stack([one for other, one in enumerate(empty) if other != place]).all(0)
        shares.append(torch.where(alone == empty[place], amount, torch.where(alone, 1.0, 0.0)))
    return [carrier._replace(share=share) for carrier, share in zip(carriers, shares)]


def _with_spare(
    f: LinearMap, carriers: list[Carrier], stabilizer: float | Tensor
) -> tuple[list[Carrier], list[Carrier]]:
    """Where no carrier can take relevance up, ``distribute`` spreads it evenly, all of it: no stabilizer's part."""
    empty = torch.stack([(c.value.detach() == 0).expand_as(f.z) for c in carriers]).all(0)
    even = f.evenly().expand_as(f.z)
    if f.call.row is not None:
        lost = empty & (even.detach() == 0)
        f.call.absorb("no_receiver", lambda m: m * f.z * lost)
        f.call.absorb("port:no_receiver", lambda r: r * lost)
    share = torch.where(empty, even.detach() * (1 + stabilizer), 0)
    return [c._replace(share=torch.where(empty, 0, c.share)) for c in carriers], [Carrier(even, share)]


def _handed_on(f: LinearMap, epsilon: float | Tensor) -> Result:
    """The epsilon rule's ``bias="distribute"``: two ways for two kinds of relevance.

    What arrives as a multiplier goes by signed contributions, the bias's part evenly to the inputs' port. What arrives at
    z's port was handed on by a bias above and has no multiplier: by signed contributions it would be divided by z, which
    may be near 0 (5e22 times the logit on a trained EfficientNet), so it goes by their magnitudes,
    ``|x_i w_ij| / sum_i' |x_i' w_i'j|``, and evenly where all of them are zero.
    """
    carrier = _carrier(f, WHOLE, "distribute")
    if f.call.row is not None:
        _account(f, [carrier], Shares(f, (), epsilon, "distribute"), ported=False)
    magnitude = f.apply(f.call.port(f.x) * f.x.detach().abs(), f.weights("absolute", torch.abs))
    held, even = magnitude.detach(), f.evenly()
    # Of a unit that reads constants alone (padding, a class token) the port is 0: nothing is handed to it.
    port = torch.where(held == 0, even, magnitude * reciprocal(held, 0.0))
    return Result(redistribute(f.z, [carrier], epsilon), port)


def _account(f: LinearMap, carriers: list[Carrier], rule: Shares, ported: bool = True) -> None:
    z = widened(f.z)
    bias, stabilized, lost = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
    for carrier in carriers:
        value = widened(carrier.value.detach())
        inverse = reciprocal(value, rule.stabilizer)
        if carrier.bias is not None:
            bias = bias + carrier.share * carrier.bias.detach() * inverse
        stabilized = stabilized + carrier.share * (1 - value * inverse) * (value != 0)
        lost = lost + carrier.share * (value == 0)
    for column, absorbed in (("bias", bias), ("stabilizer", stabilized), ("no_receiver", lost)):
        f.call.absorb(column, lambda m, absorbed=absorbed: m * z * absorbed)
        if ported:
            f.call.absorb(f"port:{column}", lambda r, absorbed=absorbed: r * absorbed)
    if rule.bias == "distribute" and f.bias is not None:
        share: Any = f.placed(f.bias)
        bias_share = share.detach() * reciprocal(z, rule.stabilizer)
        f.call.absorb("distributed", lambda m: m * z * (bias_share - bias))
