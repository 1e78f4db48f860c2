"""Pairs of operations that pass their multiplier on in one step: one table, by what came first and what reads it.

An entry is only looked up where nobody looks between the two: no ledger, no layer's relevance, no port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.folding import scaled_weight
from lrp_plugin.algebra.formulas import where_positive
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.fast import switches
from lrp_plugin.fast.elementwise import damped, damped_behind_relu, damped_secant, damped_where_positive
from lrp_plugin.fast.pulls import MapPull, ScaledPull, ScalePull, SumPull
from lrp_plugin.torch_private import observed

Pullback = Callable[[Tensor], Any]


# ---- a ReLU behind ... ---------------------------------------------------------------------------------------------
def map_then_relu(first: MapPull, y: Tensor) -> Pullback:
    """The multiplier where y is positive, damped by y itself, which is z there: z need not be kept."""
    gradient, epsilon = first.gradient, first.epsilon
    if epsilon == 0:
        return lambda m: gradient(where_positive(m, y))
    return lambda m: gradient(damped_behind_relu(m, y, epsilon))


def scaled_map_then_relu(first: ScaledPull, y: Tensor) -> Pullback:
    """As a ReLU behind the map; the damping is by the map's value, before its scale."""
    f, gradient, epsilon = first.pull
    if epsilon == 0:
        return lambda m: gradient(where_positive(m, y))
    z = f.z
    return lambda m: gradient(damped_where_positive(m, y, z, epsilon))


def scale_then_relu(first: ScalePull, y: Tensor) -> Pullback:
    """One product, over the memory of the masked multiplier."""
    factor = first.factor
    return lambda m: where_positive(m, y).mul_(factor)


def sum_then_relu(first: SumPull, y: Tensor) -> Pullback:
    """One masked multiplier for both addends."""

    def pullback(m: Tensor) -> tuple[Tensor, Tensor]:
        passed = where_positive(m, y)
        return passed, passed

    return pullback


class Fusion(NamedTuple):
    """One row of the table: the specialisation's name, and from the first's pull and the ReLU's value to both's pullback."""

    name: str
    build: Callable[[Any, Tensor], Pullback]


BEHIND_RELU: dict[type, Fusion] = {
    MapPull: Fusion("map_then_relu", map_then_relu),
    ScaledPull: Fusion("map_then_relu", scaled_map_then_relu),
    ScalePull: Fusion("scale_then_relu", scale_then_relu),
    SumPull: Fusion("sum_then_relu", sum_then_relu),
}


def relu(call: Call, first: Any, overwrites: bool) -> Result | None:
    """A ReLU and the operation before it in one backward step, over its input's memory where the model asked for it."""
    row = BEHIND_RELU.get(type(first))
    if row is None or row.name in switches.off:
        return None
    x = call["input"]
    value = torch.relu_(x.detach()) if overwrites and not observed() else torch.relu(x.detach())
    return Result(substitute(value, row.build(first, value), *first.sources))


def masked_relu(call: Call, rectified: bool) -> Result | None:
    """A ReLU whose map has seen to it: nothing but the positive entries passes a multiplier on."""
    if "masked_relu" in switches.off:
        return None
    x = call["input"]
    return Result(substitute(x.detach() if rectified else torch.relu(x.detach()), lambda m: m.view_as(m), x))


# ---- a scale, a curve behind a map -----------------------------------------------------------------------------------
def scaled_map(call: Call, value: Tensor, first: Any, factor: Tensor) -> Result | None:
    """A BatchNorm's scale is part of the weight before it, and costs nothing."""
    if not isinstance(first, MapPull) or "map_then_scale" in switches.off or not first.takes_scale:
        return None
    f, epsilon = first.map, first.epsilon
    weight = scaled_weight(f.call.weights, f.call.operation, f.weight, factor, int(f.call.get("groups", 1)))
    gradient = first.reweighted(weight)
    if gradient is None:
        return None
    scaled = MapPull(f, gradient, epsilon)
    own = gradient if epsilon == 0 else scaled.behind(lambda m, z: damped(m, z, epsilon))
    return Result(substitute(value, own, *scaled.sources), pull=ScaledPull(scaled), free=True)


def curved_map(call: Call, function: Callable[[Tensor], Tensor], first: Any) -> Result | None:
    """f(z) behind a damped map, f(0) = 0: the secant and the damping in one division."""
    if not isinstance(first, MapPull) or first.epsilon == 0 or "map_then_curve" in switches.off:
        return None
    epsilon = first.epsilon
    pull = first.behind(lambda m, z: damped_secant(function, epsilon, m, z))
    return Result(substitute(call.valued(), pull, *first.sources))
