"""Sanity, similarity, complexity: known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_faithfulness import Small, pictures, seeds
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.evaluation import (
    agreement,
    effective_rank,
    entropy,
    label_randomization,
    noise_stability,
    parameter_randomization,
    parametrized_layers,
    random_map_similarity,
    rank_correlation,
    sparseness,
    structural_similarity,
)


def gradient(model: nn.Module):
    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        x = inputs.detach().clone().requires_grad_()
        chosen = model(x).gather(1, target[:, None]).sum()
        return torch.autograd.grad(chosen, x)[0]

    return explain


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_a_map_that_ignores_the_model_fails_and_the_gradient_passes(order: str) -> None:
    model, x, _, target = pictures(0, count=8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    ignoring = parameter_randomization(lambda m: lambda inputs, t: inputs, model, x, target, order=order)
    assert list(ignoring) == ["body.4", "body.0"]
    assert all((found == 1).all() for found in ignoring.values())
    sound = parameter_randomization(gradient, model, x, target, order=order)
    assert sound["body.0"].mean() < 0.5
    lrp = parameter_randomization(lambda m: UnifiedLRP(m).attribute, model, x, target, order=order)
    assert lrp["body.0"].mean() < 0.9
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    again = parameter_randomization(gradient, model, x, target, order=order)
    assert all(torch.equal(again[name], sound[name]) for name in sound)


def test_cascading_adds_layers_and_independent_does_not() -> None:
    model, x, _, target = pictures(1, count=4)
    seen: dict[str, list[list[bool]]] = {"cascading": [], "independent": []}

    def build(order: str):
        def made(m: nn.Module):
            seen[order].append([torch.equal(m.body[k].weight, model.body[k].weight) for k in (4, 0)])
            return lambda inputs, t: inputs

        return made

    for order in seen:
        parameter_randomization(build(order), model, x, target, order=order)
    assert seen["cascading"] == [[True, True], [False, True], [False, False]]
    assert seen["independent"] == [[True, True], [False, True], [True, False]]


def test_layers_run_last_come_first_and_bad_names_are_told() -> None:
    model, x, _, target = pictures(0)
    assert parametrized_layers(model, x) == ["body.4", "body.0"]
    with pytest.raises(ValueError, match="unknown layers head"):
        parameter_randomization(gradient, model, x, target, layers=["head"])
    with pytest.raises(ValueError, match="legal are cascading"):
        parameter_randomization(gradient, model, x, target, order="top")
    with pytest.raises(ValueError, match="no layer with parameters"):
        parameter_randomization(gradient, nn.Flatten(), x, target)


def test_labels_at_random_and_the_random_floor() -> None:
    model, x, maps, target = pictures(2, count=6)
    torch.manual_seed(99)
    other = Small()
    assert label_randomization(gradient, model, other, x, target).mean() < 0.9
    assert (label_randomization(gradient, model, model, x, target) == 1).all()
    assert random_map_similarity(torch.randn(200, 1, 12, 12)).abs().mean() < 0.15  # 1 / sqrt(144), a half-normal's mean


@given(seeds, st.floats(0.01, 100))
def test_rank_correlation_is_spearmans(seed: int, factor: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy is the twin")
    torch.manual_seed(seed)
    one, other = torch.randint(-3, 4, (2, 1, 4, 5)).double(), torch.randn(2, 1, 4, 5).double()
    found = rank_correlation(one, other)
    for n in range(2):
        assert float(found[n]) == pytest.approx(stats.spearmanr(one[n].flatten(), other[n].flatten())[0], abs=1e-12)
    torch.testing.assert_close(rank_correlation(factor * one, other), found)
    torch.testing.assert_close(rank_correlation(one[[1, 0]], other[[1, 0]]), found[[1, 0]])
    assert (found.abs() <= 1).all()
    assert rank_correlation(torch.ones(1, 1, 4, 5), other[:1]).isnan().all()


@given(seeds)
def test_structural_similarity_is_scikit_images(seed: int) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is the twin")
    torch.manual_seed(seed)
    one, other = torch.randn(2, 9, 11).double(), torch.randn(2, 9, 11).double()
    found = structural_similarity(one, other)
    for n in range(2):
        a, b = ((t[n] - t[n].min()) / (t[n].max() - t[n].min()) for t in (one, other))
        # scikit-image leaves out a border of half a window, where its padded windows would reach outside.
        assert float(found[n]) == pytest.approx(
            metrics.structural_similarity(a.numpy(), b.numpy(), data_range=1.0), abs=1e-9
        )
    torch.testing.assert_close(structural_similarity(5 * one, other), found)
    torch.testing.assert_close(structural_similarity(one, one), torch.ones(2).double())


def test_agreement_of_methods() -> None:
    one, other = torch.randn(5, 1, 6, 6).double(), torch.randn(5, 1, 6, 6).double()
    found = agreement({"one": one, "scaled": 3 * one, "opposite": -one, "other": other})
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found[0, :3], torch.tensor([1.0, 1.0, -1.0]).double())
    torch.testing.assert_close(found[0, 3], rank_correlation(one, other).mean())


@given(seeds, st.integers(2, 30), st.floats(0.01, 100))
def test_entropy_and_sparseness_bounds(seed: int, size: int, factor: float) -> None:
    torch.manual_seed(seed)
    maps = torch.randn(3, 1, 1, size).double()
    h, g = entropy(maps), sparseness(maps)
    assert ((h >= 0) & (h <= math.log(size) + 1e-12)).all() and ((g >= -1e-12) & (g < 1)).all()
    torch.testing.assert_close(entropy(factor * maps), h)
    torch.testing.assert_close(sparseness(factor * maps[[2, 0, 1]]), g[[2, 0, 1]])
    flat, one = torch.ones(1, 1, 1, size), torch.zeros(1, 1, 1, size)
    one[..., 0] = 5
    assert float(entropy(flat)) == pytest.approx(math.log(size)) and float(entropy(one)) == 0
    assert float(sparseness(flat)) == pytest.approx(0, abs=1e-12)
    assert float(sparseness(one)) == pytest.approx(1 - 1 / size)
    assert entropy(torch.zeros(1, 1, 2, 2)).isnan().all()


def test_effective_rank_counts_different_maps() -> None:
    eye = torch.eye(4).double()[:, None, None]
    assert effective_rank(eye) == pytest.approx(4)
    assert effective_rank(eye[[0, 0, 0]] * torch.tensor([1.0, 2, -3]).view(3, 1, 1, 1)) == pytest.approx(1)
    assert effective_rank(torch.cat([eye[:2], torch.zeros(1, 1, 1, 4)])) == pytest.approx(2)
    with pytest.raises(ValueError, match="no map holds anything"):
        effective_rank(torch.zeros(2, 1, 2, 2))


def test_noise_stability() -> None:
    model, x, _, target = pictures(3, count=4)
    assert (noise_stability(lambda inputs, t: x, x, target) == 1).all()
    calm, wild = (noise_stability(gradient(model), x, target, scale=scale) for scale in (1e-6, 2.0))
    assert calm.min() > 0.999 and wild.mean() < calm.mean()
    assert np.isfinite(wild.numpy()).all()
