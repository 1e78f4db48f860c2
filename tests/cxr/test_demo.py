"""``lrp-plugin demo``: everything it promises is there, and it continues where it was stopped."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from lrp_plugin.cli import main
from lrp_plugin.cxr import demo
from lrp_plugin.cxr.runfolder import RunSettings

FIGURES = {
    "classes", "confusion", "evidence", "lungs", "ledger",
    *(f"explained-{name}" for name in ("COVID", "Lung-Opacity", "Normal", "Viral-Pneumonia")),
}  # fmt: skip
METHODS = {"saliency", "epsilon", "alphabeta", "epsilon_plus_flat"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QUICK", RunSettings(size=48, count=80, epochs=2, batch_size=16))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_demo_writes_what_it_names_and_nothing_else(tiny, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out), "--no-progress"]) == 0
    text = capsys.readouterr().out
    named = {str(Path(line.strip()).relative_to(out)) for line in text.splitlines() if line.startswith(f"  {out}")}
    assert named == {"report.html", "evidence.csv", "metrics.json", *(f"figures/{name}.png" for name in FIGURES)}
    assert files(out) == named | {"run.json", "parts.json", "last.ckpt", "best.safetensors", "history.csv"}
    for name in FIGURES:
        with Image.open(out / "figures" / f"{name}.png") as figure:
            assert figure.width > 500 and figure.convert("L").getextrema() == (0, 255), name
    rows = list(csv.DictReader((out / "evidence.csv").open()))
    assert {row["method"] for row in rows} == METHODS and {row["region"] for row in rows} == {"lungs", "evidence"}
    accuracy = json.loads((out / "metrics.json").read_text())["accuracy"]
    assert f"Test accuracy {accuracy:.3f} on 16 pictures" in text
    assert (out / "report.html").resolve().as_uri() in text
    page = (out / "report.html").read_text()
    assert all(method in page for method in METHODS) and "lrp-plugin demo --out" in page


@pytest.mark.ci
def test_a_demo_stopped_while_explaining_does_not_train_again(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "demo"

    def stop(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrp_plugin.cxr.reporting.examine", stop)
    assert main(["demo", "--quick", "--out", str(out), "--no-progress"]) == 130
    assert "every file written so far is whole" in capsys.readouterr().err
    assert files(out) == {"run.json", "parts.json", "last.ckpt", "best.safetensors", "history.csv"}
    weights = (out / "best.safetensors").stat()
    monkeypatch.undo()
    monkeypatch.setattr(demo, "QUICK", RunSettings(size=48, count=80, epochs=2, batch_size=16))
    assert main(["demo", "--quick", "--out", str(out), "--no-progress"]) == 0
    assert (out / "best.safetensors").stat().st_mtime_ns == weights.st_mtime_ns
    assert (out / "report.html").exists()


def test_a_demo_into_a_run_of_other_settings_is_refused(tiny, tmp_path, monkeypatch, capsys):
    assert main(["cxr", "train", "--out", str(tmp_path), "--size", "48", "--count", "80", "--epochs", "1"]) == 0
    capsys.readouterr()
    assert main(["demo", "--quick", "--out", str(tmp_path), "--no-progress"]) == 2
    assert "cannot be resumed exactly" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_demo_is_right_in_time_and_lrp_finds_the_evidence(tmp_path, capsys):
    """The README's figures: 90 s on two cores are 180 s of processor time, which other work does not change."""
    torch.set_num_threads(1)
    start = time.process_time()
    assert main(["demo", "--out", str(tmp_path), "--no-progress"]) == 0
    assert time.process_time() - start < 180
    assert json.loads((tmp_path / "metrics.json").read_text())["accuracy"] >= 0.95
    rows = [row for row in csv.DictReader((tmp_path / "evidence.csv").open()) if row["region"] == "evidence"]
    saliency = {row["class"]: float(row["high"]) for row in rows if row["method"] == "saliency"}
    for method in ("epsilon_plus_flat", "alphabeta"):
        above = {row["class"] for row in rows if row["method"] == method and float(row["low"]) > saliency[row["class"]]}
        assert above == {"COVID", "Lung Opacity", "Viral Pneumonia", "all"}, method
