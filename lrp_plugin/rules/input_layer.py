"""Rules for the first layer, and others that send relevance to the input's port, zero-valued entries included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.blockwise import observed
from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.formulas import Carrier
from lrp_plugin.errors import warn
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.linear import MAPS
from lrp_plugin.rules.linear_maps import LinearMap, is_map_of_one_signal
from lrp_plugin.rules.products import is_product, uniform_product

TRAITS: dict[str, Any] = {"folds": True, "ports": True, "defers": is_map_of_one_signal}


@register_rule("flat", *MAPS, **TRAITS)
def flat(call: Call, *, stabilizer: float = 1e-9) -> Tensor:
    """Flat: every input of a unit gets the same part, whatever its value or weight.

    ``R_i = sum_j R_j / n_j``, n_j the number of unit j's inputs (padding not counted): Lapuschkin et al. 2019 (Nature
    Communications 10), supplement. Used in the first layer, for smooth maps.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, "ignore")
    return f.redistribute([Carrier(f.flat().expand_as(f.z))], stabilizer)


@register_rule("uniform", *MAPS, **TRAITS)
def uniform_map(call: Call, *, stabilizer: float = 1e-9) -> Tensor:
    """Uniform: another name of flat (iNNvestigate's)."""
    return flat(call, stabilizer=stabilizer)


@register_rule("wsquare", *MAPS, **TRAITS)
def wsquare(call: Call, *, stabilizer: float = 1e-9) -> Tensor:
    """w^2: each input gets its squared weight's part: ``R_i = sum_j w_ij^2 R_j / sum_i' w_i'j^2``.

    Montavon et al. 2017 (Pattern Recognition 65), eq. 12; for inputs without bounds. The bias takes no part.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, "ignore")
    squared = f.weights("squared", torch.square)
    return f.redistribute([Carrier(f.apply(f.call.port(f.x), squared))], stabilizer)


@register_rule("zbox", *MAPS, **TRAITS)
def zbox(call: Call, *, low: Any = 0.0, high: Any = 1.0, stabilizer: float = 1e-9) -> Tensor:
    """z^B: for inputs between bounds, such as pixels.

    ``R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) R_j / sum_i' (...)``: Montavon et al. 2017, eq. 14; the first
    layer's rule in Montavon et al. 2019, section 10.2.

    Args:
        call: The intercepted call.
        low: The smallest value of an entry, number or tensor broadcastable to the layer's input.
        high: The largest.
        stabilizer: Added to the denominator.

    Entries beyond the bounds are warned about: their contributions have the wrong sign.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call)
    bounds = [torch.as_tensor(bound, dtype=f.x.dtype, device=f.x.device) for bound in (low, high)]
    _note_beyond(f.x, *bounds)
    value = f.known(f.z, f.weight) - _bounded(f, call.port(f.x), *bounds)
    # Bias parts cancel: b - b+ - b- = 0, so all of the relevance reaches the pixels.
    return f.redistribute([Carrier(value, owned=True)], stabilizer)


def _note_beyond(x: Tensor, low: Tensor, high: Tensor) -> None:
    if observed():  # a tracer cannot branch on an entry
        return
    x = x.detach()
    slack = 1e-3 * (high - low) + 1e-6  # rounding, in half precision too
    if bool((x < low - slack).any() | (x > high + slack).any()):
        warn(
            f"rule 'zbox': the layer's input runs from {float(x.min()):.4g} to {float(x.max()):.4g}, beyond the bounds "
            f"{float(low.min()):.4g} to {float(high.max()):.4g}; give low= and high= as the input is where the layer meets it "
            "(behind the model's own normalization)"
        )


def _bounded(f: LinearMap, port: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``f(low p, W+, b+) + f(high p, W-, b-)``, p the port; one map where the bounds are one number for all entries."""
    positive = f.weights("positive", lambda w: w.clamp(min=0))
    negative = f.weights("negative", lambda w: w.clamp(max=0))
    if low.numel() == high.numel() == 1:
        lowest, highest = float(low), float(high)
        both = f.weights(f"bounds/{lowest}/{highest}", lambda _: lowest * positive + highest * negative)
        return f.carried(port, both, f.bias)
    upper = None if f.bias is None else f.bias.clamp(min=0)
    lower = None if f.bias is None else f.bias.clamp(max=0)
    return f.apply(port * low, positive, upper) + f.apply(port * high, negative, lower)


@register_rule("pass", *MAPS, ports=True)
def pass_through(call: Call) -> Tensor:
    """Pass: an entry of the output gives its relevance to the input's entry of the same place, ``R_i = R_i``.

    For maps that stand for a change of basis or a correction, whose weights are not to be looked at.

    Raises:
        ValueError: Where the map changes the shape.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, "ignore")
    if f.x.shape != f.z.shape:
        raise ValueError(
            f"rule 'pass' for operation {call.operation!r}: input {tuple(f.x.shape)} and output {tuple(f.z.shape)} "
            f"differ, so no entry has a counterpart; choose another rule there"
        )
    return f.redistribute([Carrier(call.port(f.x))], 0.0)


@register_rule("identity", *MAPS, ports=True)
def identity_map(call: Call) -> Tensor:
    """Identity: another name of pass."""
    return pass_through(call)
