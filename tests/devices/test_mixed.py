"""Devices mixed on purpose: what only says something to a rule or a target is moved, what the model reads is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites.ready import epsilon_gamma_box


@pytest.fixture
def model() -> nn.Module:
    """A segmenting network on ``meta``: scores (N, 2, 6, 6) of images (N, 3, 8, 8)."""
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


X = torch.empty(2, 3, 8, 8, device="meta")
MASK = torch.ones(6, 6, dtype=torch.bool)


@pytest.mark.parametrize("target", [
    (1, MASK), MASK.expand(2, 6, 6), [(0, MASK), (1, MASK)], (1, 2, 3), (np.int64(1), 2, 3), [(0, 1, 2), (1, 0, 0)],
], ids=["class and mask", "mask", "one for each", "place", "numpy", "places"])  # fmt: skip
def test_a_target_is_moved_to_the_output(model: nn.Module, target: Any) -> None:
    if isinstance(target, torch.Tensor):
        target = target[:, None].expand(2, 2, 6, 6)
    assert UnifiedLRP(model).attribute(X, target=target).is_meta


def test_class_numbers_are_moved_to_the_output(model: nn.Module) -> None:
    pooled = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    for target in (torch.tensor([0, 1]), torch.tensor(1), np.array([1, 0]), [1, 0]):
        assert UnifiedLRP(pooled).attribute(X, target=target).is_meta


def test_bounds_are_moved_to_the_layers_input(model: nn.Module) -> None:
    low, high = torch.full((1, 3, 1, 1), -2.0), torch.full((1, 3, 1, 1), 2.0, dtype=torch.float64)
    assert UnifiedLRP(model, composite=epsilon_gamma_box(low, high)).attribute(X, target=(1, 2, 3)).is_meta


def test_what_the_model_reads_is_where_the_caller_put_it(model: nn.Module) -> None:
    lrp = UnifiedLRP(lambda x, shift: model(x + shift))
    with pytest.raises(RuntimeError, match="device"):
        lrp.attribute(X, target=(1, 2, 3), additional_forward_args=torch.zeros(2, 3, 8, 8))
