"""The walkthrough runs, as a script and as a notebook, and the two are one text."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT, NOTEBOOK = EXAMPLES / "cxr_walkthrough.py", EXAMPLES / "cxr_walkthrough.ipynb"
MINUTE, FIVE_MINUTES = 60, 300
"""CPU seconds, since shared machines are slow at unforeseen times; one thread, since two that wait for each other on a
busy machine spend minutes at it."""


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_notebook", EXAMPLES / "build_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _environment(**further: str) -> dict[str, str]:
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **further}


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def _check_account(text: str) -> None:
    """What the two LRP cells say adds up to the logit."""
    accounts = re.findall(r"(epsilon|alpha-beta): logit (\S+) = input (\S+) \+ \{(.*)\}", text)
    assert [account[0] for account in accounts] == ["epsilon", "alpha-beta"]
    for _, logit, received, rest in accounts:
        absorbed = sum(float(number) for number in re.findall(r": (-?[\d.e-]+)", rest))
        # Printed with four digits after the point.
        assert float(received) + absorbed == pytest.approx(float(logit), abs=5e-4)
    assert all(float(error) < 0.1 for error in re.findall(r"largest error of a layer: (\S+) %", text))


def test_script_and_notebook_are_one_text() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat (extra test)")
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    cells = [(cell.cell_type, cell.source) for cell in stored.cells]
    assert cells == _builder().cells_of(SCRIPT.read_text()), "run python examples/build_notebook.py"
    assert len([kind for kind, _ in cells if kind == "code"]) >= 28


def test_cells_are_read_from_markers() -> None:
    text = "# ruff: noqa\n\n# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1  # %% no marker\n\n# %%\n# b\nb = 2\n"
    cells = _builder().cells_of(text)
    assert cells == [("markdown", "# Title\n\ntext"), ("code", "a = 1  # %% no marker"), ("code", "# b\nb = 2")]


@pytest.mark.ci
def test_the_script_runs_quickly_offline_and_writes_nothing(tmp_path: Path) -> None:
    before, start = _cpu_seconds(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:__main__", str(SCRIPT), "--quick"],
        cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    print(f"{time.perf_counter() - start:.0f} s, {_cpu_seconds() - before:.0f} CPU s")
    assert done.returncode == 0, done.stderr
    assert _cpu_seconds() - before < MINUTE
    assert not list(tmp_path.iterdir())
    _check_account(done.stdout)
    assert "positive relevance inside evidence" in done.stdout


@pytest.mark.slow
def test_the_notebook_runs_in_five_minutes_on_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat (extra test)")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel (extra test)")
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own shows pictures in the notebook
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = _cpu_seconds()
    nbclient.NotebookClient(notebook, timeout=1800).execute()
    spent = _cpu_seconds() - before
    print(f"{spent:.0f} CPU s")
    assert spent < FIVE_MINUTES
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    _check_account(text)
    right = re.search(r"([\d.]+) of \d+ test pictures are right", text)
    assert right is not None
    assert float(right.group(1)) >= 0.9
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 11
