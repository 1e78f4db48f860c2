"""Scaled-dot-product attention, kept fused: no attention matrix in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.primitives import scale
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.registry import register_rule


@register_rule("attnlrp", "scaled_dot_product_attention")
def attnlrp(call: Call) -> Tensor:
    """AttnLRP: half to each factor of a product of two signals, softmax by its own gradient.

    In the fused kernel that is a scale on the gradients of query, key and value: 1/4, 1/4, 1/2 where all three are
    signals; query 1 where key and value are constant, and so on. Achtibat et al. 2024 (arXiv 2402.05602), Propositions
    3.1 and 3.2.
    """
    given = call.names
    query, key, value = given["query"], given["key"], given["value"]
    scores = call.is_signal(query) or call.is_signal(key)
    halves = 0.5 if scores and call.is_signal(value) else 1.0
    inner = halves * (0.5 if call.is_signal(query) and call.is_signal(key) else 1.0)
    if call.row is not None and scores:
        _account(call, given, halves)
    if query is key or key is value or query is value:
        query, key, value = query.view_as(query), key.view_as(key), value.view_as(value)
    named = {**given, "query": scale(query, inner), "key": scale(key, inner), "value": scale(value, halves)}
    return call.function(**named)  # type: ignore[no-any-return]


@register_rule("cp_lrp", "scaled_dot_product_attention", form="held_attention")
def cp_lrp(call: Call) -> Tensor:
    """CP-LRP: the attention weights are held constant, all relevance goes to the value.

    Ali et al. 2022 (ICML, arXiv 2202.07304), eq. 9: query and key are constants.
    """
    given = call.names
    constant = {**given, "query": given["query"].detach(), "key": given["key"].detach()}
    return call.function(**constant)  # type: ignore[no-any-return]


@register_rule("cp_lrp", "softmax", sign="nonnegative", gate=True)
def constant_weights(call: Call) -> Result:
    """CP-LRP for attention written out: the softmax's value is held constant (Ali et al. 2022, eq. 9)."""
    return held(call.native())


def _account(call: Call, named: dict[str, Any], halves: float) -> None:
    """Books what softmax's gradient loses, and an additive mask's part, from the explicit attention matrix."""
    q, k, v = (named[name].detach() for name in ("query", "key", "value"))
    factor = named["scale"] if named.get("scale") is not None else 1 / math.sqrt(q.shape[-1])
    if k.shape[-3:-2] != q.shape[-3:-2] and q.dim() > 3:  # grouped-query attention
        repeats = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(repeats, -3), v.repeat_interleave(repeats, -3)
    plain = q @ k.transpose(-2, -1) * factor
    mask = torch.zeros_like(plain)
    given = named.get("attn_mask")
    if named.get("is_causal", False):
        given = torch.ones(plain.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if given is not None:
        mask = torch.where(given, 0.0, -math.inf).to(plain) if given.dtype == torch.bool else given.to(plain)
    weights = torch.softmax(plain + mask, -1).nan_to_num(0.0)
    added = torch.where(torch.isfinite(mask), mask, 0)

    def flow(m: Tensor) -> tuple[Tensor, Tensor]:
        sent = m @ v.transpose(-2, -1)
        return sent, weights * (sent - (weights * sent).sum(-1, keepdim=True))

    def lost(m: Tensor) -> Tensor:
        sent, scores = flow(m)
        return halves * ((weights * sent).sum() - ((plain + added) * scores).sum())

    call.absorb("other", lost)
    call.absorb("constant", lambda m: halves * (added * flow(m)[1]).sum())
