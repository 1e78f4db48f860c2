"""Time beside Quantus at equal settings: 64 pictures of 224 px, ResNet-18, one thread, this process's own CPU time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import quantus
import torch
from quantus.functions.perturb_func import noisy_linear_imputation
from torchvision.models import resnet18

from benchmarks.evaluation.tables import FOLDER
from benchmarks.harness import write_json
from lrp_plugin.evaluation import entropy, mask_share, perturbation_curves, rank_accuracy, sparseness
from lrp_plugin.evaluation.regions import patches
from lrp_plugin.evaluation.road import impute

COUNT, SIDE, PATCH, STEPS = 64, 224, 56, 2
PLAIN = {
    "abs": False,
    "normalise": False,
    "display_progressbar": False,
    "disable_warnings": True,
    "return_aggregate": False,
}


def seconds(call: Callable[[], Any]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def compare_times() -> list[dict[str, Any]]:
    """One row for each measure: ours, Quantus', the ratio."""
    torch.manual_seed(0)
    model = resnet18().eval()
    x, maps = torch.rand(COUNT, 3, SIDE, SIDE), torch.rand(COUNT, 1, SIDE, SIDE)
    y = torch.zeros(COUNT, dtype=torch.long)
    mask = torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 60:120, 60:120] = True
    removed = torch.rand(COUNT, 1, SIDE, SIDE) < 0.2

    def theirs(metric: Any, **given: Any) -> None:
        metric(x_batch=x.numpy().copy(), y_batch=y.numpy(), a_batch=maps.numpy().astype(np.float64).copy(),
               s_batch=mask.numpy(), device="cpu", **{"model": None, **given})  # fmt: skip

    def perturbed() -> None:
        for order in ("morf", "lerf"):
            metric = quantus.RegionPerturbation(
                patch_size=PATCH, regions_evaluation=STEPS, order=order, perturb_baseline=0.0, **PLAIN
            )
            theirs(metric, model=model)

    def imputed() -> None:
        for picture, gone in zip(x.numpy(), removed[:, 0].flatten(1).numpy()):
            noisy_linear_imputation(picture, np.flatnonzero(gone), noise=0.0)

    regions = (SIDE // PATCH) ** 2
    shares = [k / regions for k in range(STEPS + 1)]
    pairs = {
        "relevance mass": (lambda: mask_share(maps, mask), lambda: theirs(quantus.RelevanceMassAccuracy(**PLAIN))),
        "relevance rank": (lambda: rank_accuracy(maps, mask), lambda: theirs(quantus.RelevanceRankAccuracy(**PLAIN))),
        "entropy": (lambda: entropy(maps), lambda: theirs(quantus.Complexity(**PLAIN))),
        "sparseness": (lambda: sparseness(maps), lambda: theirs(quantus.Sparseness(**PLAIN))),
        "ROAD's imputation, 20 % removed": (lambda: impute(x, removed, tolerance=1e-6), imputed),
        f"region perturbation, both orders, {STEPS} steps": (
            lambda: perturbation_curves(model, x, maps, y, regions=patches(PATCH), replacement=0.0, shares=shares), perturbed),
    }  # fmt: skip
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (mine, other) in pairs.items():
            rows.append({"measure": name, "ours": seconds(mine), "quantus": seconds(other)})
            rows[-1]["ratio"] = rows[-1]["quantus"] / rows[-1]["ours"]
            print(rows[-1], flush=True)
            write_json(FOLDER / "quantus.json", {"pictures": COUNT, "side": SIDE, "network": "resnet18", "rows": rows})
    return rows
