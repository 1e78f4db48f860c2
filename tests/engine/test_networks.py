"""Generated networks: every rule equals its literal twin, and the laws hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import Interpreter
from torch import Tensor

from lrp_plugin import UnifiedLRP
from lrp_plugin.testing import (
    GraphNetwork,
    assert_conserves,
    assert_equals_gradient_x_input,
    assert_independent_of_batch,
    assert_linear_in_output,
    assert_model_untouched,
    assert_repeatable,
    explanations,
    inputs,
    layers,
)

RULES = {
    "epsilon": {"epsilon": 0.1},
    "zplus": {},
    "gamma": {"gamma": 0.25},
    "alphabeta": {"alpha": 2.0, "beta": 1.0},
}
Case = tuple[GraphNetwork, Tensor, Any]


def each(target: Any, examples: int) -> list[int]:
    values = target.tolist() if isinstance(target, Tensor) else target
    return values if isinstance(values, list) else [values] * examples


@pytest.mark.parametrize("rule", RULES)
@given(case=explanations())
def test_rule_equals_its_literal_twin(rule: str, case: Case) -> None:
    network, batch, target = case
    found = UnifiedLRP(network, rule=rule, **RULES[rule]).attribute(batch, target)
    twin = Interpreter(network, rule, **RULES[rule])
    expected = torch.stack([twin.relevance(x, t) for x, t in zip(batch, each(target, len(batch)))])
    # The stabilizer is 1e-9 on both sides; sums of some hundred terms in another order agree to 1e-12 of their size,
    # which cancellation in a denominator may lift.
    scale = max(float(expected.abs().max()), 1e-6)
    assert float((found - expected).abs().max()) <= 1e-8 * scale


@given(case=explanations())
def test_lrp_0_is_gradient_times_input(case: Case) -> None:
    network, batch, target = case
    lrp = UnifiedLRP(network, rule="zero")
    plain = UnifiedLRP(network.plain(), rule="zero")
    assert_equals_gradient_x_input(plain, batch, target)
    assert torch.allclose(lrp.attribute(batch, target), plain.attribute(batch, target), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10)
@given(case=explanations())
def test_laws_hold(rule: str, case: Case) -> None:
    network, batch, target = case
    lrp = UnifiedLRP(network, rule=rule, **RULES[rule], strict=True)
    if float(lrp.attribute(batch, target).abs().flatten(1).sum(1).min()) > 0:
        assert_conserves(lrp, batch, target, allowed_other=())
    assert_model_untouched(lrp, batch, target)
    assert_repeatable(lrp, batch, target)
    assert_independent_of_batch(lrp, batch, each(target, len(batch)))
    assert_linear_in_output(lrp, batch, (0, network.classes - 1))


@given(data=st.data(), case=layers(), rule=st.sampled_from(list(RULES)))
def test_single_layers_conserve(data: st.DataObject, case: Any, rule: str) -> None:
    layer, shape = case
    model = torch.nn.Sequential(layer, torch.nn.Flatten()).eval()
    batch = data.draw(inputs(shape))
    lrp = UnifiedLRP(model, rule=rule, **RULES[rule])
    if float(lrp.attribute(batch, 0).abs().flatten(1).sum(1).min()) > 0:
        assert_conserves(lrp, batch, 0, allowed_other=())
