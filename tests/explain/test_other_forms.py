"""Names and targets in the forms that other libraries give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lrp_plugin.explain import explain_image, explain_table
from lrp_plugin.visualization import plot_features

torch.manual_seed(0)
NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)).eval()
X = torch.rand(3, 32, 32)
NUMBERED = dict(enumerate("abcd"))


@pytest.mark.parametrize(
    "labels",
    [
        list("abcd"), np.array(list("abcd")), NUMBERED, NUMBERED.values(), {str(k): v for k, v in NUMBERED.items()},
        dict.fromkeys("abcd").keys(), iter("abcd"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_labels_of_any_kind_name_the_outputs(labels: Any) -> None:
    assert explain_image(NET, X, 1, labels=labels, ledger=False).target_name == "b"


@pytest.mark.parametrize("target", [2, np.int64(2), np.array(2), torch.tensor(2), torch.tensor([2]), "c", "C", "2"])
def test_a_target_of_any_kind_is_the_class(target: Any) -> None:
    assert explain_image(NET, X, target, labels=list("abcd"), ledger=False).target == 2


@pytest.mark.parametrize("target", [torch.tensor([1, 2]), 1.0, float("inf"), True])
def test_what_is_no_class_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="target="):
        explain_image(NET, X, target, ledger=False)


def test_names_that_differ_by_case_are_told_apart_where_they_are_spelled() -> None:
    names = ["a", "A", "b", "c"]
    assert explain_image(NET, X, "A", labels=names, ledger=False).target == 1
    with pytest.raises(ValueError, match="names the outputs 0, 1"):
        explain_image(NET, X, "A", labels=["a", "a", "b", "c"], ledger=False)


def test_a_table_takes_arrays_of_names_and_tensors_of_values() -> None:
    names = np.array(["age", "weight", "height"])
    found = explain_table(nn.Linear(3, 2), torch.rand(3), 1, names=names)
    assert found.relevance.shape == (3,)
    plot_features([1.0, 2.0, 3.0], names, values=torch.rand(3, requires_grad=True))


def test_a_picture_whose_file_is_closed_is_explained(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((40, 40, 3), 80 * k, np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "film.gif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "film.gif") as film:
        film.load()
    assert isinstance(explain_image(NET, film, 1, ledger=False).relevance, Tensor)
    with Image.open(tmp_path / "film.gif") as film:
        film.seek(2)
        assert any("3 pages; page 3 is explained" in note for note in explain_image(NET, film, 1, ledger=False).notes)
