from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lrp_plugin.cxr import DEFAULT_METRICS, IGNORED, METRICS
from lrp_plugin.cxr.metrics import Scores

NAMES = ("a", "b", "c")


def score(probabilities: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...] = DEFAULT_METRICS) -> dict:
    scores = Scores(NAMES, names)
    for p, y in zip(probabilities.split(3), labels.split(3), strict=True):
        scores.update(p, y, F.nll_loss(p.clamp(min=1e-9).log(), y, reduction="none", ignore_index=IGNORED))
    return scores.compute()


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 3, generator=generator).softmax(1), torch.randint(0, 3, (40,), generator=generator)


def test_figures_equal_their_definitions(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, y = predictions
    found, guess = score(p, y), p.argmax(1)
    assert found["accuracy"] == pytest.approx((guess == y).float().mean().item())
    assert found["f1_micro"] == pytest.approx(found["accuracy"])
    f1 = []
    for k in range(3):
        hits = ((guess == k) & (y == k)).sum().item()
        f1.append(2 * hits / ((guess == k).sum().item() + (y == k).sum().item()))
    assert found["f1_macro"] == pytest.approx(sum(f1) / 3, abs=1e-6)
    matrix = torch.tensor([[((y == i) & (guess == j)).sum() for j in range(3)] for i in range(3)])
    assert torch.equal(found["confusion_matrix"], matrix)
    assert found["loss"] == pytest.approx(F.nll_loss(p.log(), y).item())


def test_figures_of_the_classes_equal_their_definitions(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, y = predictions
    matrix = score(p, y)["confusion_matrix"].double()
    true, actual, called = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    rest = matrix.sum() - actual
    expected = {
        "recall_macro": (true / actual).mean(), "balanced_accuracy": (true / actual).mean(),
        "precision_macro": (true / called).mean(), "specificity_macro": ((rest - called + true) / rest).mean(),
    }  # fmt: skip
    found = score(p, y, tuple(expected))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), abs=1e-6), name


def test_auroc_is_the_share_of_ordered_pairs(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, y = predictions
    for k, name in enumerate(NAMES):
        own, rest = p[y == k, k], p[y != k, k]
        pairs = (own[:, None] > rest[None, :]).float().mean().item()
        assert score(p, y)["auroc"][name] == pytest.approx(pairs, abs=1e-6)


def test_ece_is_confidence_minus_accuracy_in_bins() -> None:
    p = torch.tensor([[0.9, 0.1, 0.0]] * 10)
    y = torch.tensor([0] * 6 + [1] * 4)
    assert score(p, y)["ece"] == pytest.approx(0.3, abs=1e-6)


def test_class_that_does_not_occur_has_no_auroc(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, y = predictions
    found = score(p, y.clamp(max=1))
    assert math.isnan(found["auroc"]["c"])
    defined = [found["auroc"][name] for name in ("a", "b")]
    assert found["auroc_macro"] == pytest.approx(sum(defined) / 2)


def test_unreadable_pictures_do_not_count(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, y = predictions
    spoiled = y.clone()
    spoiled[10:20] = IGNORED
    kept = y != -1
    kept[10:20] = False
    with_them, without = score(p, spoiled), score(p[kept], y[kept])
    assert with_them["accuracy"] == pytest.approx(without["accuracy"])
    assert with_them["loss"] == pytest.approx(without["loss"])
    assert int(with_them["confusion_matrix"].sum()) == 30


def test_every_metric_by_name_is_perfect_on_perfect_predictions() -> None:
    y = torch.arange(30) % 3
    found = score(F.one_hot(y, 3).float(), y, tuple(METRICS))
    assert found.pop("ece") == pytest.approx(0.0)
    assert found.pop("loss") == pytest.approx(0.0, abs=1e-6)
    assert torch.equal(found.pop("confusion_matrix"), 10 * torch.eye(3, dtype=torch.int64))
    assert set(found.pop("auroc").values()) == {1.0}
    assert set(found) == {*METRICS, "auroc_macro"} - {"ece", "auroc", "confusion_matrix"}
    assert all(value == pytest.approx(1.0) for value in found.values()), found


def test_unknown_metric_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"no metric recal; legal are accuracy, "):
        Scores(NAMES, ("accuracy", "recal"))
