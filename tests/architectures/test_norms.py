"""Normalizations: literal twins from the papers' equations, and every spelling of one norm giving one relevance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP

Norm = Callable[[Tensor], Tensor]
EPS = 1e-3


def centred_twin(x: Tensor, relevance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Relevance of one group of entries x (n,), of their normalized, scaled and shifted values' ``relevance`` (n,).

    ``y_i = w_i c_i / s + b_i`` with ``c_i = sum_j (d_ij - 1/n) x_j``. The deviation s is a constant, so its division
    passes all relevance (AttnLRP, arXiv 2402.05602, Proposition 3.4: the identity rule); w, b and the centring are linear
    maps, which share by contribution (Bach et al. 2015, eq. 56).
    """
    n = len(x)
    centring = torch.eye(n, dtype=x.dtype) - 1 / n
    c = centring @ x
    s = torch.sqrt((c * c).sum() / n + EPS)
    received = torch.zeros_like(x)
    for i in range(n):
        y = weight[i] * c[i] / s + bias[i]
        of_c = relevance[i] * (weight[i] * c[i] / s) / y
        for j in range(n):
            received[j] += centring[i, j] * x[j] * of_c / c[i]
    return received


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explained(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of x, and of the norm's output, for that output weighted by fixed numbers; the ledger closes."""
    weights = drawn(7, *x.shape)
    lrp = UnifiedLRP(lambda t: (norm(t) * weights).flatten(1).sum(1), strict=True, rule="zero")
    assert lrp.ledger(x).gap.abs().max() < 1e-9
    with torch.no_grad():
        return lrp.attribute(x), norm(x) * weights


def affine(module: nn.Module, seed: int = 3) -> nn.Module:
    """Scale and shift drawn anew, in float64."""
    for place, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, 0.5, 0.5, generator=torch.Generator().manual_seed(seed + place))
    return module.double().eval()


sizes = st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(0, 10_000))


@given(sizes)
def test_layer_norm_meets_its_literal_twin(size: tuple[int, int, int]) -> None:
    rows, width, seed = size
    norm, x = affine(nn.LayerNorm(width, eps=EPS), seed), drawn(seed, 1, rows, width)
    found, relevance = explained(norm, x)
    for row in range(rows):
        wanted = centred_twin(x[0, row], relevance[0, row], norm.weight, norm.bias)
        torch.testing.assert_close(found[0, row], wanted, rtol=1e-8, atol=1e-8)
    assert found.abs().sum() > 0


@given(sizes, st.integers(1, 2), st.booleans())
def test_group_and_instance_norm_meet_their_literal_twin(size: tuple[int, int, int], each: int, instance: bool) -> None:
    groups, length, seed = size
    channels = groups * each
    norm = nn.InstanceNorm1d(channels, EPS, affine=True) if instance else nn.GroupNorm(groups, channels, EPS)
    norm, x = affine(norm, seed), drawn(seed, 1, channels, length)
    found, relevance = explained(norm, x)
    per = 1 if instance else each
    scale, shift = (p.detach()[:, None].expand(channels, length) for p in (norm.weight, norm.bias))
    for first in range(0, channels, per):
        some = slice(first, first + per)
        parts = (x[0, some], relevance[0, some], scale[some], shift[some])
        wanted = centred_twin(*(part.flatten() for part in parts)).view(per, length)
        torch.testing.assert_close(found[0, some], wanted, rtol=1e-8, atol=1e-8)


def identity_twin(relevance: Tensor) -> Tensor:
    """``y_i = x_i / s(x)``, s a constant: all relevance passes (AttnLRP, Proposition 3.4 and its appendix A.2.4)."""
    return relevance


@given(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 10_000)), st.sampled_from([1.0, 2.0, 3.0]))
def test_norms_that_only_divide_meet_their_literal_twin(size: tuple[int, int, int], p: float) -> None:
    rows, width, seed = size
    x = drawn(seed, 1, rows, width)
    norms: list[Norm] = [
        affine(nn.RMSNorm(width, eps=EPS), seed), lambda t: functional.normalize(t, p=p, dim=-1),
        nn.LocalResponseNorm(2, alpha=0.5, beta=0.6, k=0.7),
    ]  # fmt: skip
    for norm in norms:
        found, relevance = explained(norm, x)
        torch.testing.assert_close(found, identity_twin(relevance), rtol=1e-8, atol=1e-8)
        assert found.abs().sum() > 0


LAYER, RMS = affine(nn.LayerNorm(4, eps=EPS)), affine(nn.RMSNorm(4, eps=EPS))
GROUP, INSTANCE = affine(nn.GroupNorm(2, 4, EPS)), affine(nn.InstanceNorm1d(4, EPS, affine=True))
LOCAL = nn.LocalResponseNorm(3, alpha=0.5, beta=0.6, k=0.7)


def layer_norm_by_hand(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return LAYER.weight * centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + EPS) + LAYER.bias


def layer_norm_with_var(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + EPS) * LAYER.weight + LAYER.bias


def group_norm_by_hand(x: Tensor) -> Tensor:
    grouped = x.view(len(x), 2, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    scaled = (centred / (grouped.var(-1, keepdim=True, unbiased=False) + EPS).sqrt()).view_as(x)
    return scaled * GROUP.weight[:, None] + GROUP.bias[:, None]


def local_response_by_hand(x: Tensor) -> Tensor:
    squares = functional.pad(x.pow(2), (0, 0, 1, 1))
    mean = (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]) / 3
    return x / (0.7 + 0.5 * mean).pow(0.6)


SPELLINGS: dict[str, list[Norm]] = {
    "layer": [
        LAYER, lambda x: functional.layer_norm(x, (4,), LAYER.weight, LAYER.bias, EPS),
        lambda x: torch.layer_norm(x, (4,), LAYER.weight, LAYER.bias, EPS), layer_norm_by_hand, layer_norm_with_var,
    ],
    "rms": [
        RMS, lambda x: torch.rms_norm(x, (4,), RMS.weight, EPS), lambda x: functional.rms_norm(x, (4,), RMS.weight, EPS),
        lambda x: RMS.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)),
    ],
    "group": [
        GROUP, lambda x: functional.group_norm(x, 2, GROUP.weight, GROUP.bias, EPS),
        lambda x: torch.group_norm(x, 2, GROUP.weight, GROUP.bias, EPS), group_norm_by_hand,
    ],
    "instance": [
        INSTANCE, lambda x: functional.instance_norm(x, weight=INSTANCE.weight, bias=INSTANCE.bias, eps=EPS),
        lambda x: functional.group_norm(x, 4, INSTANCE.weight, INSTANCE.bias, EPS),
        lambda x: torch.instance_norm(x, INSTANCE.weight, INSTANCE.bias, None, None, True, 0.1, EPS, False),
    ],
    "l2": [
        functional.normalize, lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
        lambda x: x * x.pow(2).sum(1, keepdim=True).rsqrt(), lambda x: x / x.square().sum(1, keepdim=True).sqrt(),
    ],
    "local": [
        LOCAL, lambda x: functional.local_response_norm(x, 3, alpha=0.5, beta=0.6, k=0.7), local_response_by_hand,
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", SPELLINGS)
def test_every_spelling_of_a_norm_gives_one_relevance(kind: str) -> None:
    x = drawn(1, 2, 4, 4)
    expected, output = explained(SPELLINGS[kind][0], x)
    assert expected.abs().sum() > 0
    for spelling in SPELLINGS[kind][1:]:
        found, same = explained(spelling, x)
        torch.testing.assert_close(same, output, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


class Recording(nn.Module):
    """A linear layer and a LayerNorm, whose value is kept."""

    def __init__(self, weight: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(5, 8), nn.LayerNorm(8, eps=EPS, elementwise_affine=weight)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        self.seen.append(h.detach())
        return h.square().sum((1, 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU"))])  # fmt: skip
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16", "autocast"])
def test_a_layer_norms_value_is_the_models_own(kind: str, weight: bool, device: str) -> None:
    """Its deviation is taken from the kernel that computes the value: the value, and under autocast its dtype, stay."""
    dtype = torch.float32 if kind == "autocast" else getattr(torch, kind)
    model = Recording(weight).to(device, dtype).eval()
    x = drawn(1, 2, 3, 5).to(device, dtype)
    with torch.autocast(device, torch.bfloat16, enabled=kind == "autocast"):
        model(x)
        UnifiedLRP(model, "epsilon").attribute(x)
    native, explained_value = model.seen
    assert native.dtype == explained_value.dtype
    assert torch.equal(native, explained_value)
