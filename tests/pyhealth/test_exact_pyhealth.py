"""PyHealth's spelling where its result can be written down: asked for by planted faults."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin.pyhealth import LayerwiseRelevancePropagation, LRPHandlerRegistry, LRPLayerHandler, UnifiedLRP


class Passing(LRPLayerHandler):
    """Square layers hand on what they get, entry by entry."""

    def supports(self, layer: nn.Module) -> bool:
        return isinstance(layer, nn.Linear) and layer.in_features == layer.out_features

    def backward_relevance(self, layer: nn.Module, relevance_output: Tensor, rule: str, **parameters: Any) -> Tensor:
        return relevance_output


def test_a_handler_behind_a_handler_hears_all_of_the_relevance() -> None:
    """Both layers hand on what the last one, by epsilon 0, sends to its two inputs."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(2)), nn.Linear(2, 1, bias=False)).eval()
    for layer, weight in zip(model, ([[1.0, 1], [0, 1]], [[2.0, 0], [0, 3]], [[1.0, -1]])):
        layer.weight.data = torch.tensor(weight)
    handlers = LRPHandlerRegistry()
    handlers.register(Passing("passing"))
    lrp = UnifiedLRP(model, epsilon=0.0, custom_registry=handlers, validate_conservation=False)
    found = lrp.attribute(inputs={"input": torch.tensor([[1.0, 2.0]])}, target_class=0)
    torch.testing.assert_close(found["input"], torch.tensor([[6.0, -6.0]]))


class Batches(nn.Module):
    """Takes a batch by keyword, its labels too."""

    label_key = "disease"

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, **batch: Tensor) -> Tensor:
        return self.head(batch["image"]) + 0 * batch["disease"][:, None]


def test_labels_of_a_batch_are_handed_over_and_not_explained() -> None:
    batch = {"image": torch.randn(2, 2), "disease": torch.tensor([0.0, 2.0])}
    assert list(LayerwiseRelevancePropagation(Batches().eval()).attribute(0, **batch)) == ["image"]


class Masked(nn.Module):
    """Its second class is impossible."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).masked_fill(torch.tensor([False, True, False]), -torch.inf)


def test_an_impossible_class_says_nothing_of_the_others() -> None:
    model, x = Masked().eval(), torch.randn(2, 2)
    for lrp in (UnifiedLRP(model, epsilon=0.0), UnifiedLRP(model, epsilon=0.0, output=lambda found: found)):
        torch.testing.assert_close(lrp.attribute({"x": x}, 2)["x"], x * model.head.weight[2].detach())
        torch.testing.assert_close(lrp.ledger({"x": x}, 2).output, model(x)[:, 2].detach().double())


class Recurrent(nn.Module):
    """Its rules book what they absorb by formulas over the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("validate", [False, True])
def test_no_tensor_waits_for_the_garbage_collector(validate: bool) -> None:
    lrp, x = UnifiedLRP(Recurrent().eval(), validate_conservation=validate), torch.randn(2, 5, 3)

    def explained() -> int:
        lrp.attribute({"x": x}, 1, return_intermediates=True)
        return sum(issubclass(type(one), Tensor) for one in gc.get_objects())

    explained()
    gc.collect()
    gc.disable()
    try:
        first = explained()
        assert explained() == first
    finally:
        gc.enable()
