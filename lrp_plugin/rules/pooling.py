"""Max-pooling: the winner takes all, or every entry its part of the window's sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.primitives import Carrier, redistribute
from lrp_plugin.registry import register_rule

MAX_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
             "adaptive_max_pool3d")  # fmt: skip
WITH_INDICES = tuple(f"{name}_with_indices" for name in MAX_POOLS)  # as a layer with return_indices=True calls them


def _chosen(call: Call, port_of: Any) -> Tensor:
    """The ports of the winners."""
    names = {key: value for key, value in call.names.items() if key != "input"}
    names.pop("return_indices", None)
    plain = call.operation.removesuffix("_with_indices")
    pool = getattr(functional, f"{plain}_with_indices")
    x = call["input"]
    _, indices = pool(x.detach(), **names)
    port = port_of(x)
    start = port.dim() - int(plain[-2])
    return port.flatten(start).gather(-1, indices.flatten(start)).view(indices.shape)  # type: ignore[no-any-return]


@register_rule("winner_take_all", *MAX_POOLS, *WITH_INDICES, sign="keeps", port=_chosen)
def winner_take_all(call: Call) -> Any:
    """The window's maximum takes all its relevance: native (Montavon et al. 2019, section 10.3)."""
    return call.native()


@register_rule("proportional", "max_pool1d", "max_pool2d", "max_pool3d", sign="keeps")
def proportional(call: Call, *, stabilizer: float = 1e-9) -> Tensor:
    """Each entry of a window takes its positive part of the window's sum; a window without one keeps to the winner.

    ``R_i = sum_j x_i+ R_j / sum_i' x_i'+`` over the windows j that hold i: max-pooling as z+ of an average pool.
    """
    x = call["input"]
    names = {key: call.names[key] for key in ("kernel_size", "stride", "padding") if key in call.names}
    if call.get("dilation", 1) != 1 or call.get("ceil_mode", False):
        raise NotImplementedError("rule 'proportional' for max_pool needs dilation=1 and ceil_mode=False")
    average = getattr(functional, call.operation.replace("max", "avg"))
    winner = call.native()
    held = winner.detach()
    carrier = average(x.clamp(min=0), **names)
    empty = carrier.detach() == 0
    if call.row is not None:
        taken = carrier.detach() / (carrier.detach() + stabilizer)
        call.absorb("stabilizer", lambda m: m * held * (1 - taken) * ~empty)
    shares = (~empty).to(held.dtype)
    spread = redistribute(held, [Carrier(carrier, shares)], stabilizer)
    return torch.where(empty, winner, spread)
