"""Contrasts and conditions: what classes are explained against, and what relevance passes through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP
from lrp_plugin.concepts import ConceptLRP
from lrp_plugin.contrast import Difference, LogOdds


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).relu().mean((2, 3)))


X = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
COMPOSITES = ("epsilon", "epsilon_plus", "epsilon_plus_flat", "gamma")


def explainer(kind: type[UnifiedLRP], model: nn.Module, name: str) -> UnifiedLRP:
    return kind(model, rule=name) if name in ("epsilon", "gamma") else kind(model, composite=name)


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_difference_is_the_difference_of_relevances_under_linear_rules(name: str) -> None:
    """In the rules' backward the multiplier enters linearly, whatever the rule; the ledger closes and batches divide it."""
    model = Net()
    lrp = explainer(UnifiedLRP, model, name)
    found = lrp.attribute(X, target=Difference(0, [2, 1, 2]))
    a, b = lrp.attribute(X, target=0), lrp.attribute(X, target=[2, 1, 2])
    torch.testing.assert_close(found, a - b, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(lrp.attribute(X, target=Difference(0, [2, 1, 2]), internal_batch_size=2), found)
    assert lrp.ledger(X, target=Difference(0, 2)).gap.abs().max() < 1e-9


def test_log_odds_weigh_the_others_by_their_share() -> None:
    model = Net()
    lrp = UnifiedLRP(model)
    logits = model(X).detach()
    odds = LogOdds(1)(logits)
    p = logits.softmax(1)[:, 1]
    torch.testing.assert_close(odds, torch.log(p / (1 - p)))
    rest = logits[:, [0, 2]].softmax(1)
    maps = [lrp.attribute(X, target=k) for k in range(3)]
    wanted = maps[1] - rest[:, 0].view(-1, 1, 1, 1) * maps[0] - rest[:, 1].view(-1, 1, 1, 1) * maps[2]
    torch.testing.assert_close(lrp.attribute(X, target=LogOdds(1)), wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(lrp.attribute(X, target=lambda z: z[:, 1] - z[:, [0, 2]].logsumexp(1)), wanted)
    assert lrp.ledger(X, target=LogOdds([0, 1, 2])).gap.abs().max() < 1e-9


@pytest.mark.parametrize(
    ("target", "message"),
    [(lambda z: z, "one number for each"), (lambda z: torch.zeros(3), "does not depend"), (lambda z: 3, "returned int"),
     (Difference(0, 7), "out of range"), (LogOdds([0, 1]), "one for each example")],
)  # fmt: skip
def test_functions_that_are_no_targets_are_named(target: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnifiedLRP(Net()).attribute(X, target=target)


@given(st.integers(0, 1000), st.sampled_from(COMPOSITES), st.sampled_from(["first", "second"]))
def test_conditions_that_divide_a_layer_add_up(seed: int, name: str, layer: str) -> None:
    model = Net(seed)
    lrp = explainer(ConceptLRP, model, name)
    whole = lrp.attribute(X, target=1)
    torch.testing.assert_close(whole, explainer(UnifiedLRP, model, name).attribute(X, target=1))
    parts = lrp.attribute_conditions(
        X, [{layer: [0, 2]}, {layer: 1}, {layer: [3, 4] if layer == "second" else 3}, {}], target=1
    )
    torch.testing.assert_close(parts[:3].sum(0), whole, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(parts[3], whole, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(parts[0], whole)


def test_a_condition_by_hand() -> None:
    """LRP-0 is gradient times input: through channel 2 of ``first`` it is that of a copy with the others detached."""
    model = Net()
    lrp = ConceptLRP(model, "zero")
    x = X.clone().requires_grad_()
    hidden = model.first(x)
    kept = torch.zeros(4, dtype=torch.bool)
    kept[2] = True
    mixed = torch.where(kept[:, None, None], hidden, hidden.detach())
    out = model.head(model.second(mixed).relu().mean((2, 3)))[:, 0].sum()
    wanted = X * torch.autograd.grad(out, x)[0]
    torch.testing.assert_close(lrp.attribute(X, target=0, condition={"first": 2}), wanted, rtol=1e-9, atol=1e-11)
    masked = lrp.attribute(X, target=0, condition={"first": lambda value: kept[:, None, None].expand(value.shape)})
    torch.testing.assert_close(masked, wanted, rtol=1e-9, atol=1e-11)


def test_conditions_on_two_layers_and_several_at_once_with_targets_for_each_example() -> None:
    model, target = Net(), [0, 2, 1]
    lrp = ConceptLRP(model, composite="epsilon_plus")
    conditions = [{"first": [0, 1], "second": 3}, {"second": 3}, {"first": 2, "second": 3}, {"first": 3, "second": 3}]
    found = lrp.attribute_conditions(X, conditions, target=target)
    torch.testing.assert_close(found[0] + found[2] + found[3], found[1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(lrp.attribute_conditions(X, conditions, target=target, at_once=3), found)
    for place, condition in enumerate(conditions):
        torch.testing.assert_close(lrp.attribute(X, target=target, condition=condition), found[place])
    contrast = Difference([0, 2, 1], 1)
    one = lrp.attribute_conditions(X, [{}, {}], target=contrast)
    torch.testing.assert_close(one[1], lrp.attribute(X, target=contrast), rtol=1e-8, atol=1e-10)
    assert not any(module._forward_hooks for module in model.modules())


def test_top_channels_are_those_of_the_layer_s_relevance() -> None:
    model = Net()
    lrp = ConceptLRP(model, composite="epsilon_plus")
    channels, relevance = lrp.top_channels(X, "second", target=1, k=2)
    wanted = LayerUnifiedLRP(model, model.second, composite="epsilon_plus").attribute(X, target=1).sum((2, 3))
    order = wanted.abs().argsort(1, descending=True)[:, :2]
    assert torch.equal(channels, order)
    torch.testing.assert_close(relevance, wanted.gather(1, order))


class Heads(nn.Module):
    """Attention by hand: three heads side by side, mixed by ``mix``; only the second head has values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = self.Inner()
        self.mix = nn.Linear(6, 2)
        self.double().eval()

    class Inner(nn.Module):
        num_heads = 3

        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 18)
            with torch.no_grad():
                self.qkv.weight[12:14], self.qkv.weight[16:] = 0, 0
                self.qkv.bias[12:14], self.qkv.bias[16:] = 0, 0

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (3, 2)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
            return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.inner(x)).mean(1)


def test_top_heads_and_channels_of_tokens() -> None:
    model, x = Heads(), torch.randn(2, 5, 4).double()
    lrp = ConceptLRP(model, composite="attnlrp")
    found = lrp.top_heads(x, "inner", target=0, k=3)
    assert found.channels[:, 0].tolist() == [1, 1] and found.relevance[:, 1:].abs().max() == 0
    assert set(lrp.top_channels(x, "inner", target=0, k=2).channels[0].tolist()) == {2, 3}
    whole = lrp.attribute(x, target=0)
    torch.testing.assert_close(lrp.attribute(x, target=0, condition={"inner": [2, 3]}), whole)
    assert lrp.attribute(x, target=0, condition={"inner": [0, 1, 4, 5]}).abs().max() == 0
    with pytest.raises(ValueError, match="4 heads in 6 entries"):
        lrp.top_heads(x, "inner", target=0, heads=4)
    mixed = nn.Sequential(nn.MultiheadAttention(4, 2, batch_first=True))
    with pytest.raises(ValueError, match="has mixed its heads"):
        ConceptLRP(mixed).top_heads(x, "0")


def test_layers_and_channels_that_are_not_there_are_named() -> None:
    lrp = ConceptLRP(Net())
    with pytest.raises(ValueError, match="no layer 'third'"):
        lrp.attribute(X, target=0, condition={"third": 0})
    with pytest.raises(ValueError, match="legal are 0 to 4"):
        lrp.attribute(X, target=0, condition={"second": [0, 9]})
    with pytest.raises(ValueError, match="conditions is empty"):
        lrp.attribute_conditions(X, [], target=0)
    with pytest.raises(TypeError, match="verbose"):
        lrp.attribute(X, target=0, condition={"second": 0}, verbose=True)


@pytest.mark.parametrize("place", [-6, 5, [0, -6]])
def test_classes_that_are_not_there_are_named_in_a_contrast(place: object) -> None:
    value = torch.randn(2, 5)
    for contrast in (LogOdds(place), Difference(place, 0), Difference(0, place)):
        with pytest.raises(ValueError, match=r"out of range: legal are 0 to 4"):
            contrast(value)
    torch.testing.assert_close(LogOdds(-5)(value), LogOdds(0)(value))
