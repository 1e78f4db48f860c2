"""``recommend`` on the trained networks, and every candidate on the pictures it did not see."""

from __future__ import annotations

from typing import Any

from benchmarks.evaluation.networks import trained
from benchmarks.evaluation.tables import FOLDER, sick
from benchmarks.harness import write_json
from lrp_plugin.evaluation import candidates, compare, recommend
from lrp_plugin.evaluation.regions import patches


def choose(name: str, metric: str, replacement: str, count: int) -> dict[str, Any]:
    """The recommendation for one network, judged on ``count`` pictures after a search on as many others."""
    model = trained(name, 0)
    images, classes, masks = sick(2 * count)
    searched = tuple(part[:count] for part in (images, classes, masks))
    held = tuple(part[count:] for part in (images, classes, masks))
    bounds = (0.0, 1.0) if name == "reference_cnn" else (-2.0, 2.0)
    settings: dict[str, Any] = {"regions": patches(8), "replacement": replacement}
    found = recommend(model, searched, metric=metric, held_out=held, bounds=bounds, **settings)
    print(found, flush=True)
    tried = {one.name: one.composite for one in candidates(model, images, bounds)}
    every = compare(model, held, tried, [metric], agreement=0, floor=False, **settings)
    best = every.ranking(metric)[0]
    gap = every.difference(metric, found.name, best)
    baseline = found.best_baseline
    row = {
        "network": name, "metric": metric, "replacement": replacement, "pictures": count, "chosen": found.name,
        "held_out": vars(found.interval), "baseline": baseline, "against": vars(found.against(baseline or "random")),
        "better": found.better, "best_of_all": best, "best": vars(every.interval(best, metric)), "gap": vars(gap),
        "candidates": len(tried), "code": found.code,
    }  # fmt: skip
    write_json(FOLDER / f"recommend_{name}_{metric}_{replacement}.json", row)
    return row
