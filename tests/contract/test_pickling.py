"""Explainers, composites, registries and ledgers go through pickle, deepcopy and a spawned worker, and explain the same."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import Composite, LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP, registry, rule
from lrp_plugin.algebra.primitives import scale
from lrp_plugin.composites import (
    anything,
    convolutions,
    dense,
    depth,
    first,
    last,
    linear_maps,
    module,
    nth,
    operation,
    path,
    predicate,
)  # fmt: skip
from lrp_plugin.composites.ready import READY
from lrp_plugin.composites.site import Site
from lrp_plugin.pyhealth import UnifiedLRP as PyHealthLRP


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.GELU(), nn.Linear(4, 2)
    ).double().eval()  # fmt: skip


X = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def in_the_head(site: Site) -> bool:
    return site.path == "4"


def halved(call: Any, *, factor: float = 0.5) -> Tensor:
    value = call.native()
    call.absorb("other", lambda m: (1 - factor) * value.detach() * m)
    return scale(value, factor)


EVERY = Composite(
    [
        (first(), rule("flat")), (last(), rule("zplus")), (path("4") & module(nn.Linear), rule("gamma", gamma=0.1)),
        (nth(index=7) | depth(0.9, stop=1.0) | predicate(in_the_head), "epsilon"), (~anything(), "zero"),
        (convolutions(), "zplus"), (dense(), rule("epsilon", epsilon=0.1)), (operation("gelu"), "identity"),
    ]
)  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {}, {"rule": "gamma"}, {"composite": EVERY}, *({"composite": name} for name in READY), {"output": None, "strict": False},
    {"bias": "distribute", "rule": "zplus"},
]  # fmt: skip


def attribute_there(pickled: bytes, x: Tensor) -> Tensor:
    """Runs in a spawned process, which knows nothing but what was sent."""
    return pickle.loads(pickled).attribute(x, 1)


@pytest.mark.parametrize(
    "again", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_explainer_explains_the_same(again: Any, options: dict[str, Any]) -> None:
    lrp = UnifiedLRP(network(), **options)
    expected = lrp.attribute(X, 1)
    size = len(pickle.dumps(lrp))
    other = again(lrp)
    assert other.composite == lrp.composite and str(other.composite) == str(lrp.composite)
    assert other.registry is registry and other.model is not lrp.model
    assert torch.equal(other.attribute(X, 1), expected)
    lrp.ledger(X, 1)
    assert len(pickle.dumps(lrp)) == size  # no cache, no graph goes along
    account = again(lrp.ledger(X, 1))
    assert account.table() == lrp.ledger(X, 1).table() and torch.equal(account.gap, lrp.ledger(X, 1).gap)


@pytest.mark.parametrize(
    "again", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_layers_units_and_pyhealths(again: Any) -> None:
    model = network()
    for kind, place in ((LayerUnifiedLRP, 1), (NeuronUnifiedLRP, (1, 2, 2))):
        lrp = kind(model, model[0], rule="zplus")
        assert torch.equal(again(lrp).attribute(X, place), lrp.attribute(X, place))
    named = PyHealthLRP(model)
    assert torch.equal(again(named).attribute({"input": X}, 1)["input"], named.attribute({"input": X}, 1)["input"])


def test_a_registry_of_ones_own_keeps_its_rules_and_their_order() -> None:
    mine = registry.copy()
    mine.register("halved", "relu", default=True)(halved)
    lrp = UnifiedLRP(network(), registry=mine)
    other = pickle.loads(pickle.dumps(lrp))
    assert [*other.registry] == [*mine] and other.registry.find("relu").name == "halved"
    assert torch.equal(other.attribute(X, 1), lrp.attribute(X, 1))
    assert pickle.loads(pickle.dumps(registry)) is registry and copy.deepcopy(registry) is registry
    assert not torch.equal(lrp.attribute(X, 1), UnifiedLRP(network()).attribute(X, 1))


def test_a_compiled_explainer_compiles_anew() -> None:
    lrp = UnifiedLRP(network(), compile=True)
    expected = lrp.attribute(X, 1)
    assert torch.equal(pickle.loads(pickle.dumps(lrp)).attribute(X, 1), expected)


def test_a_spawned_worker_explains() -> None:
    lrp = UnifiedLRP(network(), composite=Composite([(first(), "flat"), (linear_maps(), rule("zplus"))]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(attribute_there, (pickle.dumps(lrp), X))
    assert torch.equal(found, lrp.attribute(X, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: path(5), lambda: module("Conv2d"), lambda: module(), lambda: module(nn.ReLU()), lambda: operation(5),
        lambda: operation(), lambda: nth("first"), lambda: nth(0.5), lambda: depth("a", 1), lambda: depth(0.5, 0.1),
        lambda: predicate("conv"), lambda: depth(float("nan"), 1),
    ],
)  # fmt: skip
def test_selectors_of_nothing_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="legal is"):
        make()
