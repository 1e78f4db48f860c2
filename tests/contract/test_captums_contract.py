"""What code written for Captum's methods may rely on, method by method."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LRP, LayerLRP, NoiseTunnel
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule, PropagationRule
from captum.concept import TCAV, Concept
from captum.concept._utils.data_iterator import dataset_to_dataloader
from torch import Tensor, nn
from torch.utils.data import Dataset

from lrp_plugin import Composite, LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP, rule
from lrp_plugin.composites import path


def network(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias)
    ).eval()  # fmt: skip


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).abs()


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_takes_every_method(kind: str) -> None:
    model = network()
    calls: list[tuple[Any, dict[str, Any]]] = [
        (UnifiedLRP(model), {"target": 1}),
        (LayerUnifiedLRP(model, model[2]), {"target": 1}),
        (NeuronUnifiedLRP(model, model[2]), {"neuron_selector": 3}),
    ]
    for method, options in calls:
        torch.manual_seed(0)
        found = NoiseTunnel(method).attribute(X, nt_type=kind, nt_samples=3, stdevs=0.0, **options)
        wanted = method.attribute(X, **options)
        wanted = {"smoothgrad": wanted, "smoothgrad_sq": wanted**2, "vargrad": 0 * wanted}[kind]
        torch.testing.assert_close(found, wanted)
    _, delta = NoiseTunnel(UnifiedLRP(model)).attribute(
        X, nt_samples=2, stdevs=0.0, target=1, return_convergence_delta=True
    )
    _, once = UnifiedLRP(model).attribute(X, 1, return_convergence_delta=True)
    torch.testing.assert_close(delta, once.repeat_interleave(2))


class Around(Dataset[Tensor]):
    """Examples of a concept."""

    def __init__(self, centre: float) -> None:
        self.examples = torch.randn(8, 4, generator=torch.Generator().manual_seed(3)) + centre

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> Tensor:
        return self.examples[place]


def test_tcav_takes_it(tmp_path: Any) -> None:
    pytest.importorskip("sklearn", reason="Captum's classifier of concepts needs it")
    model = network()
    concepts = [Concept(k, name, dataset_to_dataloader(Around(2.0 * k))) for k, name in enumerate(("low", "high"))]
    method = LayerUnifiedLRP(model, model[0], rule="zero")
    tcav = TCAV(model, ["0", "2"], layer_attr_method=method, save_path=str(tmp_path))
    found = tcav.interpret(X, [concepts], target=1)
    scores = next(iter(found.values()))
    assert set(scores) == {"0", "2"} and all(0 <= float(one["sign_count"].sum()) <= 2 for one in scores.values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_way_works_in_every_mode(mode: Any) -> None:
    model = network()
    layer, unit, lrp = LayerUnifiedLRP(model, model[2]), NeuronUnifiedLRP(model, model[2]), UnifiedLRP(model, "zplus")

    def everything(x: Tensor) -> list[Tensor]:
        return [
            lrp.attribute(x, 1), lrp.attribute_targets(x, [0, [1, 2]]), lrp.ledger(x, 1).absorbed, layer.attribute(x, 1),
            layer.attribute(x, 1, attribute_to_layer_input=True), unit.attribute(x, 3),
            unit.attribute(x, 3, attribute_to_neuron_input=True),
        ]  # fmt: skip

    expected = everything(X)
    with mode():
        found = everything(X.clone())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.clone(), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_delta_is_of_the_outputs_dtype(dtype: torch.dtype) -> None:
    model, x = network().to(dtype), X.to(dtype)
    lrp = UnifiedLRP(model)
    found, delta = lrp.attribute(x, 1, return_convergence_delta=True)
    assert delta.dtype == dtype and delta.shape == (2,) and lrp.has_convergence_delta() and lrp.multiplies_by_inputs
    again = lrp.compute_convergence_delta(found, model(x)[:, 1])
    torch.testing.assert_close(again, delta)
    torch.testing.assert_close(lrp.compute_convergence_delta((found,), model(x)[:, 1:2]), delta)
    _, halves = lrp.attribute(x, 1, return_convergence_delta=True, internal_batch_size=1)
    torch.testing.assert_close(halves, delta)
    with pytest.raises(ValueError, match="2 examples for 3 outputs"):
        lrp.compute_convergence_delta(found, torch.zeros(3))


def test_futures_are_refused_as_captums_lrp_does() -> None:
    with pytest.raises(NotImplementedError, match="call attribute"):
        UnifiedLRP(network()).attribute_future(X)


def test_the_arguments_of_layer_lrp_stand_in_its_order() -> None:
    theirs = list(inspect.signature(LayerLRP.attribute).parameters)
    assert list(inspect.signature(LayerUnifiedLRP.attribute).parameters)[: len(theirs)] == theirs
    assert list(inspect.signature(UnifiedLRP.attribute).parameters)[:6] == list(
        inspect.signature(LRP.attribute).parameters
    )
    model = network(bias=False)
    for inside in (False, True):
        mine = LayerUnifiedLRP(model, [model[2], model[4]], epsilon=1e-9)
        found, deltas = mine.attribute(X, 1, None, True, inside)
        wanted, expected = LayerLRP(model, [model[2], model[4]]).attribute(X, 1, None, True, inside)
        for one, other in zip([*found, *deltas], [*(w[0] if isinstance(w, tuple) else w for w in wanted), *expected]):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    layer = LayerUnifiedLRP(model, model[2])
    found, delta = layer.attribute(X, 1, return_convergence_delta=True)
    torch.testing.assert_close(delta, model(X)[:, 1] - found.sum(1))


def test_a_layer_prints_its_plan_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    LayerUnifiedLRP(model, model[2]).attribute(X, 1, verbose=True)
    assert "linear" in capsys.readouterr().out


def test_a_layer_that_is_not_used_has_zeros_where_they_are_asked_for() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.beside = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.beside(x)
            return self.used(x)

    model = Beside().eval()
    lrp = LayerUnifiedLRP(model, model.beside)
    with pytest.raises(ValueError, match="does not depend on layer.*materialize_grads"):
        lrp.attribute(X, 1)
    assert not lrp.attribute(X, 1, grad_kwargs={"materialize_grads": True}).any()
    with pytest.raises(ValueError, match="grad_kwargs: 'colour'"):
        lrp.attribute(X, 1, grad_kwargs={"colour": 1})


def test_layers_and_units_keep_their_modified_weights() -> None:
    model = network()
    for kind, layer in ((LayerUnifiedLRP, model[2]), (NeuronUnifiedLRP, model[4])):
        lrp, place = kind(model, layer, rule="gamma"), 1
        lrp.attribute(X, place)
        weights = lrp._lrp.session.weights
        kept = len(weights._entries)
        assert kept > 0
        lrp.attribute(X, place)
        assert lrp._lrp.session.weights is weights and len(weights._entries) == kept


@pytest.mark.parametrize("selector", [True, "a", None, 9, (0, 1), 1.5, (1.5,), -9])
def test_units_that_there_are_not_are_named(selector: Any) -> None:
    model = network()
    with pytest.raises(ValueError, match="neuron_selector"):
        NeuronUnifiedLRP(model, model[2]).attribute(X, selector)


def test_units_by_numpys_integers_and_slices() -> None:
    model = network()
    lrp = NeuronUnifiedLRP(model, model[2], rule="zero")
    assert torch.equal(lrp.attribute(X, np.int64(3)), lrp.attribute(X, 3))
    torch.testing.assert_close(lrp.attribute(X, (slice(1, 3),)), lrp.attribute(X, 1) + lrp.attribute(X, 2))


def test_a_list_of_inputs_is_a_tuple() -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)

    found = UnifiedLRP(model).attribute([X, X + 1])
    wanted = UnifiedLRP(model).attribute((X, X + 1))
    assert len(found) == 2 and all(torch.equal(mine, theirs) for mine, theirs in zip(found, wanted))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (EpsilonRule(0.5), rule("epsilon", epsilon=0.5)), (EpsilonRule(), rule("epsilon", epsilon=1e-9)),
        (GammaRule(0.7), rule("gamma_montavon", gamma=0.7)), (Alpha1_Beta0_Rule(), rule("zplus")),
        (GammaRule(set_bias_to_zero=True), rule("gamma_montavon", gamma=0.25, bias="ignore")),
    ],
)  # fmt: skip
def test_captums_rules_on_layers_are_honoured(theirs: PropagationRule, ours: Any) -> None:
    model = network()
    lrp = UnifiedLRP(model)
    plain = lrp.attribute(X, 1)
    model[2].rule = theirs
    wanted = UnifiedLRP(network(), composite=Composite([(path("2"), ours), *lrp.composite.pairs])).attribute(X, 1)
    assert torch.equal(lrp.attribute(X, 1), wanted)
    assert not torch.equal(wanted, plain) or isinstance(theirs, EpsilonRule)
    assert model[2].rule is theirs and torch.equal(pickle.loads(pickle.dumps(lrp)).attribute(X, 1), wanted)
    if not isinstance(
        theirs, EpsilonRule
    ):  # behind biases Captum's own gamma differs from its formula by as much as it is
        return
    mine = LayerUnifiedLRP(model, model[2], epsilon=1e-9).attribute(X, 1, attribute_to_layer_input=True)
    for place in (0, 4):
        model[place].rule = EpsilonRule()
    captums = LayerLRP(model, model[2]).attribute(X, 1, attribute_to_layer_input=True)
    captums = captums[0] if isinstance(captums, tuple) else captums
    torch.testing.assert_close(mine, captums.view_as(mine), rtol=1e-4, atol=1e-5)


def test_an_identity_rule_passes_relevance_on() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    model[0].rule = IdentityRule()
    found = UnifiedLRP(model, epsilon=0.0).attribute(X, 1)
    behind = LayerUnifiedLRP(model, model[1], epsilon=0.0).attribute(X, 1, attribute_to_layer_input=True)
    torch.testing.assert_close(found, behind)


def test_other_attributes_of_that_name_mean_nothing_and_unknown_rules_raise() -> None:
    class Mine(EpsilonRule):
        pass

    model = network()
    expected = UnifiedLRP(model).attribute(X, 1)
    model[0].rule = "the user's own"
    assert torch.equal(UnifiedLRP(model).attribute(X, 1), expected)
    model[0].rule = Mine()
    with pytest.raises(TypeError, match="module '0' has rule=Mine.*Composite"):
        UnifiedLRP(model).attribute(X, 1)
