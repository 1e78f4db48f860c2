"""``lrp-plugin cxr``: a run trained, measured, explained and reported; what is wrong is named, nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("jinja2", reason="the HTML report needs Jinja2")

from commands import contents, cxr

from lrp_plugin.cli import main
from lrp_plugin.cxr import SyntheticCXR
from lrp_plugin.cxr.module import WholeFiles
from lrp_plugin.cxr.runfolder import RunSettings, open_model
from lrp_plugin.gradients import GradientSaliency

TINY = ["--size", "48", "--count", "80", "--batch-size", "16", "--no-progress"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs; to be read only."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["cxr", "train", "--out", str(out), "--epochs", "2", *TINY]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_train_writes_the_run(trained):
    assert set(contents(trained)) == {"run.json", "parts.json", "last.ckpt", "best.safetensors", "history.csv"}
    settings = RunSettings.load(trained)
    assert (settings.size, settings.count, settings.epochs, settings.batch_size) == (48, 80, 2, 16)
    assert [row["epoch"] for row in csv.DictReader((trained / "history.csv").open())] == ["1", "2"]


def test_training_again_into_a_run_is_refused_and_changes_nothing(run, capsys):
    before = contents(run)
    assert cxr("train", run, "--epochs", "3") == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert contents(run) == before


def test_a_resumed_run_ends_as_one_that_ran_through(trained, tmp_path, monkeypatch):
    """Stopped after the first epoch's checkpoint, continued by --resume alone: same weights to the bit."""
    out, saved = tmp_path / "run", WholeFiles.save_checkpoint

    def stop(*arguments: object, **options: object) -> None:
        saved(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(WholeFiles, "save_checkpoint", stop)
    assert cxr("train", out, "--epochs", "2", *TINY) == 130
    assert len(WholeFiles().load_checkpoint(out / "last.ckpt")["history"]) == 1
    monkeypatch.undo()
    assert cxr("train", out, "--resume") == 0
    # Tensors, not bytes: safetensors writes its header's entries in no fixed order.
    for read in (
        lambda folder: load_file(folder / "best.safetensors"),
        lambda folder: WholeFiles().load_checkpoint(folder / "last.ckpt")["state_dict"],
    ):
        through, resumed = read(trained), read(out)
        assert through.keys() == resumed.keys()
        assert all(torch.equal(through[name], resumed[name]) for name in through)


def test_evaluate_prints_and_stores_the_metrics_of_the_test_pictures(run, capsys):
    assert cxr("evaluate", run) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    matrix = torch.tensor(metrics["confusion_matrix"])
    assert int(matrix.sum()) == 16
    assert metrics["accuracy"] == pytest.approx(int(matrix.diagonal().sum()) / 16)
    assert f"accuracy     {metrics['accuracy']:.4f}" in capsys.readouterr().out


def test_explain_writes_the_maps_it_names(run):
    assert cxr("explain", run, "--index", "5", "--methods", "saliency", "epsilon_gamma_box") == 0
    facts = json.loads((run / "explained" / "synthetic-5.json").read_text())
    maps = np.load(run / "explained" / "synthetic-5.npz")
    picture = SyntheticCXR(80, size=48)[5]["image"].as_subclass(torch.Tensor)[None]
    model = open_model(run, SyntheticCXR(1).classes)
    with torch.no_grad():
        logits = model(picture)
    target = int(logits.argmax())
    assert facts["predicted_class"] == SyntheticCXR(1).classes[target] and facts["true_class"] == "Lung Opacity"
    assert facts["logit"] == pytest.approx(float(logits.max()), rel=1e-5)
    saliency = GradientSaliency(model).attribute(picture, target)[0].numpy()
    np.testing.assert_allclose(maps["saliency"], saliency, rtol=1e-4, atol=1e-7)
    assert facts["methods"]["saliency"]["sum"] is None, "a gradient's sum says nothing"
    assert facts["methods"]["epsilon_gamma_box"]["sum"] == pytest.approx(
        float(maps["epsilon_gamma_box"].astype(float).sum()), abs=1e-6
    )
    assert (run / "explained" / "synthetic-5.png").stat().st_size > 10_000


def test_explain_takes_files_of_ones_own(run, tmp_path, capsys):
    pixels = (np.random.default_rng(0).random((70, 90)) * 65535).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    assert cxr("explain", run, "--image", str(tmp_path / "mine.png"), "--methods", "epsilon") == 0
    facts = json.loads((run / "explained" / "mine.json").read_text())
    assert "caution: The model answers one of its classes" in capsys.readouterr().out
    assert facts["true_class"] is None, "nobody told it"
    assert "one of its classes for any picture" in facts["caution"]
    assert facts["methods"]["epsilon"]["inside_lungs"] is None, "nobody knows the lungs of this picture"
    assert np.load(run / "explained" / "mine.npz")["epsilon"].shape == (1, 48, 48)


def test_pictures_of_one_name_do_not_overwrite_each_other(run, tmp_path):
    for folder, grey in (("A", 10), ("B", 200), ("胸部", 100)):
        (tmp_path / folder).mkdir()
        Image.new("L", (60, 60), grey).save(tmp_path / folder / "0.png")
    for _ in range(2):  # the second time the same pictures' files are replaced
        for folder in ("A", "B", "胸部"):
            assert cxr("explain", run, "--image", str(tmp_path / folder / "0.png"), "--methods", "epsilon") == 0
    facts = [json.loads(path.read_text()) for path in (run / "explained").glob("*.json")]
    assert sorted(Path(fact["source"]).parent.name for fact in facts) == ["A", "B", "胸部"]


def test_evidence_of_another_method_keeps_the_earlier_rows(run, capsys):
    assert cxr("evidence", run, "--methods", "saliency") == 0
    before = set((run / "evidence.csv").read_text().splitlines())
    capsys.readouterr()
    assert cxr("evidence", run, "--methods", "gradcam") == 0
    assert before < set((run / "evidence.csv").read_text().splitlines())
    assert "saliency" not in capsys.readouterr().out, "no footnote about a method that is not in the table"


@pytest.mark.parametrize("number", ["-3", "0", "two"])
def test_a_number_of_examples_that_is_none_is_refused(run, capsys, number):
    with pytest.raises(SystemExit) as refused:
        cxr("report", run, "--examples", number)
    assert refused.value.code == 2
    assert f"argument --examples: '{number}': give a whole number, 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [("[]", "holds a list"), ("{", "is no settings file"), ('{"size": "big"}', "size='big'): legal is an int"),
     ('{"epochs": 1.5}', "epochs=1.5"), ('{"colour": 1}', "unexpected keyword argument 'colour'; it takes"),
     ('{"size": -1}', "size=-1"), ("\udcff", "settings")],
)  # fmt: skip
def test_a_settings_file_of_the_wrong_shape_is_named(run, capsys, content, told):
    (run / "run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert cxr("evaluate", run) == 2
    assert told in capsys.readouterr().err


def test_evidence_prints_the_table_that_it_stores(run, capsys):
    assert cxr("evidence", run, "--methods", "saliency", "epsilon_plus_flat") == 0
    rows = list(csv.DictReader((run / "evidence.csv").open()))
    findings = [row for row in rows if row["region"] == "evidence"]
    assert {row["class"] for row in findings} == {"COVID", "Lung Opacity", "Viral Pneumonia", "all"}, "Normal has none"
    assert {row["method"] for row in rows} == {"saliency", "epsilon_plus_flat"}
    text = capsys.readouterr().out
    first = next(row for row in findings if row["class"] == "COVID")
    assert f"{100 * float(first['inside']):.1f} [" in text
    assert float(first["low"]) <= float(first["inside"]) <= float(first["high"])


def test_report_shows_what_was_measured(run):
    assert cxr("report", run, "--methods", "saliency", "epsilon_plus_flat", "--examples", "1") == 0
    page = (run / "report.html").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"{100 * metrics['accuracy']:.1f}\u00a0%" in page
    assert metrics["suspected_shortcuts"] == {} and "Not tested" in page
    assert "lrp-plugin cxr report --out" in page and page.count("data:image/png") >= 6


def test_evaluating_keeps_the_shortcuts_that_a_report_suspects(run):
    """They were dropped; they go when the model answers otherwise than it did for the report."""
    path = run / "metrics.json"
    assert cxr("evaluate", run) == 0
    facts = json.loads(path.read_text())
    assert "suspected_shortcuts" not in facts, "nothing was tested yet"
    suspected = {"COVID": {"accuracy_with": 1.0, "accuracy_without": 0.25, "methods_outside_lungs": ["epsilon"]}}
    path.write_text(json.dumps({**facts, "suspected_shortcuts": suspected}))
    assert cxr("evaluate", run) == 0
    assert json.loads(path.read_text()) == {**facts, "suspected_shortcuts": suspected}
    path.write_text(json.dumps({**facts, "confusion_matrix": [[16]], "suspected_shortcuts": suspected}))
    with pytest.warns(UserWarning, match="the answers changed, so suspected_shortcuts is left out"):
        assert cxr("evaluate", run) == 0
    assert json.loads(path.read_text()) == facts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet19"], "unknown model 'resnet19'; did you mean resnet18"),
        (["--data", "absent"], "absent is no folder"),
        (["--data", "empty"], "no pictures under empty"),
        (["--count", "4"], "each part needs some"),
        (["--lr", "-1"], "--learning-rate -1.0: must be finite and positive"),
        (["--shortcut", "1.5"], "--shortcut 1.5: must be at most 1"),
        (["--size", "16"], "--size 16: must be a whole number of at least 32"),
        (["--augment"], "leave it away with --data synthetic"),
        (["--data", "absent", "--count", "9"], "--count is of synthetic pictures"),
        (["--weights", "DEFAULT"], "Leave weights out"),
        (["--resume"], "holds no run"),
        (["--lr", "1e30", "--epochs", "2"], "a lower rate than --learning-rate 1e+30, or --max-grad-norm 1"),
    ],
)
def test_what_cannot_be_trained_is_named_with_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    words = TINY if "--data" not in arguments else [*TINY[:2], *TINY[4:]]
    assert main(["cxr", "train", "--out", "run", *words, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("lrp-plugin: ")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("action", ["evaluate", "explain", "evidence", "report"])
def test_without_a_run_there_is_nothing_to_show(tmp_path, capsys, action):
    assert cxr(action, tmp_path) == 2
    assert "lrp-plugin cxr train" in capsys.readouterr().err


def test_a_run_of_another_model_or_an_unknown_method_is_refused(run, capsys):
    before = contents(run)
    with pytest.raises(SystemExit) as refused:
        cxr("evaluate", run, "--model", "resnet18")
    assert refused.value.code == 2
    assert "unrecognized arguments: --model" in capsys.readouterr().err
    assert cxr("report", run, "--methods", "magic") == 2
    assert "unknown method 'magic'; legal are saliency" in capsys.readouterr().err
    assert cxr("explain", run, "--index", "80") == 2
    assert "index 80 lies outside the data" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.parametrize("error", [IndexError("no such picture"), ImportError("needs Jinja2: pip install jinja2")])
def test_what_a_command_raises_by_name_ends_in_one_line(run, monkeypatch, capsys, error):
    """An index outside the data, a missing extra: the message and status 2, no traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lrp_plugin.cxr.reporting.open_samples", fail)
    assert cxr("explain", run, "--index", "3", "--methods", "saliency") == 2
    assert capsys.readouterr().err == f"lrp-plugin: {error}\n"


def test_a_run_that_does_not_say_its_parts_is_refused(run, capsys):
    (run / "parts.json").unlink()
    assert cxr("evaluate", run) == 2
    assert "does not say which pictures it was trained on" in capsys.readouterr().err


def test_every_listed_method_explains(trained):
    from lrp_plugin.evaluation.methods import explainers, method_names

    model, picture = open_model(trained, SyntheticCXR(1).classes), SyntheticCXR(1, size=48)[0]["image"][None]
    slow = {"occlusion", "integrated_gradients", "smoothgrad"}
    for name, explain in explainers(sorted(set(method_names()) - slow), model, model.pixel_range).items():
        relevance = explain(picture.as_subclass(torch.Tensor), 0)
        assert relevance.shape == picture.shape and torch.isfinite(relevance).all(), name
    with pytest.raises(ValueError, match="epsilon_gamma_box"):
        explainers(["no_such_method"], model)


def test_ctrl_c_leaves_whole_files_and_a_run_to_resume(tmp_path):
    """A real interrupt in the middle of training: status 130, one line, nothing half-written."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from lrp_plugin.cli import main; sys.exit(main())", "cxr", "train"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--epochs", "500", *TINY],
        stderr=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell that runs the tests in the background lets them inherit SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (out / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped; every file written so far is whole" in error and "Traceback" not in error
    assert {path.name for path in out.iterdir()} <= {
        "run.json",
        "parts.json",
        "last.ckpt",
        "best.safetensors",
        "history.csv",
    }
    assert WholeFiles().load_checkpoint(out / "last.ckpt")["history"]
    assert RunSettings.load(out).epochs == 500
