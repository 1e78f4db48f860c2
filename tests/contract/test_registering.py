"""What is registered, chosen or asked for and cannot be meant is refused where it is said."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lrp_plugin import Composite, LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP, registry, rule
from lrp_plugin.algebra.primitives import scale
from lrp_plugin.composites import anything, epsilon_gamma_box, epsilon_plus, first, linear_maps
from lrp_plugin.pyhealth import UnifiedLRP as PyHealthLRP

MODEL = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "spec",
    [
        rule("epsilon", epsilon=-0.5), rule("epsilon", epsilon=float("inf")), rule("epsilon", epsilon=float("nan")),
        rule("epsilon", epsilon="a"), rule("epsilon", epsilon=True), rule("epsilon", epsilon=None),
        rule("gamma", gamma=-1), rule("gamma", gamma=float("inf")), rule("zplus", stabilizer=-1e-9),
        rule("zplus", bias="drop"), rule("alphabeta", alpha=2, beta=2), rule("alphabeta", alpha=0.5, beta=-0.5),
        rule("zbox", low=1.0, high=0.0), rule("zbox", low=2.0), rule("zbox", high=float("inf")), rule("zbox", low="a"),
        rule("zbox", low=torch.zeros(4), high=torch.tensor([1.0, 1, -1, 1])),
        rule("zbox", low=torch.zeros(3), high=torch.ones(4)),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_name_rule_and_parameter(spec: Any) -> None:
    with pytest.raises(ValueError, match=f"rule '{spec.name}': .*({'|'.join(spec.parameters)})"):
        UnifiedLRP(MODEL, composite=Composite([(linear_maps(), spec)]))


@pytest.mark.parametrize("composite", [[(linear_maps(), "zplus")], 5, object(), True, {"linear": "zplus"}])
def test_what_is_no_composite_is_refused(composite: Any) -> None:
    with pytest.raises(ValueError, match=r"composite=.* legal are a Composite"):
        UnifiedLRP(MODEL, composite=composite)


@pytest.mark.parametrize("pairs", [5, "zplus", [("linear", "zplus")], [(anything(),)], [(anything(), 3)], [anything()]])
def test_what_is_no_list_of_pairs_is_refused(pairs: Any) -> None:
    with pytest.raises(TypeError, match="[Cc]omposite"):
        Composite(pairs)


@pytest.mark.parametrize("options", [{"sign": "bogus"}, {"port": "out"}, {"ports": True, "colour": 1}])
def test_a_trait_that_there_is_not_is_refused(options: dict[str, Any]) -> None:
    mine = registry.copy()
    with pytest.raises(ValueError, match="rule 'mine'.*legal are"):
        mine.register("mine", "relu", **options)
    assert ("relu", "mine") not in mine


@pytest.mark.parametrize("name", ["mine", 3])
@pytest.mark.parametrize("operations", [(), (5,), (nn.ReLU(),)])
def test_names_of_other_kinds_are_refused(name: Any, operations: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="register_rule|operation"):
        registry.copy().register(name, *operations)
    with pytest.raises(TypeError, match="formula is a int"):
        registry.copy().register("mine", "relu")(5)


def test_options_reach_a_ready_composite_or_are_refused() -> None:
    by_name = UnifiedLRP(MODEL, composite="epsilon_plus", bias="distribute", epsilon=5.0)
    built = UnifiedLRP(MODEL, composite=epsilon_plus(bias="distribute", epsilon=5.0))
    assert by_name.composite == built.composite
    assert torch.equal(by_name.attribute(X, 1), built.attribute(X, 1))
    assert not torch.allclose(by_name.attribute(X, 1), UnifiedLRP(MODEL, composite="epsilon_plus").attribute(X, 1))
    for options in ({"gamma": 1.0}, {"alpha": 2.0}, {"rule": "zplus"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            UnifiedLRP(MODEL, composite="epsilon_plus", **options)
    for options in ({"epsilon": 5.0}, {"bias": "distribute"}, {"rule": "zplus"}, {"beta": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            UnifiedLRP(MODEL, composite=epsilon_plus(), **options)
        for kind in (LayerUnifiedLRP, NeuronUnifiedLRP):
            with pytest.raises(ValueError, match=next(iter(options))):
                kind(MODEL, MODEL[0], composite=epsilon_plus(), **options)
    for make in (
        lambda: LayerUnifiedLRP(MODEL, MODEL[0], compile=True),
        lambda: NeuronUnifiedLRP(MODEL, MODEL[0], compile=True),
        lambda: PyHealthLRP(MODEL, compile=True),
    ):
        with pytest.raises(ValueError, match="compile= is not offered"):
            make()
    named = PyHealthLRP(MODEL, composite="epsilon_plus", epsilon=5.0, bias="distribute", validate_conservation=False)
    assert torch.equal(named.attribute({"input": X}, 1)["input"], built.attribute(X, 1))


@pytest.mark.parametrize("compile", [False, True])
def test_another_composite_counts_from_the_next_call(compile: bool) -> None:
    if compile:
        pytest.importorskip("torch._inductor")
    lrp = UnifiedLRP(MODEL, compile=compile)
    before = lrp.attribute(X, 1)
    lrp.composite = "epsilon_plus_flat"
    for _ in range(2):
        found = lrp.attribute(X, 1)
        torch.testing.assert_close(found, UnifiedLRP(MODEL, composite="epsilon_plus_flat").attribute(X, 1))
        assert not torch.allclose(found, before)
    with pytest.raises(ValueError, match="unknown composite"):
        lrp.composite = "epsilon_pluss"
    with pytest.raises(AttributeError):
        lrp.registry = registry.copy()
    torch.testing.assert_close(lrp.attribute(X, 1), found)


@pytest.mark.parametrize("options", [{"rule": "alphabeta", "alpha": 1.0}, {"rule": "alphabeta", "beta": 0.0}])
def test_beta_is_alpha_less_one(options: dict[str, Any]) -> None:
    both = UnifiedLRP(MODEL, "alphabeta", alpha=1.0, beta=0.0)
    assert torch.equal(UnifiedLRP(MODEL, **options).attribute(X, 1), both.attribute(X, 1))


def test_inputs_beyond_the_bounds_of_the_box_are_told() -> None:
    images = X.abs() / X.abs().max()
    lrp = UnifiedLRP(MODEL, composite=epsilon_gamma_box(0.0, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lrp.attribute(images, 1).shape == images.shape
    with pytest.warns(UserWarning, match=r"rule 'zbox'.*input runs from .* to 2, beyond the bounds 0 to 1"):
        lrp.attribute(images * 2, 1)
    low = torch.tensor([0.0, 0.0, 0.0, 0.9])
    with pytest.warns(UserWarning, match="rule 'zbox'"):
        UnifiedLRP(MODEL, composite=Composite([(first(), rule("zbox", low=low, high=1.0))])).attribute(images, 1)


class Gated(nn.Module):
    """A module that is one operation where a rule is registered for its type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


@pytest.mark.filterwarnings("error:compile=")
def test_compiled_passes_see_atomic_modules() -> None:
    pytest.importorskip("torch._inductor")
    mine = registry.copy()

    @mine.register("half", Gated)
    def half(call: Any) -> torch.Tensor:
        return scale(call.native(), 0.5)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), Gated(), nn.Linear(5, 2)).double().eval()
    expected = UnifiedLRP(model, registry=mine).attribute(X.double(), 1)
    compiled = UnifiedLRP(model, registry=mine, compile=True)
    for _ in range(2):
        torch.testing.assert_close(compiled.attribute(X.double(), 1), expected)
    assert not torch.allclose(UnifiedLRP(model).attribute(X.double(), 1), expected)


def test_a_rule_is_registered_once() -> None:
    mine = registry.copy()

    def other(call: Any) -> torch.Tensor:
        return scale(call.native(), 0.5)

    before = mine.find("relu", mine.names("relu")[0])
    assert before is not None
    with pytest.raises(ValueError, match=r"registered already; pass override=True"):
        mine.register(before.name, "relu")(other)
    assert mine.find("relu", before.name) is before
    mine.register(before.name, "relu", override=True)(other)
    assert mine.find("relu", before.name).formula is other  # type: ignore[union-attr]
    assert registry.find("relu", before.name) is before, "a copy is one's own"
    mine.register("other", "relu")(other)
    assert mine.defaults()["relu"].name != "other"
    mine.register("last", "relu", default=True)(other)
    assert mine.defaults()["relu"].name == "last" == mine.find("relu").name  # type: ignore[union-attr]
