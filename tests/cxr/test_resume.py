"""Kill training with SIGKILL where chance has it; resumed, it must end with the same bits."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrp_plugin.cxr import CheckpointError, Trainer, get_dataloader

SCRIPT = Path(__file__).with_name("killed_run.py")
READS = 4 * 24


@pytest.fixture(scope="module")
def run() -> Any:
    spec = importlib.util.spec_from_file_location("killed_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize(
    ("workers", "kind"),
    [
        (0, "own"),
        pytest.param(2, "own", marks=pytest.mark.slow),
        pytest.param(0, "foreign", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path: Path, run: Any, workers: int, kind: str) -> None:
    whole = run(str(tmp_path / "whole"), 0, kind)
    moment = random.SystemRandom().randrange(1, READS - 4)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path / "killed"), str(workers), kind],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    for _ in range(moment):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, "the run must have been cut off"
    resumed = run(str(tmp_path / "killed"), workers, kind)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), f"killed after {moment} of {READS} reads: {name} differs"
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "killed")]
    assert histories[0] == histories[1]


class Cut(Exception):
    """The simulated end of the process."""


def train(output: Path, cut_after: int | None, precision: str = "float32", **settings: object) -> torch.Tensor:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == cut_after:
            raise Cut

    net.register_forward_pre_hook(lambda *_: count() if net.training else None)
    x = torch.randn(22, 3, generator=torch.Generator().manual_seed(1))
    loader = get_dataloader(TensorDataset(x, (x[:, 0] > 0).long()), 4, True)
    own = Trainer(net, ("a", "b"), output=output, progress=False, device="cpu", precision=precision)
    # The last weights: the best may be the first epoch's, which nothing had to be resumed for.
    own.train(loader, loader, resume="auto", **{"epochs": 3, "load_best": False, **settings})
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return train(tmp_path_factory.mktemp("whole"), None)


# Three epochs of six steps: the first step, around both borders of an epoch, within one, the last.
@pytest.mark.parametrize("moment", [1, 6, 7, 8, 10, 12, 13, 18])
def test_resumption_is_exact_wherever_it_was_cut(tmp_path: Path, whole: torch.Tensor, moment: int) -> None:
    with pytest.raises(Cut):
        train(tmp_path / "cut", moment)
    assert torch.equal(train(tmp_path / "cut", None), whole)


def test_resumption_is_exact_with_everything_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "class_weights": [1.0, 2.0],
        "max_grad_norm": 0.5,
        "patience": 2,
        "monitor": "loss",
        "precision": "bfloat16",
    }
    whole = train(tmp_path / "whole", None, **settings)
    for moment in (4, 5, 6):
        with pytest.raises(Cut):
            train(tmp_path / "cut", moment, **settings)
    assert torch.equal(train(tmp_path / "cut", None, **settings), whole)


def test_finished_run_resumes_to_its_end(tmp_path: Path) -> None:
    whole = train(tmp_path, None)
    assert torch.equal(train(tmp_path, 1), whole), "no step is taken again"


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 40, "learning_rate": 0.5, "patience": 2, "monitor": "loss"}
    whole = train(tmp_path, None, **settings)
    before = (tmp_path / "history.csv").read_text()
    assert len(before.splitlines()) < 40
    assert torch.equal(train(tmp_path, 1, **settings), whole), "no step is taken again"
    assert (tmp_path / "history.csv").read_text() == before


def test_another_run_cannot_be_resumed(tmp_path: Path) -> None:
    train(tmp_path, None)
    with pytest.raises(CheckpointError, match=r"epochs 3 -> 5; learning_rate 0\.003 -> 0\.5"):
        train(tmp_path, None, epochs=5, learning_rate=0.5)
    net = nn.Linear(3, 2)
    loader = get_dataloader(TensorDataset(torch.zeros(22, 3), torch.zeros(22).long()), 4, True)
    own = Trainer(net, ("a", "b"), output=tmp_path, progress=False, device="cpu")
    with pytest.raises(CheckpointError, match="another model"):
        own.train(loader, loader, resume=True, epochs=3, load_best=False)
    fewer: DataLoader = get_dataloader(TensorDataset(torch.zeros(8, 3), torch.zeros(8).long()), 4, True)
    with pytest.raises(CheckpointError, match="batches 6 -> 2"):
        own.train(fewer, fewer, resume=True, epochs=3, load_best=False)
