"""What is printed: nothing cut, nothing repeated, nothing about one example that is said of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP, explain_image, explain_table, list_composites, list_rules
from lrp_plugin.composites.ready import READY
from lrp_plugin.evaluation import compare
from lrp_plugin.gradients import build_method


def network() -> nn.Module:
    torch.manual_seed(0)
    blocks = [layer for _ in range(6) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(3 * 64, 3)).eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_an_explainer_prints_its_rules_and_no_address() -> None:
    text = str(UnifiedLRP(network(), composite="epsilon_plus_flat"))
    assert text.startswith("UnifiedLRP of Sequential\nComposite epsilon_plus_flat")
    assert "flat(stabilizer=1e-06)" in text and "0x" not in text


def test_a_plan_prints_each_different_choice_once() -> None:
    plan = UnifiedLRP(network(), composite="epsilon_plus_flat").plan(X)
    lines = str(plan).splitlines()
    assert len(lines) < len(plan) == len(plan.table().splitlines()) - 2
    assert any(line.startswith("5 x conv2d") and "2 ... 10" in line for line in lines), lines
    counts = [int(line.split(" x ")[0]) for line in lines[2:-1]]
    assert sum(counts) == len(plan)


def test_a_ledgers_table_cuts_nothing_and_says_whose_it_is() -> None:
    account = UnifiedLRP(network(), "gamma", gamma=0.123456789, bias="distribute", stabilizer=1.25e-9).ledger(
        X, target=1
    )
    text = account.table(example=1)
    assert text.startswith("example 1 of 2") and "example 0 of 2" in account.table()
    assert "gamma=0.123456789" in text and "stabilizer=1.25e-09" in text
    assert "example" not in UnifiedLRP(network()).ledger(X[:1], target=1).table()
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert float(total.split()[1]) == pytest.approx(float(account.output[1]), rel=1e-3)
    with pytest.raises(IndexError, match="2 examples"):
        account.table(example=2)


def test_rules_are_listed_in_groups_and_composites_by_name() -> None:
    table = list_rules()
    assert len(str(table).splitlines()) < len(table) / 2
    assert all(operation in str(table).replace("\n    ", " ") for operation in ("conv2d", "softmax"))
    assert list_rules("add")["add"][0] == "epsilon"
    assert {*READY, "epsilon_gamma_box"} == set(list_composites()) and all(list_composites().values())


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ({}, "load_state_dict"),
        (3, "is a int; legal are an nn.Module"),
        ("resnet18", r"'resnet18', a str; build the network.*get_model\(name\)"),
        (Path("weights.pt"), r"load_state_dict\(torch.load\(file\)\)"),
        (nn.Linear, r"the class Linear; make a network of it, Linear\(\.\.\.\)"),
        ([nn.ReLU()], r"a list; pass one network.*nn.Sequential\(\*layers\)"),
        (nn.ModuleList([nn.ReLU()]), r"a ModuleList; .*nn.Sequential\(\*layers\)"),
        (None, "is None; pass the network"),
        (torch.ones(2), "is a Tensor; legal are an nn.Module"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        UnifiedLRP,
        lambda model: LayerUnifiedLRP(model, nn.ReLU()),
        lambda model: explain_image(model, np.zeros((8, 8, 3), np.uint8)),
        lambda model: explain_table(model, [1.0, 2.0]),
        lambda model: build_method("saliency", model),
        lambda model: build_method("gradcam", model),
        lambda model: compare(model, (torch.ones(2, 3), torch.tensor([0, 1])), ["epsilon"], progress=False),
    ],
)
def test_what_is_no_model_is_a_type_error_that_says_what_to_give(use: Any, model: object, remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        use(model)
