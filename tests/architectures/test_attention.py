"""Attention: AttnLRP written out from its equations, and every spelling of one attention giving one relevance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from captum.attr import Saliency
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import first, linear_maps, operation
from lrp_plugin.fast import attention

MASKS = ("none", "causal", "boolean", "additive")
ZERO = Composite([(linear_maps(), rule("zero"))])


def mask_of(kind: str, queries: int, keys: int) -> Tensor | None:
    """A mask (L, S): boolean, or additive with finite entries and a forbidden one; every query may look somewhere."""
    generator = torch.Generator().manual_seed(3)
    if kind == "none":
        return None
    if kind == "causal":
        return torch.ones(queries, keys, dtype=torch.bool).tril()
    allowed = torch.rand(queries, keys, generator=generator) < 0.6
    allowed[:, 0] = True
    if kind == "boolean":
        return allowed
    finite = torch.randn(queries, keys, generator=generator, dtype=torch.float64)
    return torch.where(allowed, finite, -math.inf)


def attnlrp_twin(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, relevance: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Achtibat et al. 2024 (arXiv 2402.05602): eq. 8 (softmax) and eq. 14 (products), on explicit matrices.

    Of one head: q (L, D), k (S, D), v (S, D); ``relevance`` gives R of the output (L, D).
    """
    bias = torch.zeros(len(q), len(k), dtype=q.dtype)
    if mask is not None:
        bias = torch.where(mask, 0.0, -math.inf).to(q) if mask.dtype == torch.bool else mask
    product = q @ k.T / math.sqrt(q.shape[-1])
    weights = torch.softmax(product + bias, -1)
    out = weights @ v
    ratio = relevance(out) / (2 * out)
    of_v, of_weights = torch.zeros_like(v), torch.zeros_like(weights)
    for j in range(len(q)):
        for i in range(len(k)):
            contribution = weights[j, i] * v[i] * ratio[j]
            of_v[i] += contribution
            of_weights[j, i] = contribution.sum()
    # eq. 8: R_i = x_i (R_i^out - s_i sum_j R_j^out); of x = product + mask the product keeps its own part.
    of_product = product * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    of_q, of_k = torch.zeros_like(q), torch.zeros_like(k)
    for j in range(len(q)):
        for i in range(len(k)):
            part = q[j] * k[i] / math.sqrt(q.shape[-1]) * of_product[j, i] / (2 * product[j, i])
            of_q[j] += part
            of_k[i] += part
    return of_q, of_k, of_v


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """torch's kernel."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def with_matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Operators, and an in-place division."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = q @ k.transpose(-2, -1)
    scores /= math.sqrt(q.shape[-1])
    return _masked(scores, mask).softmax(-1) @ v


def with_einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """einsum, the query scaled before."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = torch.einsum("nhld,nhsd->nhls", q * q.shape[-1] ** -0.5, k)
    return torch.einsum("nhls,nhsd->nhld", functional.softmax(_masked(scores, mask), dim=-1), v)


def with_baddbmm(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """baddbmm with the mask as its addend, as nn.MultiheadAttention does."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    added = torch.zeros(q.shape[2], k.shape[2], dtype=q.dtype)
    if mask is not None:
        added = torch.where(mask, 0.0, -math.inf).to(q) if mask.dtype == torch.bool else mask
    flat = [t.flatten(0, 1) for t in (q * q.shape[-1] ** -0.5, k, v)]
    scores = torch.baddbmm(added.expand(len(flat[0]), -1, -1), flat[0], flat[1].transpose(1, 2))
    return torch.bmm(torch.softmax(scores, -1), flat[2]).view(*q.shape[:3], -1)


SPELLINGS = {"fused": fused, "matmul": with_matmul, "einsum": with_einsum, "baddbmm": with_baddbmm}


def problem(seed: int, heads: int, groups: int, queries: int, keys: int, size: int) -> tuple[Tensor, ...]:
    """q (1, H, L, D), k and v (1, G, S, D), and the weights of the output that is explained."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (heads, queries), (groups, keys), (groups, keys), (heads, queries)
    return tuple(torch.randn(1, *shape, size, generator=generator, dtype=torch.float64) for shape in shapes)


def explained(
    spelling: Callable[..., Tensor], inputs: tuple[Tensor, ...], weights: Tensor, mask: Tensor | None,
    composite: Composite = ZERO,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Relevance of query, key and value; the ledger closes."""

    def score(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (spelling(q, k, v, mask) * weights).flatten(1).sum(1)

    lrp = UnifiedLRP(score, composite=composite, strict=True)
    assert lrp.ledger(inputs).gap.abs().max() < 1e-9
    return lrp.attribute(inputs)


@given(
    seed=st.integers(0, 10_000), groups=st.integers(1, 2), repeats=st.integers(1, 2), queries=st.integers(1, 4),
    keys=st.integers(1, 4), size=st.integers(1, 3), mask=st.sampled_from(MASKS),
    spelling=st.sampled_from(sorted(SPELLINGS)),
)  # fmt: skip
def test_attention_meets_its_literal_twin(
    seed: int, groups: int, repeats: int, queries: int, keys: int, size: int, mask: str, spelling: str
) -> None:
    *inputs, weights = problem(seed, groups * repeats, groups, queries, keys, size)
    hidden = mask_of(mask, queries, keys)
    found = explained(SPELLINGS[spelling], tuple(inputs), weights, hidden)
    wanted = [torch.zeros_like(t[0]) for t in inputs]
    for head in range(groups * repeats):
        group = head // repeats
        q, k, v = inputs[0][0, head], inputs[1][0, group], inputs[2][0, group]
        parts = attnlrp_twin(q, k, v, hidden, lambda out, head=head: out * weights[0, head])
        for total, part, place in zip(wanted, parts, (head, group, group)):
            total[place] += part
    for mine, theirs in zip(found, wanted):
        torch.testing.assert_close(mine[0], theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rules", ["attnlrp", "cp_lrp"])
def test_every_spelling_gives_one_relevance(mask: str, rules: str) -> None:
    *inputs, weights = problem(0, 4, 2, 5, 6, 3)
    hidden = mask_of(mask, 5, 6)
    composite = Composite([(operation("scaled_dot_product_attention", "softmax"), rule("cp_lrp")), *ZERO.pairs])
    composite = ZERO if rules == "attnlrp" else composite
    found = {name: explained(f, tuple(inputs), weights, hidden, composite) for name, f in SPELLINGS.items()}
    for other in found.values():
        for mine, theirs in zip(found["fused"], other):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
    assert found["fused"][2].abs().sum() > 0
    assert (found["fused"][0].abs().sum() == 0) == (rules == "cp_lrp")


def test_kernel_s_own_causal_flag() -> None:
    *inputs, weights = problem(0, 2, 2, 5, 5, 3)
    flagged = explained(
        lambda q, k, v, mask: functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7),
        tuple(inputs), weights, None,
    )  # fmt: skip
    written = explained(
        lambda q, k, v, mask: with_matmul(q * 0.7 * math.sqrt(3), k, v, mask), tuple(inputs), weights,
        mask_of("causal", 5, 5),
    )  # fmt: skip
    for mine, theirs in zip(flagged, written):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (3, 9, 5), (2, 1, 1, 4), (1, 2, 40, 8)])
@pytest.mark.parametrize("factor", [None, 0.7])
@pytest.mark.parametrize("part", [1, 12, 30, 1 << 18])
def test_cp_lrp_s_own_pass_is_the_kernel_s(
    monkeypatch: pytest.MonkeyPatch, part: int, factor: float | None, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(attention, "_PART", part)  # how much of the matrix at a time
    *batch, length, width = shape
    torch.manual_seed(0)
    key, query = torch.randn(*batch, length + 2, width).double(), torch.randn(shape).double()
    value, weights = torch.randn(*batch, length + 2, 3).double(), torch.randn(*batch, length, 3).double()
    nothing = torch.zeros(length, length + 2).double()  # a mask, so that torch's kernel goes back

    def model(v: Tensor, mask: Tensor | None) -> Tensor:
        seen = functional.scaled_dot_product_attention(query, key, v, mask, scale=factor)
        return (seen * weights).flatten(1).sum(1)

    mine = UnifiedLRP(model, composite="cp_lrp").attribute(value, additional_forward_args=(None,))
    kernel = UnifiedLRP(model, composite="cp_lrp").attribute(value, additional_forward_args=(nothing,))
    torch.testing.assert_close(mine, kernel, rtol=1e-9, atol=1e-12)
    weighted = query @ key.transpose(-2, -1) * (factor or 1 / math.sqrt(width))
    torch.testing.assert_close(mine, value * (weighted.softmax(-1).transpose(-2, -1) @ weights), rtol=1e-9, atol=1e-12)


def test_cp_lrp_reads_no_key_that_was_written_to() -> None:
    key, query, value = torch.randn(3, 1, 4, 5).double()

    def model(v: Tensor) -> Tensor:
        seen = functional.scaled_dot_product_attention(query, key, v)
        key.zero_()  # a constant of the model's own
        return seen.flatten(1)

    with pytest.raises(RuntimeError, match="written to in place"):
        UnifiedLRP(model, composite="cp_lrp").attribute(value, target=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_multihead_attention_equals_its_parts(weighted: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, batch_first=True).double().eval()
    nn.init.normal_(module.in_proj_bias)
    x, weights = torch.randn(2, 4, 6).double(), torch.randn(4, 6).double()

    def parts(x: Tensor) -> Tensor:
        projected = functional.linear(x, module.in_proj_weight, module.in_proj_bias)
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in projected.chunk(3, -1))
        return module.out_proj(with_matmul(q, k, v, None).transpose(1, 2).flatten(2))

    whole = UnifiedLRP(lambda x: (module(x, x, x, need_weights=weighted)[0] * weights).sum((1, 2)), composite=ZERO)
    split = UnifiedLRP(lambda x: (parts(x) * weights).sum((1, 2)), composite=ZERO)
    torch.testing.assert_close(whole.attribute(x), split.attribute(x), rtol=1e-8, atol=1e-8)
    assert whole.ledger(x).gap.abs().max() < 1e-9


@pytest.mark.parametrize("name", ["cp_lrp", "attnlrp", "epsilon_plus_flat", "first"])
@pytest.mark.parametrize("form", ["self", "encoder-decoder", "apart"])
def test_packed_projection_is_one_map_in_three_parts(form: str, name: str) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, batch_first=True).double().eval()
    nn.init.normal_(module.in_proj_bias)
    x, weights = torch.randn(2, 4, 6).double(), torch.randn(4, 6).double()
    chosen = Composite([(first(), rule("flat")), (linear_maps(), rule("epsilon"))]) if name == "first" else name

    def given(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        memory = x if form == "self" else 2.0 * x
        return x, memory, memory if form != "apart" else 3.0 * x

    def packed(x: Tensor) -> Tensor:
        return module(*given(x), need_weights=False)[0]

    def apart(x: Tensor) -> Tensor:  # one product with the whole weight; of another input's a third is used
        whole = [functional.linear(t, module.in_proj_weight, module.in_proj_bias) for t in dict.fromkeys(given(x))]
        q, k, v = (whole[min(i, len(whole) - 1)].chunk(3, -1)[i] for i in range(3))
        heads = [t.unflatten(-1, (2, 3)).transpose(1, 2) for t in (q, k, v)]
        return module.out_proj(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    lrp = UnifiedLRP(lambda x: (packed(x) * weights).sum((1, 2)), composite=chosen, strict=True)
    places = [site.index for site, _ in lrp.plan(x).entries if site.linear]
    assert places == [0, 0, 0, 1]
    relevance = lrp.attribute(x)
    assert lrp.ledger(x).gap.abs().max() < 1e-9
    if (
        name in ("first", "epsilon_plus_flat") and form != "self"
    ):  # by hand it is three maps, and the first is the query's
        return
    written = UnifiedLRP(lambda x: (apart(x) * weights).sum((1, 2)), composite=chosen)
    torch.testing.assert_close(relevance, written.attribute(x), rtol=1e-8, atol=1e-9)


def test_places_of_linear_maps_where_some_parts_of_a_projection_are_constants() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2).double().eval()
    x, memory = torch.randn(2, 4, 6).double()
    cases = [((x, memory, memory), [0, 1]), ((memory, x, x), [0, 0, 1]), ((memory, memory, x), [0, 1])]
    for arguments, expected in cases:

        def model(t: Tensor, given: tuple[Tensor, ...] = arguments) -> Tensor:
            return module(*(t[0] if each is x else each for each in given), need_weights=False)[0].sum((0, 1)).view(1)

        entries = UnifiedLRP(model, composite="attnlrp").plan(x[None]).entries
        assert [site.index for site, _ in entries if site.linear] == expected


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_multihead_attention_with_masks_and_sizes_of_its_own_equals_its_parts(mask: str, weighted: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, batch_first=True, kdim=5, vdim=3).double().eval()
    nn.init.normal_(module.in_proj_bias)
    x, keys, values = (torch.randn(2, *shape).double() for shape in ((4, 6), (5, 5), (5, 3)))
    weights, hidden = torch.randn(4, 6).double(), mask_of(mask, 4, 5)
    forbidden = ~hidden if hidden is not None and hidden.dtype == torch.bool else hidden

    def parts(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        maps = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        projected = [
            functional.linear(t, w, b) for t, w, b in zip((x, keys, values), maps, module.in_proj_bias.chunk(3))
        ]
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in projected)
        return module.out_proj(with_matmul(q, k, v, hidden).transpose(1, 2).flatten(2))

    def whole(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return module(x, keys, values, need_weights=weighted, attn_mask=forbidden)[0]

    found = []
    for form in (whole, parts):
        lrp = UnifiedLRP(lambda *t, form=form: (form(*t) * weights).sum((1, 2)), composite=ZERO, strict=True)
        assert lrp.ledger((x, keys, values)).gap.abs().max() < 1e-9
        found.append(lrp.attribute((x, keys, values)))
    for mine, theirs in zip(*found):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
        assert mine.abs().sum() > 0


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}])
def test_multihead_attention_s_options_close_the_ledger(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, batch_first=True, **options).double().eval()
    x, padding = torch.randn(2, 4, 6).double(), torch.tensor([[False] * 4, [False, False, True, True]])
    lrp = UnifiedLRP(lambda x: module(x, x, x, key_padding_mask=padding)[0][:, 0], strict=True)
    assert lrp.ledger(x, target=2).gap.abs().max() < 1e-9
    relevance = lrp.attribute(x, target=2)
    assert relevance[1, 2:].abs().max() == 0 and relevance.abs().sum() > 0


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_closes_the_ledger(norm_first: bool) -> None:
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 2, 2, 12, batch_first=True, norm_first=norm_first, activation="gelu").double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    source, target = torch.randn(2, 5, 8).double(), torch.randn(2, 4, 8).double()
    causal = model.generate_square_subsequent_mask(4, dtype=torch.float64)

    def scores(source: Tensor, target: Tensor) -> Tensor:
        return model(source, target, tgt_mask=causal).flatten(1)

    lrp = UnifiedLRP(scores, strict=True)
    assert lrp.ledger((source, target), target=3).gap.abs().max() < 1e-9
    found = lrp.attribute((source, target), target=3)
    assert found[0].abs().sum() > 0 and found[1][:, 0].abs().sum() > 0
    assert found[1][:, 1:].abs().max() == 0  # the first position cannot see later ones


def test_encoder_s_fused_fast_path_changes_nothing() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).double().eval()
    x = torch.randn(2, 5, 8).double()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    lrp = UnifiedLRP(lambda x: model(x, src_key_padding_mask=padding)[:, 0], strict=True)
    with torch.no_grad():  # the fast path is taken here
        plain = model(x, src_key_padding_mask=padding)[:, 0, 2]
    ledger = lrp.ledger(x, target=2)
    torch.testing.assert_close(ledger.output, plain)
    assert ledger.gap.abs().max() < 1e-9
    assert lrp.attribute(x, target=2)[1, 3:].abs().max() == 0


class Projected(nn.Module):
    """One layer of attention, 8 heads, on 64 features, in the fused kernel."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.project, self.out, self.causal = nn.Linear(64, 192), nn.Linear(64, 64), causal

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 64) of ``x`` (N, L, 64)."""
        q, k, v = (t.unflatten(-1, (8, 8)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(found.transpose(1, 2).flatten(2)).sum(1)


class Encoder(nn.Module):
    """torch's encoder layer, whose attention is nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(64, 8, 128, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 64) of ``x`` (N, L, 64)."""
        return self.layer(x).sum(1)


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that one call holds at a time, from every allocation and release that torch makes on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate(change for _, change in changes))


@pytest.mark.slow
@pytest.mark.parametrize("make", [Projected, lambda: Projected(True), Encoder], ids=["fused", "causal", "encoder"])
def test_memory_is_linear_in_the_sequence(make: Callable[[], nn.Module]) -> None:
    """At length 4,096 below 3 times gradient saliency's peak; one attention matrix of 8 heads would be 512 MiB."""
    torch.manual_seed(0)
    model, peaks = make().eval(), {}
    for name, method in (("lrp", UnifiedLRP(model)), ("saliency", Saliency(model))):
        method.attribute(torch.randn(1, 16, 64), target=0)
        x = torch.randn(1, 4096, 64)
        peaks[name] = peak_bytes(lambda method=method, x=x: method.attribute(x, target=0))
    assert peaks["saliency"] > 4 * 4096 * 64 * 4, "the measure sees less than query, key, value and output"
    assert peaks["lrp"] < 3 * peaks["saliency"] < 2**29 / 4, peaks
