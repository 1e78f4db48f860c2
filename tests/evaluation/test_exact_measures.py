"""What a measure is on a case small enough to write down: each of these was asked for by a planted fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_faithfulness import Weighted
from torch import Tensor, nn

from lrp_plugin.evaluation import (
    Scorer,
    boxes_to_masks,
    comprehensiveness,
    effective_rank,
    entropy,
    greedy_curves,
    infidelity,
    perturbation_curves,
    pointing_game,
    random_curves,
    sensitivity,
    top_k_inside,
)
from lrp_plugin.evaluation.comparison import Comparison
from lrp_plugin.evaluation.metrics import METRICS
from lrp_plugin.evaluation.regions import columns, patches, pixels, relevance_of, tokens
from lrp_plugin.evaluation.replacement import blur


def adding(weights: list[float]) -> Weighted:
    model = Weighted(len(weights))
    model.weight.data = torch.tensor(weights, dtype=torch.float64)
    return model


def test_an_example_without_a_region_loses_its_own_regions_first() -> None:
    """The first example has regions 0 and 2, the second all three; half of two regions is one."""
    labels, x = torch.tensor([[0, 0, 2], [0, 1, 2]]), torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]).double()
    curves = perturbation_curves(
        adding([1, 1, 1]), x, x, 0, regions=labels, replacement="zero", shares=[0.0, 0.5, 1.0], output="logit"
    )
    assert curves.morf.tolist() == [[8, 3, 0], [8, 1, 0]]
    assert curves.lerf.tolist() == [[8, 5, 0], [8, 5, 0]]


def test_a_share_above_zero_removes_a_region_at_least() -> None:
    x = torch.tensor([[1.0, 4.0, 2.0]]).double()
    assert comprehensiveness(
        adding([1, 1, 1]), x, x, 0, shares=(0.01,), regions=columns(), replacement="zero", output="logit"
    ).tolist() == [4]


def test_one_channel_for_all_counts_once() -> None:
    """A map (N, 1, H, W) that is the channels' exact sum has no infidelity, as it would have counted twice."""
    torch.manual_seed(0)
    model, x = Weighted(2, 3, 3), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    summed = (x * model.weight.detach()).sum(1, keepdim=True)
    found = infidelity(model, x, summed, 0, regions=pixels(), replacement="zero", normalize=False)
    assert found.max() < 1e-20


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_arguments_go_with_their_examples_into_every_part(batch_size: int) -> None:
    class Reader(nn.Module):
        def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
            return (ids.double() * scale).sum(1, keepdim=True)

    ids, scale = torch.tensor([[5, 1], [2, 9], [3, 4]]), torch.tensor([[1.0], [10.0], [100.0]]).double()
    scorer = Scorer(Reader().eval(), arguments=(scale,), batch_size=batch_size)
    curves = perturbation_curves(scorer, ids, ids.double(), 0, regions=tokens(), replacement=0, shares=2)
    assert curves.morf.tolist() == [[6, 1, 0], [110, 20, 0], [700, 300, 0]]


def test_a_constant_picture_blurred_is_itself() -> None:
    x = torch.full((1, 2, 9, 7), 0.7, dtype=torch.float64)
    blurred = blur()(x, 0)(torch.zeros(1, dtype=torch.long), torch.ones_like(x, dtype=torch.bool))
    torch.testing.assert_close(blurred, x, rtol=0, atol=1e-12)


def test_a_region_s_relevance_is_its_sum() -> None:
    labels = patches(2)(torch.zeros(1, 1, 2, 3))
    sums, present = relevance_of(labels, torch.tensor([[[[1.0, 2, 10], [4, -3, 20]]]]))
    assert sums.tolist() == [[4, 30]] and present.all()


def test_auto_is_the_probability_of_two_classes_and_the_logit_of_one() -> None:
    x = torch.tensor([[2.0, 1.0]])
    assert Scorer(lambda v: v)(x, 0).item() == pytest.approx(x.softmax(1)[0, 0].item())
    assert Scorer(lambda v: v[:, :1])(x, 0).item() == 2


def test_noise_of_sensitivity_goes_up_and_down_by_the_radius_at_most() -> None:
    x, seen = torch.zeros(2, 1, 8, 8, dtype=torch.float64), []
    sensitivity(lambda inputs, target: seen.append(inputs) or inputs + 1, x, 0, radius=0.5)
    drawn = torch.cat(seen)
    assert -0.5 <= drawn.min() < -0.4 and 0.4 < drawn.max() <= 0.5


def test_a_hit_within_the_tolerance_is_within_a_disc() -> None:
    """The one pixel of the mask is (2, 2); the peak lies so many rows and columns away."""
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2, 2] = True
    for down, across, tolerance, hit in ((0, 1, 1, 1), (1, 1, 1, 0), (1, 1, 2, 1), (2, 1, 2, 0), (2, 0, 2, 1)):
        relevance = torch.zeros(5, 5)
        relevance[2 + down, 2 + across] = 1
        assert pointing_game(relevance, mask, tolerance).item() == hit, (down, across, tolerance)


def test_boxes_are_left_top_right_bottom_and_end_before_right_and_bottom() -> None:
    found = boxes_to_masks(torch.tensor([[1.0, 0, 4, 2]]), (3, 5))
    assert found.int().tolist() == [[[[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]]]


def test_a_small_share_of_the_pixels_is_one_pixel() -> None:
    relevance, mask = torch.arange(4.0).view(2, 2), torch.tensor([[False, False], [False, True]])
    assert top_k_inside(relevance, mask, k=0.01).item() == 1


def test_the_effective_rank_is_of_directions_not_of_sizes() -> None:
    assert effective_rank(torch.tensor([[1.0, 0], [0, 100.0]]).view(2, 1, 1, 2)) == pytest.approx(2)


def test_leaders_are_the_best_and_those_not_told_apart_from_it() -> None:
    best = torch.tensor([5.0, 6, 7, 8]).double()
    values = {"best": best, "alike": best - torch.tensor([1.0, -1, 1, -0.8]), "worse": best - 2}
    name = next(name for name, metric in METRICS.items() if metric.higher)
    compared = Comparison(
        tuple(values), {name: METRICS[name]}, {(one, name): found for one, found in values.items()},
        torch.zeros(4), {}, {}, (), {}, torch.zeros(0), torch.zeros(3, 3), name,
    )  # fmt: skip
    assert compared.leaders() == ["best", "alike"]


@pytest.mark.parametrize("measure", [
    lambda x: perturbation_curves(adding([1, 1]), x, x, 0), lambda x: greedy_curves(adding([1, 1]), x, 0),
    lambda x: random_curves(adding([1, 1]), x, 0, draws=2), lambda x: infidelity(adding([1, 1]), x, x, 0),
    lambda x: sensitivity(lambda inputs, target: inputs, x, 0),
])  # fmt: skip
def test_no_example_at_all_is_named(measure: Callable[[Tensor], object]) -> None:
    with pytest.raises(ValueError, match=r"inputs is of shape \(0, 2\); give a tensor"):
        measure(torch.zeros(0, 2, dtype=torch.float64))


def test_bad_arguments_that_a_thousand_tries_found_are_named() -> None:
    x = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="holds no entry"):
        entropy(torch.zeros(0, 1, 6, 6))
    with pytest.raises(ValueError, match=r"replacement of shape \(3,\) does not broadcast to one input's \(2,\)"):
        infidelity(adding([1, 1]), x, x, 0, replacement=torch.ones(3))
    with pytest.raises((TypeError, ValueError), match="seed"):
        sensitivity(lambda inputs, target: inputs, x, 0, seed=torch.ones(2))


@pytest.mark.parametrize("rows", [0, 2])
def test_a_target_with_too_few_rows_is_named(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \({rows},\) has {rows} rows where example 2 is scored"):
        Scorer(lambda v: v)(torch.zeros(3, 4), torch.zeros(rows, dtype=torch.long))
