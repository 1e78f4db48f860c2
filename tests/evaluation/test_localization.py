"""The localisation measures against slow twins from the papers, the bootstrap against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_plugin.evaluation import (
    MEASURES,
    bootstrap_mean,
    evidence_by_class,
    mask_area,
    mask_share,
    pointing_game,
    rank_accuracy,
)


def slow_share(relevance: np.ndarray, mask: np.ndarray) -> float:
    inside = total = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            value = max(sum(channel[row][column] for channel in relevance), 0.0)
            total += value
            inside += value if mask[row][column] else 0.0
    return inside / total


def slow_rank(relevance: np.ndarray, mask: np.ndarray) -> float:
    order = sorted(np.ndindex(mask.shape), key=lambda place: -relevance[:, place[0], place[1]].sum())
    best = order[: int(mask.sum())]
    return sum(bool(mask[place]) for place in best) / len(best)


def slow_pointing(relevance: np.ndarray, mask: np.ndarray, tolerance: int) -> float:
    row, column = max(np.ndindex(mask.shape), key=lambda place: relevance[:, place[0], place[1]].sum())
    return float(any(math.hypot(row - r, column - c) <= tolerance for r, c in np.argwhere(mask)))


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_measures_match_their_slow_twins(seed, channels, height, width, tolerance):
    generator = torch.Generator().manual_seed(seed)
    # Normal draws do not tie; one pixel is made positive in sum, so that every map has a score.
    relevance = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    relevance[:, :, 0, 0] = relevance[:, :, 0, 0].abs()
    mask = torch.rand(2, height, width, generator=generator) < 0.4
    mask[:, -1, -1] = True
    expected = [(r.numpy(), m.numpy()) for r, m in zip(relevance, mask, strict=True)]
    assert mask_share(relevance, mask).tolist() == pytest.approx([slow_share(*pair) for pair in expected])
    assert rank_accuracy(relevance, mask).tolist() == pytest.approx([slow_rank(*pair) for pair in expected])
    assert pointing_game(relevance, mask, tolerance).tolist() == [slow_pointing(*p, tolerance) for p in expected]


def test_channels_are_summed_with_their_sign_before_the_positive_part():
    relevance = torch.tensor([[[[3.0, 1.0]], [[-3.0, 1.0]]]])
    assert mask_share(relevance, torch.tensor([[[True, False]]])).item() == 0.0
    assert mask_share(relevance, torch.tensor([[[False, True]]])).item() == 1.0


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_no_positive_relevance_and_empty_mask_have_no_score(measure):
    relevance = torch.ones(3, 1, 4, 4)
    relevance[0] = 0
    mask = torch.ones(3, 4, 4, dtype=torch.bool)
    mask[1] = False
    relevance[2, 0, 0, 0] = 2
    assert torch.isnan(measure(relevance, mask)).tolist() == [True, True, False]
    assert torch.isnan(measure(-relevance.abs(), mask)).all()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_constant_map_scores_chance(measure):
    mask = torch.zeros(1, 10, 10)
    mask[0, :3] = 1
    assert measure(torch.full((1, 10, 10), 0.1), mask).item() == pytest.approx(0.3)
    assert mask_area(mask).item() == pytest.approx(0.3)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_all_accepted_shapes_agree_and_scale_does_not_matter(measure):
    relevance, mask = torch.randn(5, 6), torch.rand(5, 6) < 0.5
    reference = measure(relevance, mask)
    assert reference.shape == (1,)
    for given_map, given_mask in [
        (relevance[None], mask[None].to(torch.uint8)),
        (relevance[None, None], mask[None, None].float()),
        (relevance * 1e-6, mask),
    ]:
        assert measure(given_map, given_mask).item() == pytest.approx(reference.item())


def test_half_precision_is_summed_in_double():
    relevance = torch.full((1, 300, 300), 1.0, dtype=torch.float16)
    mask = torch.zeros(1, 300, 300, dtype=torch.bool)
    mask[:, :100] = True
    assert mask_share(relevance, mask).item() == pytest.approx(1 / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("relevance", "mask", "message"),
    [
        (torch.ones(1, 4, 4), torch.ones(1, 8, 8), r"mask \(1, 8, 8\) does not match relevance \(1, 4, 4\)"),
        (torch.ones(2, 4, 4), torch.ones(1, 4, 4), "does not match"),
        (torch.full((1, 4, 4), math.nan), torch.ones(1, 4, 4), "16 values that are NaN"),
        (torch.ones(1, 4, 4), torch.full((1, 4, 4), 255), "other than 0 and 1"),
        (torch.ones(1, 4, 4), torch.ones(1, 3, 4, 4), "3 channels"),
        (torch.ones(4), torch.ones(4), "give a tensor"),
    ],
)
def test_bad_maps_and_masks_are_named(relevance, mask, message):
    for measure in MEASURES.values():
        with pytest.raises(ValueError, match=message):
            measure(relevance, mask)


def test_negative_tolerance_is_named():
    with pytest.raises(ValueError, match="tolerance is -1"):
        pointing_game(torch.ones(2, 2), torch.ones(2, 2), tolerance=-1)


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        interval = bootstrap_mean(generator.normal(3.0, 1.0, 60), resamples=300, seed=trial)
        hits += interval.low <= 3.0 <= interval.high
    # 200 trials at 0.95: five standard errors (0.0154 each) below would be 0.873.
    assert 0.873 < hits / 200 < 1.0


def test_bootstrap_is_seeded_leaves_global_generators_alone_and_narrows_with_confidence():
    values = torch.arange(50, dtype=torch.float64)
    np_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = bootstrap_mean(values, seed=3)
    assert first == bootstrap_mean(values, seed=3)
    assert first != bootstrap_mean(values, seed=4)
    assert (np.random.get_state()[1] == np_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    narrow = bootstrap_mean(values, seed=3, confidence=0.5)
    assert first.low < narrow.low < 24.5 < narrow.high < first.high
    # The mean of 50 draws from 0..49 has the standard error 14.43 / sqrt(50) = 2.04.
    assert first.high - first.low == pytest.approx(2 * 1.96 * 2.04, rel=0.1)


def test_bootstrap_of_no_one_and_missing_values():
    empty = bootstrap_mean([])
    assert math.isnan(empty.mean) and empty.count == 0
    one = bootstrap_mean([0.5])
    assert (one.mean, one.count) == (0.5, 1) and math.isnan(one.low) and math.isnan(one.high)
    some = bootstrap_mean([0.0, math.nan, 1.0])
    assert (some.mean, some.count, some.missing) == (0.5, 2, 1)


@pytest.mark.parametrize(
    "bad", [{"confidence": 1.0}, {"confidence": 95}, {"resamples": 0}, {"values": np.ones((2, 2))}]
)
def test_bad_bootstrap_settings_are_named(bad):
    with pytest.raises(ValueError, match=r"confidence|shape"):
        bootstrap_mean(bad.pop("values", [1.0, 2.0]), **bad)


def test_evidence_by_class_keeps_order_and_counts():
    result = evidence_by_class([0.1, 0.9, 0.3, math.nan], [0, 1, 0, 1], ["COVID", "Normal", "Unseen"])
    assert list(result) == ["COVID", "Normal", "Unseen"]
    assert result["COVID"].mean == pytest.approx(0.2)
    assert (result["Normal"].count, result["Normal"].missing) == (1, 1)
    assert result["Unseen"].count == 0


def test_evidence_by_class_names_bad_labels_and_lengths():
    with pytest.raises(ValueError, match="labels run from 0 to 2"):
        evidence_by_class([0.1, 0.2], [0, 2], ["a", "b"])
    with pytest.raises(ValueError, match="labels run from -1"):
        evidence_by_class([0.1, 0.2], [0, -1], ["a", "b"])
    with pytest.raises(ValueError, match="both be"):
        evidence_by_class([0.1, 0.2], [0], ["a", "b"])
