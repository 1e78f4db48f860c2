"""Embeddings: where token ids become vectors, and where their relevance is summed up again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_plugin.call import Call
from lrp_plugin.primitives import scale, substitute
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import native_routing

register_rule("native", "long", "int", "short", port="routes")(native_routing)


def _not_padding(call: Call, ids: Tensor) -> Tensor:
    """One for a token, zero for padding and for entries that do not come from the explained ids; of ids' shape."""
    held = call.port(ids).detach()
    padding = call.get("padding_idx")
    if padding is None:
        return held
    return held * (ids != padding % call["weight"].shape[0])


def _vectors(call: Call, ids: Tensor, value: Tensor) -> Tensor:
    """The tokens' vectors (..., D): relevance arriving at one, summed over D, goes to its id's port."""
    port, kept = call.port(ids), _not_padding(call, ids)
    return substitute(value, lambda m: (value * m).sum(-1).to(port.dtype) * kept, port)


@register_rule("sum", "embedding", port="ends", tokens=True)
def embedding(call: Call) -> Any:
    """An embedding: a token's relevance is the sum over its vector's entries; padding gets none.

    ``R_t = sum_d E[t, d] m_d``: the sum over features of Achtibat et al. 2024 (arXiv 2402.05602). What arrives at a
    padding token whose vector is not zero is booked as a constant's share.
    """
    ids = call["input"]
    if not call.is_signal(ids):
        return call.native()  # rows of a weight that is itself a signal are selected
    with torch.no_grad():
        value = call.native()
    if call.row is not None:
        spared = 1 - _not_padding(call, ids)
        call.absorb("constant", lambda m: ((value * m).sum(-1) * spared).sum())
    return _vectors(call, ids, value)


@register_rule("sum", "embedding_bag", port="ends", tokens=True)
def embedding_bag(call: Call) -> Any:
    """Bags of embeddings: the bag's sum, mean or maximum is native, then as `embedding`.

    Weights per sample that are signals too share evenly with the tokens.
    """
    ids, factors = call["input"], call.get("per_sample_weights")
    if not call.is_signal(ids):
        return call.native()
    with torch.no_grad():
        value = call.native()
        rows = functional.embedding(ids.flatten(), call["weight"])
    flat = ids.flatten()
    # Each id becomes its own row of a table of the tokens' vectors, so the bag's own gradient leads to each token.
    places = torch.arange(flat.numel(), device=ids.device)
    padding = call.get("padding_idx")
    if padding is not None:
        places = torch.where(flat == padding % call["weight"].shape[0], flat.numel(), places)
        padding = flat.numel()
    port, kept = call.port(ids), _not_padding(call, ids).flatten()
    table = substitute(rows, lambda m: ((rows * m).sum(-1) * kept).view(ids.shape).to(port.dtype), port)
    table = torch.cat([table, torch.zeros_like(rows[:1])])
    named = {**call.names, "input": places.view(ids.shape), "weight": table, "padding_idx": padding, "max_norm": None}
    bag = functional.embedding_bag(**named)
    both = factors is not None and call.is_signal(factors)
    return substitute(value, lambda m: m, scale(bag, 0.5) if both else bag)
