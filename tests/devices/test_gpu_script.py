"""The script for a GPU: what it says of results, and that it refuses to run without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import judged


def row(method: str, ratio: float, precision: str = "fp32") -> dict[str, object]:
    """A row of the throughput's JSON."""
    return {"network": "resnet18", "method": method, "precision": precision, "ratio": ratio}


def test_each_target_is_judged_by_its_row() -> None:
    rows = [
        row("epsilon", 1.15),
        row("epsilon, compiled", 0.81),
        row("zennit epsilon", 2.0),
        row("epsilon", 1.4, "bf16"),
    ]
    found = judged(rows)
    assert "epsilon, fp32: at most 1.15 of saliency; 1.15: holds" in found
    assert "epsilon, bf16: at most 1.15 of saliency; 1.40: DOES NOT HOLD" in found
    assert "epsilon, compiled, fp32: at most 0.80 of saliency; 0.81: DOES NOT HOLD" in found
    assert "epsilon_plus_flat, compiled, bf16: at most 1.20 of saliency; not measured" in found
    assert "zennit is 1.74 times as slow as epsilon, fp32: at least 1.5; holds" in found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
    done = subprocess.run(
        ["bash", str(script), str(tmp_path)], env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no GPU that this torch can use" in done.stderr
    assert list(tmp_path.iterdir()) == []
