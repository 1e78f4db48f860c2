"""Quantus' own figure of the same measure, relative 1e-6 (extra ``peers``); where a definition differs, the test says how.

Quantus (Hedstroem et al. 2023, JMLR 24) takes one channel's maps as they are: with one channel and relevance above 0 its
measures of localization and complexity are ours. Ours sum the channels, take the positive part (mass) or the magnitude
(entropy, sparseness), share ties, and leave examples without a score out.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrp_plugin.evaluation import (
    entropy,
    mask_share,
    perturbation_curves,
    pointing_game,
    rank_accuracy,
    sparseness,
    top_k_inside,
)
from lrp_plugin.evaluation.regions import patches, pixels
from lrp_plugin.evaluation.road import impute

quantus = pytest.importorskip("quantus", reason="quantus is not installed (extra peers)")
pytestmark = pytest.mark.peers
PLAIN = {
    "abs": False,
    "normalise": False,
    "display_progressbar": False,
    "disable_warnings": True,
    "return_aggregate": False,
}
SIDE = 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE**2, 3))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    x, maps = torch.rand(5, 1, SIDE, SIDE) + 0.5, 1000 * torch.rand(5, 1, SIDE, SIDE)
    mask = torch.zeros(5, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 3:9, 2:10] = True
    return x, torch.tensor([0, 1, 2, 0, 1]), maps, mask


def theirs(metric: object, with_model: bool = False) -> np.ndarray:
    x, y, maps, mask = given()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metric(
            model=Net() if with_model else None, x_batch=x.numpy().copy(), y_batch=y.numpy(),
            a_batch=maps.numpy().astype(np.float64).copy(), s_batch=mask.numpy(), device="cpu",
        )  # fmt: skip
    return np.asarray(found, dtype=np.float64)


LOCATED = {
    "RelevanceMassAccuracy": (mask_share, {}),
    "RelevanceRankAccuracy": (rank_accuracy, {}),
    "PointingGame": (pointing_game, {}),
    "TopKIntersection": (lambda maps, mask: top_k_inside(maps, mask, 20), {"k": 20}),
    "Complexity": (lambda maps, mask: entropy(maps), {}),
    # Quantus adds 1e-7 to every magnitude; maps of mean 500 make that a relative 2e-10.
    "Sparseness": (lambda maps, mask: sparseness(maps), {}),
}


@pytest.mark.parametrize("name", LOCATED)
def test_measures_of_maps_alone(name: str) -> None:
    ours, settings = LOCATED[name]
    _, _, maps, mask = given()
    found = ours(maps.double(), mask).numpy()
    np.testing.assert_allclose(found, theirs(getattr(quantus, name)(**PLAIN, **settings)), rtol=1e-6)


def test_pixel_flipping_is_morf_without_its_first_point() -> None:
    """Quantus flips single entries (here pixels, of one channel), no score of the whole; its black is the minimum."""
    x, y, maps, _ = given()
    step = SIDE**2 // 8
    metric = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.0, **PLAIN)
    ours = perturbation_curves(Net(), x, maps, y, regions=pixels(), replacement=0.0, shares=8)
    np.testing.assert_allclose(ours.morf[:, 1:].numpy(), theirs(metric, True), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_region_perturbation_is_what_the_curves_lose(order: str) -> None:
    x, y, maps, _ = given()
    metric = quantus.RegionPerturbation(patch_size=4, regions_evaluation=16, order=order, perturb_baseline=0.0, **PLAIN)
    curve = getattr(perturbation_curves(Net(), x, maps, y, regions=patches(4), replacement=0.0, shares=16), order)
    np.testing.assert_allclose((curve[:, :1] - curve[:, 1:]).numpy(), theirs(metric, True), rtol=1e-6, atol=1e-6)


def test_road_s_imputation() -> None:
    """The linear system alone, without its noise; Quantus then reports accuracy per share, ours the target's score."""
    from quantus.functions.perturb_func import noisy_linear_imputation

    torch.manual_seed(2)
    x, removed = torch.randn(3, 2, 12, 12).double(), torch.rand(3, 1, 12, 12) < 0.6
    ours = impute(x, removed, tolerance=1e-12)
    for n in range(3):
        indices = removed[n, 0].flatten().nonzero()[:, 0].numpy()
        wanted = noisy_linear_imputation(x[n].numpy(), indices, noise=0.0)
        np.testing.assert_allclose(ours[n].numpy(), wanted, rtol=1e-6, atol=1e-9)
