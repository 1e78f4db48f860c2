"""Integer tokens that a model moves and writes in place: their relevance goes where the tokens came from."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP, UnsupportedOperationWarning
from lrp_plugin.testing import assert_model_untouched


class Reader(nn.Module):
    """Moved token ids to two scores; each place has its own weights."""

    def __init__(self, moved: Callable[[Tensor], Tensor], padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(12, 3, padding_idx=padding), nn.Linear(12, 2)
        self.moved = moved
        self.double().eval()

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (N, 2) of ``ids`` (N, 4)."""
        return self.head(torch.tanh(self.embed(self.moved(ids))).flatten(1))


def joined(ids: Tensor) -> Tensor:
    return torch.cat([torch.full_like(ids[:, :1], 9), ids[:, :-1]], 1)


def written(ids: Tensor) -> Tensor:
    shifted = ids.new_zeros(ids.shape)
    shifted[..., 1:] = ids[..., :-1].clone()
    shifted[..., 0] = 9
    return shifted


def through_a_view(ids: Tensor) -> Tensor:
    shifted = torch.full_like(ids, 9)
    shifted[:, 1:].copy_(ids[:, :-1])
    return shifted


def seen_by_an_earlier_view(ids: Tensor) -> Tensor:
    room = ids.new_zeros(len(ids), 5)
    view = room[:, :4]
    room[:, 1:] = ids
    view[:, 0] = torch.tensor(9)
    return view


def over_themselves(ids: Tensor) -> Tensor:
    shifted = ids.clone()
    part = shifted[:, 1:]
    part[:] = ids[:, :-1]
    shifted[:, 0].fill_(9)
    return shifted


def rolled(ids: Tensor) -> Tensor:
    shifted = torch.roll(ids, 1, 1)
    shifted[:, 0] = 9
    return shifted


def padded(ids: Tensor) -> Tensor:
    return functional.pad(ids, (1, 0), value=9)[:, :-1]


def masked(ids: Tensor) -> Tensor:
    shifted = torch.roll(ids, 1, 1)
    first = torch.arange(ids.shape[1]) == 0
    return shifted.masked_fill_(first, 9)


def overwritten(ids: Tensor) -> Tensor:
    shifted = torch.roll(ids, 2, 1)
    shifted.zero_()
    shifted += 9
    shifted[:, 1:] = ids[:, :-1]
    return shifted


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])


@pytest.mark.parametrize(
    "moved",
    [written, through_a_view, seen_by_an_earlier_view, over_themselves, rolled, padded, masked, overwritten],
)
@pytest.mark.parametrize("padding", [None, 0])
def test_a_shift_in_any_spelling_gives_one_relevance(moved: Callable[[Tensor], Tensor], padding: int | None) -> None:
    assert torch.equal(moved(IDS.clone()), joined(IDS))
    expected = UnifiedLRP(Reader(joined, padding), strict=True).attribute(IDS, 1)
    lrp = UnifiedLRP(Reader(moved, padding), strict=True)
    torch.testing.assert_close(lrp.attribute(IDS, 1), expected)
    assert expected[:, 3].abs().max() == 0 and expected[0, :3].abs().min() > 0
    assert (expected[1, 2] == 0) == (padding == 0)
    assert lrp.ledger(IDS, 1).gap.abs().max() < 1e-9
    assert_model_untouched(lrp, IDS, 1)


def test_tokens_overwritten_by_constants_carry_nothing() -> None:
    def blank(ids: Tensor) -> Tensor:
        held = ids.clone()
        held[:, :2] = ids[:, 2:]
        held.fill_(3)
        held[:, 3:] = ids[:, :1]
        return held

    lrp = UnifiedLRP(Reader(blank), strict=True)
    relevance = lrp.attribute(IDS, 1)
    assert relevance[:, 1:].abs().max() == 0 and relevance[:, 0].abs().min() > 0
    assert lrp.ledger(IDS, 1).gap.abs().max() < 1e-9


def test_arithmetic_on_tokens_is_told() -> None:
    class Computed(Reader):
        """Reads the ids themselves, and others computed from them."""

        def forward(self, ids: Tensor) -> Tensor:
            kinds = torch.zeros_like(ids) * 2 + (ids > 3).long()
            return super().forward(ids) + super().forward((ids * 3).clamp(max=11)) + super().forward(kinds)

    model = Computed(lambda ids: ids)
    with pytest.warns(
        UnsupportedOperationWarning, match=r"'mul' in the model's own forward computes new integers.*Layer"
    ):
        UnifiedLRP(model).attribute(IDS, 1)
    with warnings.catch_warnings():  # a place, a comparison, a tensor of the same shape: nothing to tell
        warnings.simplefilter("error")
        UnifiedLRP(Reader(lambda ids: ids.clamp(max=11))).attribute(IDS, 1)
        UnifiedLRP(Reader(lambda ids: torch.where(ids == 0, torch.ones_like(ids), ids))).attribute(IDS, 1)
    with pytest.warns(UnsupportedOperationWarning):
        inside = LayerUnifiedLRP(model, model.embed).attribute(IDS, 1)
    assert inside.shape == (2, 4, 3) and inside.abs().sum() > 0


@pytest.mark.parametrize("rule", ["flat", "wsquare", "epsilon"])
def test_a_constant_put_beside_a_signal_is_nobody_s_port(rule: str) -> None:
    """The port of a constant is 0, whatever its value: it was minus the value, and flat's relevance changed its sign."""

    class Tokenized(nn.Module):
        """A class token before the entries, as a vision transformer has."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.map, self.head = nn.Linear(5, 6), nn.Linear(6, 2)
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            """Scores (N, 2) of ``x`` (N, 3)."""
            return self.head(torch.relu(self.map(torch.cat([torch.full_like(x[:, :2], 5.0), x], 1))))

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bias = {"bias": "distribute"} if rule == "epsilon" else {}
    lrp = UnifiedLRP(Tokenized(), rule=rule, strict=True, **bias)
    ledger = lrp.ledger(x, 1)
    assert ledger.gap.abs().max() < 1e-9
    if rule == "flat":
        torch.testing.assert_close(ledger.input, ledger.output, rtol=1e-6, atol=1e-6)
