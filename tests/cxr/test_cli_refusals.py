"""``lrp-plugin cxr``: what would be ignored, mixed or made up is refused, in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from commands import contents, cxr

from lrp_plugin.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; to be read only."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert cxr("train", out, "--size", "32", "--count", "60", "--epochs", "1") == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "99999999999999"], "'99999999999999': give a whole number, 1 to 1000000"),
        (["--seed", "9" * 30], "give a whole number, 0 or more"),
        (["--lr", "half"], "'half': give a number"),
        (["--lr", "nan"], "'nan': give a number"),
        (["--out", "file"], "argument --out: file is a file; give a folder"),
        (["--epoch-count", "3"], "unrecognized arguments: --epoch-count 3; see lrp-plugin cxr train --help"),
    ],
)
def test_words_that_are_no_settings_are_refused_before_anything_is_made(tmp_path, monkeypatch, capsys, words, message):
    """Among them a count that filled the memory until the system killed the command."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as refused:
        main(["cxr", "train", *words])
    error = capsys.readouterr().err
    assert refused.value.code == 2 and message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("option", "value"), [("--size", "64"), ("--seed", "7"), ("--epochs", "9"), ("--lr", "0.5")])
def test_a_resumed_run_refuses_what_it_would_ignore(run, capsys, option, value):
    before = contents(run)
    assert cxr("train", run, "--resume", option, value) == 2
    assert "--resume goes on exactly as the run began, with --" in capsys.readouterr().err
    assert contents(run) == before


def test_a_run_without_weights_says_how_to_get_them(run, capsys):
    (run / "best.safetensors").unlink()
    assert cxr("evaluate", run) == 2
    assert "has no best.safetensors" in (error := capsys.readouterr().err) and "--resume" in error


def test_results_on_other_pictures_do_not_mix_with_the_runs(run, database, capsys):
    assert cxr("evidence", run, "--methods", "saliency") == 0
    before = (run / "evidence.csv").read_bytes()
    assert cxr("evidence", run, "--methods", "epsilon", "--data", str(database)) == 0
    assert (run / "evidence.csv").read_bytes() == before
    rows = next(run.glob("on-*/evidence.csv")).read_text()
    assert "epsilon" in rows and "saliency" not in rows


def test_a_report_keeps_earlier_rows_of_evidence_and_says_its_whole_command(run):
    assert cxr("evidence", run, "--methods", "gradcam") == 0
    assert cxr("report", run, "--methods", "epsilon", "--examples", "1", "--compare", "0") == 0
    methods = {line.split(",")[2] for line in (run / "evidence.csv").read_text().splitlines()[1:]}
    assert methods == {"gradcam", "epsilon"}
    assert "--examples 1 --compare 0 --methods epsilon" in (run / "report.html").read_text()


def test_an_unknown_method_is_said_before_the_work(run, monkeypatch, capsys):
    monkeypatch.setattr("lrp_plugin.cxr.reporting.examine", lambda *_, **__: pytest.fail("it began"))
    assert cxr("report", run, "--methods", "epsilom") == 2
    assert "did you mean epsilon" in capsys.readouterr().err
