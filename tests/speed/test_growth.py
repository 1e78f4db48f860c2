"""Memory does not grow from call to call, measured as the resident size of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import gc, sys, torch
from torch import nn
from lrp_plugin import UnifiedLRP
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
explainers = [UnifiedLRP(model, name) for name in ("epsilon", "zplus", "gamma", "alphabeta")]
images = torch.randn(4, 3, 64, 64)

def resident():
    gc.collect()
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * 4096 / 2**20

for call in range(500):
    for lrp in explainers:
        lrp.attribute(images, target=call % 5)
    if call % 50 == 0:  # weights that change must not pile up in the cache
        with torch.no_grad():
            model[0].weight.mul_(1.01)
    if call == 100:
        start = resident()
print(resident() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc")
def test_memory_does_not_grow_over_500_calls() -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    # One pass keeps 20 MiB of activations: a graph kept alive at every call would be 30 GiB.
    assert float(ran.stdout) < 16
