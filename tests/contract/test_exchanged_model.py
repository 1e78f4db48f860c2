"""Captum sets ``forward_func`` on a copy of a method (``LLMGradientAttribution``): it counts, and the first keeps its own."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()


X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


OPTIONS: list[dict[str, Any]] = [{}, {"rule": "zplus"}, {"compile": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_another_model_counts_from_the_next_call_on(options: dict[str, Any]) -> None:
    first, second = network(0), network(1)

    def doubled(v: Tensor) -> Tensor:
        return second(v) * 2  # type: ignore[no-any-return]

    lrp = UnifiedLRP(first, **options)
    before = lrp.attribute(X, target=1)
    other = copy(lrp)
    other.forward_func = second
    assert other.forward_func is second and other.model is second and lrp.forward_func is first
    torch.testing.assert_close(other.attribute(X, target=1), UnifiedLRP(second, **options).attribute(X, target=1))
    torch.testing.assert_close(lrp.attribute(X, target=1), before)
    other.forward_func = doubled
    torch.testing.assert_close(other.attribute(X, target=1), UnifiedLRP(doubled, **options).attribute(X, target=1))
    with pytest.raises(TypeError, match="model"):
        other.forward_func = "resnet18"  # type: ignore[assignment]


def test_of_layers_and_units_too() -> None:
    model = network(0)

    def doubled(v: Tensor) -> Tensor:
        return model(v) * 2  # type: ignore[no-any-return]

    layer = LayerUnifiedLRP(model, model[0], rule="zplus")
    other = copy(layer)
    other.forward_func = doubled
    torch.testing.assert_close(other.attribute(X, target=1), 2 * layer.attribute(X, target=1))
    unit = NeuronUnifiedLRP(network(1), model[0])
    unit.forward_func = model
    torch.testing.assert_close(unit.attribute(X, 2), NeuronUnifiedLRP(model, model[0]).attribute(X, 2))
