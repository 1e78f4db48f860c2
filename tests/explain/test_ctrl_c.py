"""Ctrl-C ends ``lrp-plugin`` with one line and status 130, whatever it is doing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
# The console script's own two lines, and a sign that Python itself has started: before that nothing of ours runs.
SCRIPT = "import sys, lrp_plugin_command; print('started', flush=True); sys.exit(lrp_plugin_command.main())"
NETWORK = """
import time
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))

    def forward(self, x):
        print("explaining", flush=True)
        time.sleep(SECONDS)
        return self.body(x)

build = Slow
"""


def interrupted(folder: Path, sign: str, wait: float, seconds: float) -> tuple[int, list[str]]:
    """Status and lines on standard error of ``explain``, interrupted ``wait`` seconds after it printed ``sign``."""
    Image.new("RGB", (40, 40), "red").save(folder / "red.png")
    (folder / "net.py").write_text(NETWORK.replace("SECONDS", str(seconds)))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "explain", "red.png", "--model", "net.py:build", "--size", "32", "--overwrite"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        # A shell that runs the tests in the background lets them inherit SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    while sign not in (line := process.stdout.readline()) and line:
        pass
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=240)
    return process.returncode, [line for line in error.splitlines() if line]


@pytest.mark.parametrize(("sign", "wait"), [("started", 0.1), ("explaining", 0.1)])
def test_while_importing_and_while_explaining(tmp_path: Path, sign: str, wait: float) -> None:
    status, lines = interrupted(tmp_path, sign, wait, 60)
    assert status == 130 and len(lines) == 1 and lines[0].startswith("lrp-plugin: stopped"), lines


@pytest.mark.slow
def test_at_any_moment(tmp_path: Path) -> None:
    """Moments over a whole run, its end as well: one line and 130, or the work was done and the status is 0."""
    begin = time.monotonic()
    interrupted(tmp_path, "written", 0, 0)
    whole, drawn = time.monotonic() - begin, random.Random(0)
    for _ in range(12):
        moment = drawn.uniform(0, whole)
        status, lines = interrupted(tmp_path, "started", moment, 0)
        said = [line for line in lines if line.startswith("lrp-plugin: stopped")]
        assert "Traceback" not in "\n".join(lines), (moment, lines)
        assert (status == 130 and len(said) == 1) or (status == 0 and not said), (moment, status, lines)
