from __future__ import annotations

import csv
import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lrp_plugin.cxr import (
    IGNORED,
    CheckpointError,
    InMemory,
    SyntheticCXR,
    Trainer,
    build_model,
    get_dataloader,
    load_model,
    seed_everything,
    split_by_sample,
)
from lrp_plugin.cxr.module import Classification

NAMES = ("a", "b")


class Points(Dataset):
    """Two clouds of points as 1 x 1 pictures of two channels: learnt in a moment, deterministic."""

    def __init__(self, n: int = 64, seed: int = 0, spoiled: tuple[int, ...] = ()) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = [i % 2 for i in range(n)]
        signs = torch.tensor(self.labels)[:, None] * 2.0 - 1.0
        self.points = 0.8 * torch.randn(n, 2, generator=generator) + signs
        self.patients = [str(i) for i in range(n)]
        self.spoiled = spoiled

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        label = IGNORED if index in self.spoiled else self.labels[index]
        point = torch.full((2,), 1e3) if index in self.spoiled else self.points[index]
        return {"image": point[:, None, None], "disease": torch.tensor(label)}


def small_net(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2)
    )


def trainer(model: nn.Module | None = None, **arguments: Any) -> Trainer:
    return Trainer(model or small_net(), NAMES, **{"device": "cpu", "progress": False, **arguments})


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def loaders(n: int = 64) -> tuple[DataLoader, DataLoader]:
    return get_dataloader(Points(n), 8, True), get_dataloader(Points(40, seed=9), 16)


def test_training_learns_and_reports_each_epoch() -> None:
    train, val = loaders()
    own = trainer()
    before = own.evaluate(val)["loss"]
    history = own.train(train, val, epochs=6, learning_rate=0.02)
    after = own.evaluate(val)
    assert after["loss"] < 0.6 * before
    assert after["accuracy"] > 0.85
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4, 5, 6]
    assert history.rows[0]["train_loss"] > history.rows[-1]["train_loss"]
    assert {"val_loss", "val_accuracy", "val_f1_macro", "val_auroc_macro", "val_ece"} <= set(history.rows[0])
    assert history.best_score == max(row["val_accuracy"] for row in history.rows)
    rates = [row["learning_rate"] for row in history.rows]
    assert max(rates) <= 0.02 and rates.index(max(rates)) in (1, 2) and rates[-1] < 1e-3 * max(rates), "one cycle"


def test_nothing_is_written_without_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = trainer()
    own.train(*loaders(), epochs=1)
    own.evaluate(loaders()[1])
    own.inference(loaders()[1])
    assert list(tmp_path.iterdir()) == []


def test_output_holds_log_and_checkpoints(tmp_path: Path) -> None:
    own = trainer(output=tmp_path / "run")
    history = own.train(*loaders(), epochs=2)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"last.ckpt", "best.safetensors", "history.csv"}
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert [float(r["val_loss"]) for r in rows] == [r["val_loss"] for r in history.rows]
    with pytest.raises(FileExistsError, match="resume=True"):
        own.train(*loaders(), epochs=2)


def test_best_epoch_is_loaded_at_the_end(tmp_path: Path) -> None:
    for output in (None, tmp_path):
        own = trainer(output=output)
        train, val = loaders()
        history = own.train(train, val, epochs=5, learning_rate=0.3, monitor="loss")
        assert history.best_epoch != 5, "the test needs a run whose last epoch is not its best"
        assert own.evaluate(val)["loss"] == pytest.approx(history.best_score, abs=1e-9)


def test_last_epoch_stays_when_asked() -> None:
    own = trainer()
    train, val = loaders()
    history = own.train(train, val, epochs=5, learning_rate=0.3, monitor="loss", load_best=False)
    assert own.evaluate(val)["loss"] == pytest.approx(history.rows[-1]["val_loss"], abs=1e-9)


def test_patience_stops_early() -> None:
    train, val = loaders()
    history = trainer().train(train, val, epochs=50, learning_rate=0.3, monitor="loss", patience=2)
    assert history.stopped_early
    assert history.best_epoch is not None
    assert len(history.rows) == history.best_epoch + 2


def test_same_seed_same_weights_other_seed_others() -> None:
    runs = []
    for seed in (0, 0, 1):
        own = trainer(seed=seed)
        own.train(loaders()[0], epochs=2)
        runs.append(weights(own.model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_unreadable_pictures_do_not_train() -> None:
    # The spoiled samples would throw the weights far off; BatchNorm sees them, so the net has none.
    def train(spoiled: tuple[int, ...]) -> tuple[float, torch.Tensor]:
        torch.manual_seed(1)
        own = trainer(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
        history = own.train(get_dataloader(Points(32, spoiled=spoiled), 32), epochs=1)
        return history.rows[0]["train_loss"], weights(own.model)

    kept = [i for i in range(32) if i not in (3, 8)]
    loss, found = train((3, 8))
    torch.manual_seed(1)
    net = nn.Linear(2, 2)
    points = Points(32)
    logits = net(points.points[kept])
    expected = nn.functional.cross_entropy(logits, torch.tensor(points.labels)[kept])
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    assert found.abs().max() < 2.0
    assert train(tuple(range(32)))[0] == 0.0, "a batch without any readable picture is no NaN"


def test_class_weights_weigh_the_loss() -> None:
    class Uneven(Points):
        def __init__(self) -> None:
            super().__init__(40)
            self.labels = [0] * 30 + [1] * 10

    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    labels = torch.tensor(Uneven().labels)
    given = torch.tensor([40 / 60, 2.0])
    expected = nn.functional.cross_entropy(net(Uneven().points), labels, weight=given).item()
    for wanted in ("balanced", given.tolist()):
        torch.manual_seed(1)
        own = trainer(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
        history = own.train(get_dataloader(Uneven(), 40), epochs=1, class_weights=wanted)
        assert history.rows[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_gradient_norm_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    real = Classification.on_before_zero_grad

    def after_the_step(self: Classification, optimizer: torch.optim.Optimizer) -> None:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms.extend([torch.linalg.vector_norm(torch.stack([g.norm() for g in grads])).item()] if grads else [])
        return real(self, optimizer)

    monkeypatch.setattr(Classification, "on_before_zero_grad", after_the_step)
    trainer().train(loaders()[0], epochs=1, max_grad_norm=0.01)
    assert max(norms) <= 0.01 * (1 + 1e-4)
    assert max(norms) > 0.009


def test_bfloat16_runs_the_forward_pass_in_bfloat16() -> None:
    seen = []
    net = small_net()
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    own = trainer(net, precision="bfloat16")
    own.train(loaders()[0], epochs=3, learning_rate=0.02)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in own.model.parameters()} == {torch.float32}
    assert own.evaluate(loaders()[1])["accuracy"] > 0.8


def test_infinite_loss_stops_with_the_place() -> None:
    data = Points(16)
    data.points[3] = math.inf
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        trainer(nn.Sequential(nn.Flatten(), nn.Linear(2, 2))).train(get_dataloader(data, 16), epochs=1)


def test_inference_is_in_order_and_agrees_with_evaluate() -> None:
    own, (_, val) = trainer(), loaders()
    y_true, y_prob, loss = own.inference(val)
    assert y_true.tolist() == Points(40, seed=9).labels
    assert y_prob.shape == (40, 2)
    assert y_prob.sum(1) == pytest.approx(1.0, abs=1e-6)
    found = own.evaluate(val)
    assert loss == pytest.approx(found["loss"], rel=1e-6)
    assert (y_prob.argmax(1) == y_true).mean() == pytest.approx(found["accuracy"])


def test_extra_metrics_by_name() -> None:
    found = trainer().evaluate(loaders()[1], metrics=("cohen_kappa", "precision_macro"))
    assert set(found) == {"loss", "cohen_kappa", "precision_macro"}


def test_evaluation_keeps_mode_gradients_and_contexts() -> None:
    own = trainer()
    own.model.train()
    own.model[2].eval()
    unreadable = DataLoader([{"picture": torch.zeros(1)}])
    for measure in (own.evaluate, own.inference):
        measure(loaders()[1])
        with pytest.raises(TypeError, match="keys"):
            measure(unreadable)
        assert [module.training for module in own.model] == [True, True, False, True, True, True]
    assert all(p.grad is None for p in own.model.parameters())
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_pairs_are_batches_too_and_others_are_refused() -> None:
    points = Points(16)
    pairs = TensorDataset(points.points[:, :, None, None], torch.tensor(points.labels))
    assert 0 <= trainer().evaluate(DataLoader(pairs, 4))["accuracy"] <= 1
    with pytest.raises(TypeError, match="keys \\['picture'\\]"):
        trainer().evaluate(DataLoader([{"picture": torch.zeros(1)}]))


def test_progress_bars_can_be_disabled(capfd: pytest.CaptureFixture[str]) -> None:
    trainer().train(loaders()[0], epochs=1)
    assert capfd.readouterr() == ("", "")
    trainer(progress=True).train(loaders()[0], epochs=1)
    out, err = capfd.readouterr()
    assert "Epoch 0" in err
    assert out == ""


def test_trained_model_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    seed_everything(0)
    own = Trainer(build_model("reference_cnn"), output=tmp_path, progress=False, device="cpu")
    train = get_dataloader(SyntheticCXR(8, size=32), 4, True)
    own.train(train, get_dataloader(SyntheticCXR(8, seed=1, size=32), 8), epochs=1)
    model, facts = load_model(tmp_path / "best.safetensors")
    picture = torch.rand(2, 1, 32, 32)
    assert torch.equal(model(picture), own.model(picture))
    assert facts["classes"] == list(SyntheticCXR(1).classes)
    assert facts["epoch"] == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_full_disk_stops_training_and_the_run_can_go_on(tmp_path: Path, full_disk: Any) -> None:
    whole = trainer(output=tmp_path / "whole")
    whole.train(*loaders(), epochs=3)

    class Filling(Points):
        """Fills the disk when the third epoch reads its first sample."""

        reads = 0

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            Filling.reads += 1
            if Filling.reads == 2 * 64 + 1:
                filled.enter_context(full_disk())
            return super().__getitem__(index)

    _, val = loaders()
    told = pytest.raises(CheckpointError, match=r"run/(best|last)\..*No space left.*intact.*resume")
    with ExitStack() as filled, told:
        trainer(output=tmp_path / "run").train(get_dataloader(Filling(), 8, True), val, epochs=3)
    again = trainer(output=tmp_path / "run")
    history = again.train(*loaders(), epochs=3, resume=True)
    assert len(history.rows) == 3
    assert torch.equal(weights(again.model), weights(whole.model))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"weight_decay": float("inf")}, "weight_decay=inf"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"epochs": True}, "epochs=True"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
        ({"class_weights": [1.0, float("inf")]}, "finite and positive"),
        ({"class_weights": "even"}, "'balanced'"),
        ({"class_weights": [1.0, -1.0]}, "positive"),
        ({"class_weights": [1.0, 1.0, 1.0]}, "3 class weights for the 2 classes"),
        ({"monitor": "accurasy"}, "legal are loss, accuracy"),
        ({"patience": 3}, "val_loader"),
        ({"resume": True}, "output"),
    ],
)
def test_illegal_settings_tell_the_legal_ones(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trainer().train(loaders()[0], **settings)


def test_illegal_trainers_are_refused() -> None:
    with pytest.raises(ValueError, match="legal are float32"):
        trainer(precision="fp8")
    with pytest.raises(ValueError, match="needs CUDA"):
        trainer(precision="float16")
    with pytest.raises(ValueError, match="no metric"):
        trainer(metrics=["accurasy"])
    with pytest.raises(CheckpointError, match="nothing to resume"):
        trainer(output="/nonexistent/run").train(loaders()[0], resume=True)


@pytest.mark.slow
def test_reference_net_learns_the_radiographs() -> None:
    torch.set_num_threads(2)
    train, val, test = split_by_sample(SyntheticCXR(2000))
    seed_everything(0)
    own = Trainer(build_model("reference_cnn"), progress=False)
    own.train(
        get_dataloader(InMemory(train), 32, True),
        get_dataloader(InMemory(val), 64),
        epochs=4,
        learning_rate=3e-3,
    )
    assert own.evaluate(get_dataloader(test, 64))["accuracy"] >= 0.95
