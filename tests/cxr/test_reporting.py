"""What a report and a run folder are made of, each part alone, without a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_plugin import cxr
from lrp_plugin.cxr import (
    CheckpointError,
    History,
    Shortcut,
    SyntheticCXR,
    TrainSettings,
    build_model,
    cxr_transforms,
    save_weights,
)
from lrp_plugin.cxr import runfolder as runs
from lrp_plugin.cxr.reporting import explain_examples, marker_tests
from lrp_plugin.explain.samples import explain_sample, save_example
from lrp_plugin.images.splits import LabelledSubset


def test_a_share_of_nothing_is_null_in_the_file_of_a_picture(tmp_path: Path) -> None:
    """NaN is no JSON: browsers and other languages refuse the whole file."""
    sample, nothing = SyntheticCXR(1, size=32)[0], {"nothing": lambda images, target: torch.zeros_like(images)}
    model = build_model("reference_cnn")
    example = explain_sample(model, sample, nothing, SyntheticCXR(1).classes, "film", region="lungs")
    (path,) = (one for one in save_example(tmp_path, example, "film", "lungs") if one.suffix == ".json")
    facts = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert facts["methods"]["nothing"] == {"inside_lungs": None, "sum": 0.0}


def test_examples_are_the_surest_right_ones_and_the_surest_mistake() -> None:
    whole = SyntheticCXR(5, size=32)
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    findings: Any = SimpleNamespace(
        labels=np.zeros(5, dtype=int), probabilities=probabilities, test=SimpleNamespace(indices=[4, 3, 2, 1, 0]),
        scores=SimpleNamespace(shares={"lungs": {"saliency": None}}),
    )  # fmt: skip
    parts: Any = SimpleNamespace(whole=whole)
    shown = explain_examples(build_model("reference_cnn").eval(), parts, findings)
    assert [example.identifier for example in shown] == [whole.picture_name(i) for i in (3, 2, 0)]
    assert [entry.method for entry in shown[0].explanations] == ["saliency"]


class MarkerReader:
    """Calls whatever has a marker COVID, all else normal."""

    def inference(self, loader: Any) -> tuple[np.ndarray, np.ndarray, float]:
        labels, marked = zip(*((batch["disease"], batch["marker"].flatten(1).any(1)) for batch in loader))
        covid, normal = 0, 2
        guess = torch.where(torch.cat(marked), covid, normal)
        return torch.cat(labels).numpy(), torch.eye(4)[guess].numpy(), 0.0


def test_the_marker_is_removed_from_the_marked_pictures() -> None:
    data = SyntheticCXR(40, size=32, shortcut=Shortcut(strength=1.0))
    reader: Any = MarkerReader()
    found = {one.class_name: one for one in marker_tests(reader, LabelledSubset(data, range(40)))}
    assert (found["COVID"].accuracy_with.mean, found["COVID"].accuracy_without.mean) == (1.0, 0.0)
    plain = LabelledSubset(SyntheticCXR(8, size=32), range(8))
    assert marker_tests(reader, plain) == []


def test_a_model_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / runs.WEIGHTS_FILE, build_model("reference_cnn", 2), {})
    assert not runs.open_model(tmp_path, ("a", "b")).training
    with pytest.raises(CheckpointError, match="knows 2 classes, the data has 3: a, b, c"):
        runs.open_model(tmp_path, ("a", "b", "c"))


def test_a_run_builds_the_model_that_its_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def built(*arguments: Any) -> Any:
        asked.extend(arguments)
        raise InterruptedError

    monkeypatch.setattr(runs, "build_model", built)
    settings = runs.RunSettings(model="resnet18", weights="DEFAULT", size=32, count=40)
    with pytest.raises(InterruptedError):
        runs.train_run(settings, runs.open_parts(settings), tmp_path)
    assert asked == ["resnet18", 4, "DEFAULT"]


@pytest.mark.parametrize(
    ("losses", "best", "stopped"), [([3, 1, 2], 2, False), ([3, 1, 2, 1], 2, True), ([], None, False)]
)
def test_history_knows_its_best_epoch_and_when_patience_ran_out(losses: Any, best: Any, stopped: bool) -> None:
    rows = [{"epoch": float(k + 1), "val_loss": float(loss)} for k, loss in enumerate(losses)]
    history = History(TrainSettings(monitor="loss", patience=2), rows)
    assert (history.best_epoch, history.stopped_early) == (best, stopped)


def test_training_pictures_are_never_mirrored() -> None:
    """A heart on the right is a diagnosis."""
    torch.manual_seed(0)
    picture = torch.zeros(1, 64, 64)
    picture[:, 16:48, 8:24] = 1.0
    for _ in range(20):
        moved = cxr_transforms()(picture)
        assert moved[:, :, :32].sum() > 5 * moved[:, :, 32:].sum()
        assert moved.min() >= 0 and moved.max() <= 1


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    for name in ("trainer", "module"):
        monkeypatch.delitem(sys.modules, f"lrp_plugin.cxr.{name}", raising=False)
    with pytest.raises(ImportError, match=r"Trainer needs lightning\.pytorch: pip install 'lrp-plugin\[cxr\]'"):
        _ = cxr.Trainer
    with pytest.raises(AttributeError, match="no_such"):
        _ = cxr.no_such


def test_colour_is_averaged_for_a_grey_network_and_small_pictures_are_enlarged() -> None:
    seen: list[Tensor] = []
    model = cxr.CXRClassifier(torch.nn.Identity(), "own", 2, channels=1, least_size=24)
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.tensor([0.0, 0.3, 0.9])[None, :, None, None].expand(1, 3, 20, 30))
    assert seen[0].shape == (1, 1, 24, 30)
    torch.testing.assert_close(seen[0], torch.full((1, 1, 24, 30), 0.4))
