"""A map that is applied again keeps its number among the linear maps; a tensor's own class changes nothing."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.attribution.arguments import read_arguments
from lrp_plugin.attribution.session import Pass
from lrp_plugin.composites import depth, epsilon_gamma_box, last, linear_maps, nth
from lrp_plugin.testing import assert_same_as

COMPOSITES: dict[str, Any] = {
    "first": "epsilon_plus_flat",
    "box": epsilon_gamma_box(-4.0, 4.0),
    "second": Composite([(nth(1), rule("flat")), (linear_maps(), rule("epsilon", epsilon=0.1))]),
    "last": Composite([(last(), rule("zplus")), (linear_maps(), rule("epsilon", epsilon=0.1))]),
    "lower half": Composite([(depth(0, 0.5), rule("wsquare")), (linear_maps(), rule("gamma"))]),
}


class Slices(nn.Module):
    """A backbone over the slices of a volume (N, slices, 1, H, W), one by one or all at once."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "loop":
            found = torch.stack([self.backbone(2 * x[:, place]) for place in range(x.shape[1])], 1)
        elif self.way == "vmap":
            found = torch.func.vmap(self.backbone, in_dims=1, out_dims=1)(2 * x)
        else:
            found = self.backbone(2 * x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(found.mean((3, 4))).amax(1)


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("way", ["loop", "vmap"])
def test_a_loop_over_slices_is_one_call(way: str, name: str) -> None:
    plain, spelled = (Slices(how).double().eval() for how in ("flat", way))
    x = torch.randn(2, 3, 1, 7, 7, dtype=torch.float64)
    mine, theirs = (UnifiedLRP(net, composite=COMPOSITES[name]) for net in (plain, spelled))
    assert_same_as(mine, theirs, x, 1)


@pytest.mark.parametrize("name", COMPOSITES)
def test_two_inputs_of_one_encoder_get_one_rule(name: str) -> None:
    encoder = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    first, second = torch.randn(2, 2, 4, dtype=torch.float64)
    lrp = UnifiedLRP(lambda a, b: encoder(a) + encoder(b), composite=COMPOSITES[name])
    one, other = lrp.attribute((first, second), target=1)
    swapped_other, swapped_one = lrp.attribute((second, first), target=1)
    torch.testing.assert_close((one, other), (swapped_one, swapped_other), rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["given", "around"])
def test_members_of_an_ensemble_stand_for_one_another(way: str) -> None:
    members = [nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval() for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(members)  # type: ignore[arg-type]

    def ensemble(x: Tensor) -> Tensor:
        def member(state: Any, given: Tensor) -> Any:
            return torch.func.functional_call(members[0], state, (given,))

        if way == "around":  # the function has the signal from around it
            return torch.func.vmap(lambda state: member(state, x))(stacked).mean(0)
        return torch.func.vmap(member, in_dims=(0, None))(stacked, x).mean(0)

    x = torch.randn(2, 4, dtype=torch.float64)
    found = UnifiedLRP(ensemble, composite="epsilon_plus_flat").attribute(x, target=1)
    each = [UnifiedLRP(one, composite="epsilon_plus_flat").attribute(x, target=1) for one in members]
    # A mean's share of each member is its own output's: maps add up as the outputs do.
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-8, atol=1e-12)


class Attentive(nn.Module):
    """Attention, whose three projections are one map, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))  # type: ignore[no-any-return]


def test_the_last_map_behind_attention_is_found() -> None:
    """Counting each projection made ``last()`` look for the fifth of three maps, and match nothing."""
    plan = UnifiedLRP(Attentive().eval(), composite=COMPOSITES["last"]).plan(torch.randn(2, 5, 8))
    numbered = [(site.index, choice.rule.name) for site, choice in plan.entries if site.index is not None]
    assert numbered == [(0, "epsilon")] * 3 + [(1, "epsilon"), (2, "zplus")]


class Tagged(Tensor):
    """A tensor with a class of its own, as other packages hand out their pictures."""


@pytest.mark.parametrize(
    "options", [{"rule": "zero"}, {"rule": "zplus"}, {"rule": "alphabeta"}, {"composite": "epsilon_plus_flat"}]
)
def test_an_input_of_a_class_of_its_own_is_a_tensor(options: dict[str, Any]) -> None:
    network = (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double().eval()
    )
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    lrp = UnifiedLRP(network, **options)
    found = lrp.attribute(x.as_subclass(Tagged), target=1)  # type: ignore[arg-type]
    torch.testing.assert_close(found.as_subclass(Tensor), lrp.attribute(x, target=1), rtol=1e-12, atol=0)
    assert float(lrp.ledger(x.as_subclass(Tagged), target=1).gap.abs().max()) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.MultiheadAttention, nn.Embedding])
def test_a_class_of_its_own_meets_every_kind_of_layer(kind: Any) -> None:
    given = torch.tensor([[1, 4], [0, 2]]) if kind is nn.Embedding else torch.randn(2, 3, 4, dtype=torch.float64)
    layer = kind(5, 4) if kind is nn.Embedding else kind(4, 2, batch_first=True)
    head = nn.Linear(4 if kind in (nn.Embedding, nn.MultiheadAttention) else 2, 3)
    layer, head = layer.double().eval(), head.double()

    def network(x: Tensor) -> Tensor:
        found = layer(x, x, x)[0] if kind is nn.MultiheadAttention else layer(x)
        return head((found[0] if isinstance(found, tuple) else found).relu().mean(1))

    for options in ({"rule": "zplus"}, {"rule": "epsilon", "bias": "distribute"}):
        lrp = UnifiedLRP(network, **options)
        found = lrp.attribute(given.as_subclass(Tagged), target=1)  # type: ignore[arg-type]
        torch.testing.assert_close(found.as_subclass(Tensor), lrp.attribute(given, target=1), rtol=1e-12, atol=1e-15)


def test_ids_from_around_a_vmap_are_explained() -> None:
    tables = torch.randn(3, 5, 4, dtype=torch.float64)
    head, ids = nn.Linear(4, 2).double(), torch.tensor([[1, 4], [0, 2]])

    def around(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda table: head(nn.functional.embedding(x, table).mean(1)))(tables).mean(0)

    def loop(x: Tensor) -> Tensor:
        return torch.stack([head(nn.functional.embedding(x, table).mean(1)) for table in tables]).mean(0)

    found, meant = (UnifiedLRP(one, rule="zplus").attribute(ids, target=1) for one in (around, loop))
    torch.testing.assert_close(found, meant, rtol=1e-10, atol=0)


def test_weights_that_a_pass_computes_are_let_go_of() -> None:
    """A number is by the weight's address, so the count holds it; no longer than the forward pass."""
    made: list[weakref.ref[Tensor]] = []
    weight, other = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)

    def network(x: Tensor) -> Tensor:
        computed = weight * 2
        made.append(weakref.ref(computed))
        return nn.functional.linear(nn.functional.linear(x, computed).relu(), other)

    def alive(passed: Pass) -> bool:
        passed.relevance()
        return made[-1]() is not None

    given = read_arguments(torch.randn(2, 4, dtype=torch.float64), None, None)
    assert not UnifiedLRP(network, rule="epsilon").session.using(alive, *given, 0)
