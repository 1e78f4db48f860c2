"""``lrp-plugin compare`` and ``recommend`` on folders of pictures, networks of one's own, and X-ray runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrp_plugin.cli import main

NETWORK = """
from torch import nn

def small(num_classes=2):
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(body, nn.Linear(16, num_classes))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two classes of five pictures, a network in a file, its weights."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(5):
            path = tmp_path / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def run(place: Path, *arguments: str) -> int:
    given = [str(place / "pictures"), "--model", f"{place / 'net.py'}:small", "--size", "16", "--no-progress"]
    return main([arguments[0], *given, "--out", str(place / "out"), *arguments[1:]])


def test_compare_writes_a_page_a_table_and_pictures_and_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "compare", "--methods", "saliency", "epsilon_gamma_box", "--metrics", "srg", "entropy") == 0
    shown = capsys.readouterr().out
    assert "UNTRAINED" in shown and "10 examples" in shown and "epsilon_gamma_box" in shown
    out = place / "out"
    assert {path.name for path in out.iterdir()} == {
        "values",
        "comparison.csv",
        "comparison.html",
        "curves.png",
        "ranks.png",
    }
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert {row["method"] for row in rows} == {"saliency", "epsilon_gamma_box", "random"}
    assert all(np.isfinite(float(row["srg_low"])) for row in rows)
    assert run(place, "compare", "--methods", "saliency", "epsilon", "--metrics", "srg") == 0
    assert len(list((out / "values").glob("saliency--srg.json"))) == 1
    assert run(place, "compare", "--limit", "4") == 2
    assert "holds another comparison: data" in capsys.readouterr().err


def test_recommend_prints_a_composite_as_code(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "recommend", "--patch", "4") == 0
    text = (place / "out" / "recommendation.txt").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "held-out examples" in text and "Composite(" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("compare", "--metrics", "best"), "legal are srg"), (("compare", "--methods", "magic"), "unknown method"),
     (("recommend", "--held-out", "2"), "held-out 2"), (("compare", "--replacement", "black"), "legal are zero"),
     (("compare", "--limit", "0"), "give 1 or more")],
)  # fmt: skip
def test_bad_options_are_named(
    place: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, *arguments) == 2
    assert message in capsys.readouterr().err


def test_folders_without_pictures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in ((tmp_path / "none", "is no folder"), (tmp_path, "holds no picture")):
        assert main(["compare", str(given), "--no-progress"]) == 2
        assert message in capsys.readouterr().err


def test_an_x_ray_run_brings_model_pictures_and_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="the X-ray module needs tqdm (extra cxr)")
    from lrp_plugin.cxr.runfolder import RunSettings, open_parts, train_run

    settings = RunSettings(size=32, count=60, epochs=1)
    train_run(settings, open_parts(settings), tmp_path / "run", progress=False)
    out = str(tmp_path / "out")
    assert (
        main(["compare", str(tmp_path / "run"), "--methods", "saliency", "--limit", "6", "--out", out, "--no-progress"])
        == 0
    )
    assert "mass inside" in capsys.readouterr().out
