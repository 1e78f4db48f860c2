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
     (("recommend", "--held-out", "2"), "held-out 2"), (("compare", "--replacement", "black"), "legal are zero")],
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", ""], "an empty name is no folder"),
        (["compare", "run", "--model", "resnet18"], "a run brings its own network and pictures: leave --model away"),
        (["recommend", "run", "--size", "64"], "leave --size away"),
        (["archive", "explain", "pictures", "maps", "--model", "resnet99"], "did you mean resnet"),
        (
            ["archive", "explain", "pictures", "maps", "--model", "resnet18", "--option", "epsilom=1"],
            "unknown --option 'epsilom'; did you mean epsilon",
        ),
        (
            ["archive", "explain", "pictures", "maps", "--model", "net.py:make", "--model-arguments", '{"width": 5}'],
            "--model-arguments: net.py:make takes none",
        ),
    ],
)
def test_what_would_be_ignored_or_is_nothing_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(place)
    (place / "run").mkdir()
    (place / "run" / "run.json").write_text("{}")
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("lrp-plugin: ") and message in error
    assert not (place / "maps").exists() and not (place / "lrp-out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["archive", "explain", "pictures", "net.py", "--model", "resnet18"], "net.py is a file; give a folder"),
        (["archive", "status", "net.py"], "net.py is a file; give a folder"),
        (
            ["archive", "explain", "pictures", "maps", "--model", "resnet18", "--gpus", "-1"],
            "'-1': give a number above 0",
        ),
        (
            ["archive", "explain", "pictures", "maps", "--model", "resnet18", "--model-arguments", "x"],
            "give names and values in JSON",
        ),
        (["archive", "verify", "maps", "--sample", "-1"], "'-1': give a whole number, 0 or more"),
        (["compare", "pictures", "--limit", "0"], "'0': give a whole number, 1 or more"),
        (["recommend", "pictures", "--held-out", "half"], "'half': give a number"),
    ],
)
def test_words_of_the_wrong_kind_are_refused_before_anything_is_opened(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


def test_more_classes_than_outputs_is_no_comparison(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method failed: a table of dashes was written, with exit status 0."""
    for number in (1, 2, 3):
        target = place / "pictures" / f"more{number}"
        target.mkdir()
        (target / "1.png").write_bytes((place / "pictures" / "cat" / "0.png").read_bytes())
    assert run(place, "compare", "--methods", "saliency", "--metrics", "srg") == 2
    assert "pictures has 5 subfolders, small 2 outputs; give one for each output" in capsys.readouterr().err
    assert not (place / "out" / "comparison.csv").exists()


@pytest.mark.parametrize(("command", "pixels"), [("compare", "40"), ("compare", "16"), ("recommend", "17")])
def test_a_patch_that_covers_the_picture_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, pixels: str
) -> None:
    """All of a picture in one patch leaves nothing to put in order: every method had the same curve, with exit status 0."""
    assert run(place, command, "--patch", pixels) == 2
    error = capsys.readouterr().err
    assert f"--patch {pixels}: one patch covers the whole input of 16 x 16 pixels" in error and error.count("\n") == 1
    assert not (place / "out").exists()


def test_values_of_other_patches_are_not_taken_for_these(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were known by the name of the function alone, so those of 4 pixels were shown for 8."""
    words = ("compare", "--methods", "saliency", "--metrics", "srg", "--patch")
    assert run(place, *words, "4") == 0
    assert run(place, *words, "8") == 2
    assert "holds another comparison: regions" in capsys.readouterr().err
