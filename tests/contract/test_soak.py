"""Thousands of calls in four threads: results as in one thread, and neither tensors nor memory pile up."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP

SIDES, COUNTS = (6, 7, 9), (1, 2, 3, 5)
GROWTH = 8 * 2**20
"""Bytes that the resident memory may grow by in the last two thirds: 4 KiB for each of 2,000 calls, less than a graph."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3),
    ).double().eval()  # fmt: skip


def pictures(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * count + side)
    return torch.randn(count, 1, side, side, generator=generator, dtype=torch.float64)


def ways(model: nn.Sequential) -> list[Callable[[Tensor], Any]]:
    """Every way to explain, over explainers that all threads share."""
    plus, conserving = UnifiedLRP(model, "zplus"), UnifiedLRP(model, composite="epsilon_plus", bias="distribute")
    layer, unit = LayerUnifiedLRP(model, [model[0], model[6]]), NeuronUnifiedLRP(model, model[6], rule="gamma")
    return [
        lambda x: plus.attribute(x, 1),
        lambda x: plus.attribute(x, [k % 3 for k in range(len(x))], internal_batch_size=2),
        lambda x: torch.stack(list(conserving.attribute_targets(x, [0, 2]))),
        lambda x: conserving.ledger(x, 1).input,
        lambda x: torch.stack([row.relevance_in for row in plus.ledger(x, 2).rows]),
        lambda x: torch.cat([one.flatten(1) for one in layer.attribute(x, 1)], 1),
        lambda x: unit.attribute(x, 3),
    ]


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    tensors: int
    resident: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        # By type: isinstance would ask lazy modules among the objects for their class.
        tensors = sum(issubclass(type(one), Tensor) for one in gc.get_objects())
        with open("/proc/self/statm") as file:
            return cls(tensors, int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize("calls", [90, pytest.param(3000, marks=pytest.mark.slow)])
def test_many_calls_in_four_threads(calls: int) -> None:
    model = network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    every = [(call, pictures(count, side)) for call in ways(model) for count in COUNTS for side in SIDES]
    expected = [call(x) for call, x in every]  # by one thread
    assert sum(bool(one.abs().sum() > 0) for one in expected) > 0.9 * len(expected)

    def right(place: int) -> bool:
        call, x = every[place]
        return torch.allclose(call(x), expected[place], rtol=1e-9, atol=1e-12)

    order = random.Random(0).choices(range(len(every)), k=calls)
    held = []
    with ThreadPoolExecutor(4) as pool:
        for third in range(3):
            wrong = [place for place, fine in zip(order[third::3], pool.map(right, order[third::3])) if not fine]
            assert not wrong, f"{len(wrong)} of {calls // 3} calls differ from one thread's"
            held.append(Held.now())
    print(f"\n{calls} calls: " + "; ".join(f"{one.tensors} tensors, {one.resident / 2**20:.1f} MiB" for one in held))
    assert held[2].tensors <= held[0].tensors, "fewer may be left: what earlier tests held is let go"
    assert held[2].resident - held[0].resident < GROWTH
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
