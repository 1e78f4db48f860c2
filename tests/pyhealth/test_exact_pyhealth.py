"""PyHealth's spelling where its result can be written down: asked for by planted faults."""

from __future__ import annotations

from typing import Any

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
