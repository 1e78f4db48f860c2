"""The ledger's plot, on rows of known numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lrp_plugin.visualization import plot_ledger


@dataclass
class Row:
    path: str
    operation: str
    relevance_out: Tensor
    relevance_in: Tensor
    bias: Tensor
    stabilizer: Tensor


def row(name: str, out: list[float], bias: list[float], stabilizer: list[float]) -> Row:
    o, b, s = torch.tensor(out), torch.tensor(bias), torch.tensor(stabilizer)
    return Row(name, "conv2d", o, o - b - s, b, s)


ROWS = [
    row("head", [4.0, 2.0], [1.0, -1.0], [0.5, 0.5]),
    row("relu", [2.5, 2.5], [0.0, 0.0], [0.0, 0.0]),
    row("stem", [2.5, 2.5], [0.25, 0.75], [0.0, 0.0]),
]


def bars(figure) -> dict[str, list[float]]:
    panel = figure.get_axes()[1]
    return {c.get_label(): [bar.get_width() for bar in c] for c in panel.containers}


def test_bars_are_the_mean_over_the_examples_and_the_legend_has_their_sum():
    found = bars(plot_ledger(ROWS))
    assert found == {"bias 0.5": [0.0, 0.0, 0.5], "stabilizer 0.5": [0.5, 0.0, 0.0]}


def test_one_example_is_shown_alone_and_opposite_signs_go_opposite_ways():
    figure = plot_ledger(ROWS, example=1)
    assert bars(figure)["bias \u22120.25"] == [-1.0, 0.0, 0.75]
    left, right = figure.get_axes()[1].containers
    assert left[0].get_x() + left[0].get_width() == -1.0
    assert (right[0].get_x(), right[0].get_width()) == (0.0, 0.5)


def test_flow_shows_what_reached_and_what_was_passed_on_in_row_order():
    panel = plot_ledger(ROWS, example=0).get_axes()[0]
    assert panel.lines[0].get_xdata().tolist() == [4.0, 2.5, 2.5]
    assert panel.lines[1].get_xdata().tolist() == [2.5, 2.5, 2.25]
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "head  conv2d",
        "relu  conv2d",
        "stem  conv2d",
    ]
    assert panel.get_ylim()[0] > panel.get_ylim()[1], "the first row is on top"


def test_rows_that_absorb_less_are_summed_up_so_that_nothing_is_lost():
    rows = [row(f"layer{i}", [1.0], [0.01 * i], [0.0]) for i in range(40)]
    figure = plot_ledger(rows, top=5)
    labels = [label.get_text() for label in figure.get_axes()[0].get_yticklabels()]
    assert labels == [*(f"layer{i}  conv2d" for i in range(35, 40)), "35 more, absorbing less"]
    (widths,) = bars(figure).values()
    assert sum(widths) == pytest.approx(sum(0.01 * i for i in range(40)))


def test_no_bar_touches_the_frame():
    panel = plot_ledger(ROWS).get_axes()[1]
    ends = [bar.get_x() + bar.get_width() for c in panel.containers for bar in c]
    assert panel.get_xlim()[1] > max(ends) and panel.get_xlim()[0] < min(ends)


def test_a_ledger_that_absorbed_nothing_says_so():
    figure = plot_ledger([row("relu", [1.0], [0.0], [0.0])])
    assert figure.get_axes()[1].texts[0].get_text() == "nothing absorbed"


@pytest.mark.parametrize(
    ("keywords", "message"), [({"rows": []}, "0 rows"), ({"top": 0}, "top=0"), ({"example": 2}, "example 2")]
)
def test_bad_input_is_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        plot_ledger(keywords.pop("rows", ROWS), **keywords)


def test_columns_of_the_same_sign_are_stacked_not_overlaid():
    figure = plot_ledger([row("a", [0.0], [-1.0], [-0.5]), row("b", [0.0], [1.0], [0.5])])
    first, second = figure.get_axes()[1].containers
    assert [(bar.get_x(), bar.get_width()) for bar in first] == [(0.0, -1.0), (0.0, 1.0)]
    assert [(bar.get_x(), bar.get_width()) for bar in second] == [(-1.0, -0.5), (1.0, 0.5)]
