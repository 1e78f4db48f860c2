"""What a call asks of a GPU, counted on ``meta``: kernels and bytes beside saliency's do not rise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.kernels import Counter, counting, forecast, relative
from lrp_plugin import UnifiedLRP

# Kernels and bytes of issue 21, batch 64 at 224 px.
BOUNDS = {
    "epsilon": (1.4, 1.10), "zplus": (1.6, 1.35), "epsilon_plus_flat": (1.6, 1.35), "gamma": (2.2, 1.8),
    "alphabeta": (2.2, 2.2),
}  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_kernels_and_bytes_stay_within_their_bounds(name: str) -> None:
    found = relative(name, tuple(BOUNDS))
    for rule, (kernels, moved) in BOUNDS.items():
        assert found[rule]["kernels"] <= kernels, (rule, found[rule])
        assert found[rule]["bytes"] <= moved, (rule, found[rule])


def test_what_is_counted() -> None:
    """A product reads two tensors and writes one; a view is no kernel; an entry that repeats counts once."""
    with counting() as counter:
        x = torch.ones(4, 8, device="meta")
        (x.t() * x.new_ones(1).expand(8, 4)).sum()
    moved = [step for step, _ in counter.steps]
    assert moved == [128, 4, 128 + 4 + 128, 128 + 4]  # ones, one, product, sum


def test_flops_are_those_of_maps() -> None:
    with counting() as counter:
        nn.Linear(8, 16, device="meta")(torch.ones(4, 8, device="meta"))
    assert sum(flops for _, flops in counter.steps) == 2 * 4 * 8 * 16


def test_a_counter_does_not_change_the_way() -> None:
    """What only counts is no tracer: relevance is bit for bit the same, and steps that write in place are seen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    plain = UnifiedLRP(model, "alphabeta").attribute(x, target=1)
    with Counter() as counter:
        found = UnifiedLRP(model, "alphabeta").attribute(x, target=1)
    assert torch.equal(found, plain)
    assert counter.counts.kernels > 0


def test_a_forecast_is_bound_by_what_takes_longest() -> None:
    found = forecast("resnet18", ("epsilon", "alphabeta"), batch=1)
    assert all(value > 0 for ratios in found.values() for value in ratios.values())
    assert found["alphabeta"]["H100 float32"] > found["epsilon"]["H100 float32"]
