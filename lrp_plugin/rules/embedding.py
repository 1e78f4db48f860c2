"""Embeddings: where token ids become vectors, and where their relevance is summed up again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.primitives import scale, substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import native_routing

register_rule("native", "long", "int", "short", "byte", "char", port="routes")(native_routing)


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


@register_rule("sum", "one_hot", port="ends", tokens=True)
def one_hot(call: Call) -> Result:
    """One-hot codes of ids: what arrives at a code, summed over the classes, goes to its id."""
    value = call.native()
    ids = next(t for t in tensors_in((call.args, call.kwargs), []) if call.is_signal(t))
    return Result(value, port=call.port(ids).unsqueeze(-1).expand(value.shape))


@register_rule("sum", "lookup", port="ends", tokens=True)
def lookup(call: Call) -> Tensor:
    """Rows of a constant table chosen by ids (``table[ids]``, index_select, gather): as an embedding.

    Raises:
        UnsupportedOperationError: Where the ids are neither the first nor the last dimensions of what is chosen.
    """
    ids = next(t for t in tensors_in((call.args, call.kwargs), []) if call.is_signal(t))
    with torch.no_grad():
        value = call.native()
    port, shape = call.port(ids), tuple(ids.shape)
    if value.shape == ids.shape:
        dims: tuple[int, ...] = ()
    elif _leads(call, ids) and tuple(value.shape[: len(shape)]) == shape:
        dims = tuple(range(len(shape), value.dim()))
    elif tuple(value.shape[-len(shape) :]) == shape:
        dims = tuple(range(value.dim() - len(shape)))
    else:
        raise UnsupportedOperationError(
            f"operation 'lookup' chooses {tuple(value.shape)} by ids of shape {shape}: legal are ids in the first or last "
            "dimensions of what is chosen (table[ids], torch.nn.functional.embedding)"
        )
    return substitute(value, lambda m: _summed(value * m, dims).to(port.dtype), port)


def _leads(call: Call, ids: Tensor) -> bool:
    """Whether the ids are the first of an index."""
    index = call.args[1] if len(call.args) > 1 else None
    first = index[0] if isinstance(index, (tuple, list)) else index
    return first is ids or first == 0


def _summed(relevance: Tensor, dims: tuple[int, ...]) -> Tensor:
    return relevance.sum(dims) if dims else relevance
