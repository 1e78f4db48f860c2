"""One table for each network: sixteen methods against all metrics, on pictures that the network was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluation.networks import NETWORKS, TEST_SEED, accuracy, pictures, trained
from benchmarks.harness import RESULTS, write_json
from lrp_plugin.evaluation import Comparison, compare
from lrp_plugin.evaluation.regions import patches

METHODS = (
    "saliency", "smoothgrad", "input_x_gradient", "integrated_gradients", "gradcam", "guided_gradcam", "occlusion",
    "epsilon", "zplus", "alphabeta", "gamma", "epsilon_plus_flat", "epsilon_gamma_box", "attnlrp", "attnlrp_gamma", "cp_lrp",
)  # fmt: skip
METRICS = (
    "srg", "road", "insertion", "deletion", "comprehensiveness", "sufficiency", "infidelity", "mask_share", "rank_accuracy",
    "pointing_game", "top_k_inside", "randomization", "stability", "sensitivity", "entropy", "sparseness",
)  # fmt: skip
FOLDER = RESULTS / "evaluation"


def sick(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Test pictures that show opacities, with their classes and masks."""
    images, classes, masks = pictures(2 * count, TEST_SEED)
    shown = masks.flatten(1).any(1)
    return images[shown][:count], classes[shown][:count], masks[shown][:count]


# At 224 px a map by occlusion takes seconds: what explains or scores every picture many times over is left out.
PHOTOGRAPH_METRICS = ("srg", "mask_share", "rank_accuracy", "pointing_game", "top_k_inside", "entropy", "sparseness")


def table(name: str, seed: int, count: int, kept: Path, metrics: Sequence[str] = METRICS) -> tuple[Comparison, float]:
    """The comparison on one trained network, and its accuracy."""
    model = trained(name, seed)
    data = sick(count)
    # epsilon_gamma_box's range is that of the first layer's input: the network's own normalization lies before it.
    bounds = (0.0, 1.0) if name == "reference_cnn" else (-2.0, 2.0)
    found = compare(
        model, data, METHODS, metrics, regions=patches(8), bounds=bounds, folder=kept / f"{name}-{seed}", batch_size=64,
    )  # fmt: skip
    return found, accuracy(model, *data[:2])


def photographs(kept: Path, each: int = 1) -> Comparison:
    """EfficientNet-lite0 on mosaics of photographs; the target's own quarter is the mask; ``each`` targets of each mosaic."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "real"))
    from lite0 import EDGE, efficientnet_lite0, scaled
    from photographs import PHOTOGRAPHS, mosaic, mosaics, quarter

    model = efficientnet_lite0().float().requires_grad_(False)
    inputs, targets, masks = [], [], []
    for number, names in enumerate(mosaics()):
        x = scaled(mosaic(names, EDGE)).float()
        with torch.no_grad():
            logits = model(x[None])[0]
        for place in (number % 4, (number + 1) % 4)[:each]:
            shown = names[place]
            mask = torch.zeros(1, EDGE, EDGE, dtype=torch.bool)
            mask[(0, *quarter(place, EDGE))] = True
            inputs.append(x)
            masks.append(mask)
            targets.append(max(PHOTOGRAPHS[shown].classes, key=lambda k: float(logits[k])))
    data = torch.stack(inputs), torch.tensor(targets), torch.stack(masks)
    return compare(
        model, data, METHODS, PHOTOGRAPH_METRICS, regions=patches(28), shares=5, output="logit", bounds=(-127 / 128, 1.0),
        folder=kept / "lite0", batch_size=8,
    )  # fmt: skip


def pooled(found: list[Comparison]) -> list[dict[str, Any]]:
    """The rows of several seeds: each method's values of all seeds together, and the means' range over the seeds."""
    from lrp_plugin.evaluation import bootstrap_mean

    rows = []
    for method in found[0].methods:
        row: dict[str, Any] = {"method": method}
        for metric in found[0].metrics:
            values = [one.values[method, metric] for one in found if (method, metric) in one.values]
            if values:
                interval = bootstrap_mean(torch.cat(values), resamples=1000)
                means = [float(value.nanmean()) for value in values]
                row[metric] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "seeds": means}
        row["reason"] = [one.reason(method) for one in found if one.reason(method)]
        row["ms"] = [1000 * one.costs[method].seconds for one in found if method in one.costs]
        rows.append(row)
    return rows


def write_table(name: str, found: list[Comparison], facts: dict[str, Any]) -> None:
    """The table as JSON, its page and its two pictures, in the results folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    leaders = {metric: [one.leaders(metric) for one in found] for metric in found[0].metrics}
    write_json(FOLDER / f"{name}.json", {**facts, "rows": pooled(found), "leaders": leaders})
    (FOLDER / f"{name}.txt").write_text("\n\n".join(str(one) for one in found) + "\n")
    found[0].plot().savefig(FOLDER / f"{name}_curves.png", dpi=130)
    found[0].plot_ranks().savefig(FOLDER / f"{name}_ranks.png", dpi=130)


__all__ = ["METHODS", "METRICS", "NETWORKS", "photographs", "pooled", "sick", "table", "write_table"]
