"""Each law passes what is sound and fails what breaks it: a law that lets a broken explanation pass is the worst of tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP, UnsupportedOperationWarning
from lrp_plugin import testing as laws
from lrp_plugin.testing import LAWS, RuleCase, check_rule

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NONE = torch.zeros(2, dtype=torch.float64)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double().eval()


def row(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{"gap": NONE, "other": NONE, "path": "0", "operation": "linear", "rule": "zero", **changed}
    )


def saying(relevance: Tensor, **changed: Any) -> Any:
    """An explainer that says this of any input."""
    sums = relevance.flatten(1).sum(1)
    account = SimpleNamespace(**{"gap": NONE, "rows": [row()], "input": sums, "output": sums, **changed})

    class Saying(UnifiedLRP):
        def attribute(self, *args: Any, **options: Any) -> Any:
            return relevance

        def ledger(self, *args: Any, **options: Any) -> Any:
            return account

    return Saying(model())


class Altered(UnifiedLRP):
    """An explanation with something done to its relevance."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model(), "zero")
        self.change = change

    def attribute(self, *args: Any, **options: Any) -> Any:
        return self.change(super().attribute(*args, **options))


SOUND = Altered(lambda r: r)
ONE = torch.tensor([0.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("explainer", "message"),
    [
        (saying(X, gap=ONE), "the ledger's gap is -1"),
        (saying(X, rows=[row(gap=-ONE)]), "the gap of row 0 linear"),
        (saying(X, rows=[row(gap=ONE)]), "the gap of row 0 linear"),
        (saying(X, rows=[row(other=ONE)]), "'other' of row 0 linear"),
        (saying(X, input=NONE), "sum of attributions less the ledger's input"),
        (saying(X * torch.tensor([[1.0], [0.0]])), "zero everywhere in an example"),
        (saying(X.clone().index_fill_(1, torch.tensor([1]), torch.nan)), "NaN or infinite"),
    ],
)
def test_what_is_lost_is_seen(explainer: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        laws.assert_conserves(explainer, X, 0)


def test_what_is_sound_passes() -> None:
    laws.assert_conserves(saying(X, rows=[row(other=ONE, operation="softmax")]), X, 0)
    laws.assert_conserves(SOUND, X, 0)
    laws.assert_equals_gradient_x_input(SOUND, X, 0)
    laws.assert_linear_in_output(SOUND, X, (0, 1))
    laws.assert_independent_of_batch(SOUND, X, [0, 1])
    laws.assert_repeatable(SOUND, X, 0)
    laws.assert_same_as(SOUND, UnifiedLRP(model(), "zero"), X, 0)
    laws.assert_model_untouched(SOUND, X, 0)


def test_an_explanation_that_is_not_linear_differs_or_depends_on_its_batch_is_seen() -> None:
    squared, centred = Altered(lambda r: r * r.abs()), Altered(lambda r: r - r.mean(0))
    for law, explainer, target in (
        (laws.assert_equals_gradient_x_input, squared, 0),
        (laws.assert_linear_in_output, squared, (0, 1)),
        (laws.assert_independent_of_batch, centred, 0),
    ):
        with pytest.raises(AssertionError, match=r"differ by|is .* in example"):
            law(explainer, X, target)  # type: ignore[operator]
    with pytest.raises(AssertionError, match="in the second spelling and in the first"):
        laws.assert_same_as(SOUND, squared, X, 0)


def test_a_shape_that_broadcasts_is_another_shape() -> None:
    with pytest.raises(AssertionError, match="differ in shape"):
        laws.assert_equals_gradient_x_input(Altered(lambda r: r[0]), X[:1], 0)


def test_a_second_call_that_differs_is_seen() -> None:
    count = iter(range(9))
    with pytest.raises(AssertionError, match="a second call differs"):
        laws.assert_repeatable(Altered(lambda r: r + next(count)), X, 0)


def test_a_spelling_that_is_warned_about_is_seen() -> None:
    def warned(relevance: Tensor) -> Tensor:
        warnings.warn("operation 'odd' in module x", UnsupportedOperationWarning, stacklevel=2)
        return relevance

    laws.assert_same_as(Altered(warned), SOUND, X, 0)
    with pytest.raises(AssertionError, match="only the second spelling is warned about: operation 'odd'"):
        laws.assert_same_as(SOUND, Altered(warned), X, 0)


@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (lambda net, x: x.mul_(2), "changed inputs"),
        (lambda net, x: net[0].weight.data.mul_(2), "changed the model: .*weight"),
        (lambda net, x: net[0].register_forward_hook(lambda *_: None), "changed the model: .*hook"),
        (lambda net, x: net.train(), "changed the model: .*training"),
        (lambda net, x: net[0].weight.requires_grad_(False), "changed the model: .*weight"),
        (lambda net, x: setattr(net[0].weight, "grad", torch.ones_like(net[0].weight)), "changed the model: .*weight"),
    ],
    ids=["input", "weight", "hook", "mode", "requires_grad", "grad"],
)
def test_what_an_explanation_changes_is_seen(meddle: Callable[[Any, Tensor], Any], message: str) -> None:
    explainer, x = UnifiedLRP(model()), X.clone()
    with pytest.raises(AssertionError, match=message):
        laws.assert_model_untouched(explainer, x, 0, call=lambda: meddle(explainer.model, x))
    with pytest.raises(ZeroDivisionError):
        laws.assert_model_untouched(explainer, x, 0, call=lambda: 1 / 0)


def broken(network: Any, attribute: Callable[[Tensor], Tensor] | None = None, **changed: Any) -> Any:
    def ledger(x: Tensor) -> SimpleNamespace:
        flow = torch.ones(len(x), dtype=torch.float64)
        rows = [SimpleNamespace(gap=0 * flow, relevance_out=flow)]
        given = {name: value(x) for name, value in changed.items()}
        return SimpleNamespace(**{"output": network(x).detach(), "rows": rows, **given})

    return SimpleNamespace(ledger=ledger, attribute=attribute or (lambda x: x * network.multiplier.detach().sum()))


BROKEN: dict[str, Callable[[Any], Any]] = {
    "value_is_kept": lambda net: broken(net, output=lambda x: net(x).detach() + 1),
    "ledger_closes": lambda net: broken(
        net, rows=lambda x: [SimpleNamespace(gap=torch.ones(len(x)), relevance_out=torch.ones(len(x)))]
    ),
    "relevance_is_linear": lambda net: broken(net, lambda x: x * net.multiplier.detach().abs().sum()),
    "examples_are_independent": lambda net: broken(net, lambda x: x - x.mean(0)),
    "stays_finite": lambda net: broken(net, lambda x: x / (x.dtype != torch.float16)),
}


@pytest.mark.parametrize("law", LAWS)
def test_every_law_of_rules_sees_what_breaks_it_and_passes_the_rest(law: str) -> None:
    case = RuleCase("relu", seed=3)
    LAWS[law](case, broken)
    with pytest.raises(AssertionError):
        LAWS[law](case, BROKEN[law])


def test_a_rule_that_no_layer_tries_is_named() -> None:
    with pytest.raises(ValueError, match="registered for none of linear"):
        check_rule("no such rule")
    with pytest.raises(ValueError, match="no layers to try"):
        check_rule("epsilon", operation="no such operation")


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_targets_are_in_range(classes: int, examples: int, data: st.DataObject) -> None:
    target = torch.as_tensor(data.draw(laws.targets(classes, examples)))
    assert target.shape in ((), (examples,)) and bool(((target >= 0) & (target < classes)).all())


@pytest.mark.parametrize(
    "kind",
    [lambda x: bool((x < 0).any()), lambda x: bool((x == 0).any()), lambda x: len(x.unique()) == 1 < x.numel()],
    ids=["signed", "sparse", "constant"],
)
def test_inputs_of_every_kind_are_drawn(kind: Callable[[Tensor], bool]) -> None:
    assert kind(find(laws.inputs((3,)), kind))
