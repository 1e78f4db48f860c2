"""Operations other than linear maps, specialised: by the form that a rule says its formula has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.curves import at_origin, of_one
from lrp_plugin.algebra.folding import batch_norm_affine
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.fast import fusions, switches
from lrp_plugin.fast.attention import held_weights
from lrp_plugin.fast.curves import through_secant
from lrp_plugin.fast.pulls import ScalePull, SumPull
from lrp_plugin.torch_private import observed

if TYPE_CHECKING:
    from lrp_plugin.propagation.steps import Step
    from lrp_plugin.registry import Rule


def specialised(rule: Rule, call: Call, given: Mapping[str, Any], overwrites: bool) -> Result | None:
    """The rule's result by the specialisation for its form, or None.

    Args:
        rule: The rule. call: The call. given: The rule's parameters that differ from their defaults.
        overwrites: The model asked for the value to be written over the first argument, whose memory no one else reads.
    """
    build = FORMS.get(rule.form or "")
    if build is None or call.row is not None:
        return None
    return build(call, {**rule.parameters, **given} if given else rule.parameters, overwrites)


def _before(call: Call, x: Tensor) -> Step | None:
    """The operation that made x, where what reads it may be joined to it."""
    return call.signal(x).step if call.is_signal(x) else None


def rectifier(call: Call, given: Mapping[str, Any], overwrites: bool) -> Result | None:
    """A ReLU, joined to what comes before it."""
    x = call["input"]
    before = _before(call, x)
    if before is None:
        return None
    if before.is_masked(x):
        return fusions.masked_relu(call, before.rectified)
    return fusions.relu(call, before.pull, overwrites)


def scale(call: Call, given: Mapping[str, Any], overwrites: bool) -> Result | None:
    """A BatchNorm with running statistics: one product, or none behind a map."""
    running = not call.get("training", False) and call.get("running_mean") is not None
    if given["bias"] == "distribute" or not running or "scale" in switches.off:
        return None
    x, value = call["input"], call.valued()
    factor, _ = batch_norm_affine(call.weights, call.names, x)
    before = _before(call, x)
    if before is not None and call.signal(x).memory.reads == 1:
        joined = fusions.scaled_map(call, value, before.pull, factor)
        if joined is not None:
            return joined
    return Result(substitute(value, lambda m: m * factor, x), pull=ScalePull(factor, x), free=True)


def total(call: Call, given: Mapping[str, Any], overwrites: bool) -> Result | None:
    """A sum of two signals of one shape, over its first addend's memory where the model asked for it."""
    left, right = call["input"], call.get("other", call.args[1] if len(call.args) > 1 else None)
    if given["epsilon"] != 0 or call.operation != "add" or not (call.is_signal(left) and call.is_signal(right)):
        return None
    if left.shape != right.shape or left.dtype != right.dtype or call.get("alpha", 1) != 1 or "sum" in switches.off:
        return None
    if overwrites and not observed():
        value = substitute(left.detach().add_(right.detach()), lambda m: (m, m), left, right)
    else:
        value = call.native()
    return Result(value, pull=SumPull(left, right), free=True)


def curve(call: Call, given: Mapping[str, Any], overwrites: bool) -> Result | None:
    """A function of one entry, joined to the map before it, else its secant computed block by block."""
    if "curve" in switches.off or len(tensors_in((call.args, call.kwargs), [])) != 1:
        return None
    x, origin = call["input"], at_origin(call)
    before = _before(call, x)
    if before is not None and origin.value == 0:
        joined = fusions.curved_map(call, of_one(call), before.pull)
        if joined is not None:
            return joined
    if given.get("bias") == "distribute" and origin.value:
        return None
    return Result(substitute(call.valued(), through_secant(of_one(call), x.detach(), origin), x))


FORMS: dict[str, Callable[[Call, Mapping[str, Any], bool], Result | None]] = {
    "rectifier": rectifier, "scale": scale, "sum": total, "curve": curve, "held_attention": held_weights,
}  # fmt: skip
"""By the trait ``form`` of a rule."""
