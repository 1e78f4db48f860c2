"""One table for each family of networks that has no other: plain CNN, DenseNet, U-Net, BERT, decoder.

Small networks, trained here in minutes, on data whose answer is known: where the opacities are, which tokens decide. The
same examples for every seed; an example's value is its mean over the seeds, so that intervals are over examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.evaluation.networks import TEST_SEED, TESTING, accuracy, pictures, trained
from benchmarks.evaluation.segmenting import Regions, dice, unet
from benchmarks.evaluation.tables import FOLDER, sick
from benchmarks.evaluation.tokens import MASK, Tokens, bert, decoder, meaning, pairs, sentences
from benchmarks.harness import write_json
from lrp_plugin.evaluation import METRICS, Comparison, Metric, bootstrap_mean, compare, localization
from lrp_plugin.evaluation.localization import mask_area
from lrp_plugin.evaluation.methods import RANDOM
from lrp_plugin.evaluation.metrics import Case
from lrp_plugin.evaluation.regions import patches
from lrp_plugin.evaluation.replacement import value
from lrp_plugin.gradients import METHODS as GRADIENTS

CONVOLUTIONAL = (
    "saliency", "input_x_gradient", "integrated_gradients", "gradcam", "occlusion", "epsilon", "zplus", "alphabeta", "gamma",
    "epsilon_plus_flat", "epsilon_gamma_box",
)  # fmt: skip
ATTENTIVE = (
    "saliency", "input_x_gradient", "integrated_gradients", "occlusion", "epsilon", "zplus", "gamma", "attnlrp",
    "attnlrp_gamma", "cp_lrp",
)  # fmt: skip
DRAWN = "the drawn region"
"""The floor of a segmentation: a map that is 1 where the network drew and 0 elsewhere."""
PICTURES, SENTENCES = 24, 60


@dataclass(frozen=True)
class Question:
    """What is asked of one trained network.

    Args:
        model: In evaluation mode. data: Inputs, targets, masks of what decides.
        accuracy: On test data (Dice, of a segmentation). auto: What ``method="auto"`` stands for here.
        methods: By name. metrics: Likewise. settings: Of `compare`.
    """

    model: nn.Module
    data: tuple[Tensor, Tensor, Tensor]
    accuracy: float
    auto: str
    methods: dict[str, Any]
    metrics: Sequence[str | Metric]
    settings: dict[str, Any] = field(default_factory=dict)


def _named(methods: Sequence[str]) -> dict[str, Any]:
    return {name: name for name in methods}


def _classifier(name: str) -> Callable[[int], Question]:
    def ask(seed: int) -> Question:
        model, (images, classes, _) = trained(name, seed), pictures(TESTING, TEST_SEED)
        return Question(
            model, sick(PICTURES), accuracy(model, images, classes), "epsilon_plus_flat", _named(CONVOLUTIONAL),
            ("srg", "road", "mask_share", "pointing_game"), {"regions": patches(8), "bounds": (-2.0, 2.0)},
        )  # fmt: skip

    return ask


def _unet(seed: int) -> Question:
    images, _, masks = sick(PICTURES)
    model = Regions(unet(seed), images)
    region = model.drawn.float()
    methods = _named([name for name in CONVOLUTIONAL if name != "gradcam"])
    methods[DRAWN] = lambda inputs, target: region[target]
    return Question(
        model, (images, torch.arange(PICTURES), masks), dice(model.drawn, masks), "epsilon_plus_flat", methods,
        ("srg", "road", "mask_share", "pointing_game"), {"regions": patches(8), "bounds": (-2.0, 2.0), "output": "logit"},
    )  # fmt: skip


def _tokens(model: Tokens, ids: Tensor, answers: Tensor, deciding: Tensor, metrics: Sequence[str | Metric]) -> Question:
    x, asked = model.embedded(ids), slice(0, SENTENCES)
    # A removed token is the one that both networks have learned to read as no token.
    gone = model.embedded(torch.tensor([[MASK]]))[0]
    return Question(
        model, (x[asked], answers[asked], deciding[asked, None, None]), accuracy(model, x, answers), "attnlrp",
        _named(ATTENTIVE), metrics, {"regions": patches(1), "replacement": value(gone), "shares": ids.shape[1]},
    )  # fmt: skip


def _bert(seed: int) -> Question:
    ids, deciding = sentences(1000, torch.Generator().manual_seed(TEST_SEED), said=True)
    return _tokens(bert(seed), ids, meaning(ids), deciding, SENTENCE_METRICS)


def _decoder(seed: int) -> Question:
    ids, answers, deciding = pairs(1000, torch.Generator().manual_seed(TEST_SEED))
    metrics = [_but_last(name) for name in ("mask_share", "rank_accuracy", "pointing_game")]
    return _tokens(decoder(seed), ids, answers, deciding, ("srg", *metrics))


def _but_last(name: str) -> Metric:
    """Localization among all tokens but the last: the asked key is always there, and is right without being an answer."""
    measure = localization.MEASURES[name]
    return replace(METRICS[name], evaluate=lambda case: measure(case.relevance[..., :-1], case.mask[..., :-1]))


def _at_start(case: Case) -> Tensor:
    """The share of positive relevance on the token that begins every sentence, which says nothing."""
    first = torch.zeros_like(case.mask)
    first[..., 0] = True
    return localization.mask_share(case.relevance, first)


def _turned(case: Case) -> Tensor:
    """Sentences with a negator: their SRG, NaN for the others."""
    return case.curves().srg.masked_fill(case.mask.flatten(1).sum(1) < 2, torch.nan)


SENTENCE_METRICS = (
    "srg", "mask_share", "rank_accuracy", "pointing_game",
    Metric("start_share", "mass on [CLS]", False, _at_start),
    replace(METRICS["srg"], name="srg_turned", title="SRG, negated", evaluate=_turned),
    # The word that is turned round speaks against the class: its relevance may rightly be negative.
    replace(METRICS["rank_accuracy"], name="rank_absolute", title="rank inside, either sign", evaluate=lambda case:
            localization.rank_accuracy(case.relevance.sum(1).abs(), case.mask[:, 0])),
)  # fmt: skip
FAMILIES: dict[str, Callable[[int], Question]] = {
    "plain": _classifier("plain"),
    "densenet": _classifier("densenet"),
    "unet": _unet,
    "bert": _bert,
    "decoder": _decoder,
}


def together(found: Sequence[Comparison]) -> Comparison:
    """Several seeds as one: each example's value is its mean over them."""
    cells = set.intersection(*(set(one.values) for one in found))
    values = {cell: torch.stack([one.values[cell] for one in found]).nanmean(0) for cell in cells}
    return replace(found[0], values=values)


def gap(found: Comparison, metric: str, first: str, second: str) -> dict[str, Any]:
    """The paired difference of two methods."""
    return {"first": first, "second": second, **vars(found.difference(metric, first, second))}


def rows(whole: Comparison, seeds: Sequence[Comparison]) -> list[dict[str, Any]]:
    """For each method and measure the mean, its interval, and the mean of each seed."""
    table = []
    for method in whole.ordered():
        row: dict[str, Any] = {"method": method, "reason": [one.reason(method) for one in seeds if one.reason(method)]}
        for metric in whole.metrics:
            values = whole.values.get((method, metric))
            if values is not None:
                means = [float(one.values[method, metric].nanmean()) for one in seeds]
                row[metric] = {**vars(bootstrap_mean(values, resamples=1000)), "seeds": means}
        table.append(row)
    return table


def measure(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The family's table: printed, and written to ``results/evaluation/NAME.json``."""
    asked = [FAMILIES[name](seed) for seed in seeds]
    one = asked[0]
    found = [compare(a.model, a.data, a.methods, a.metrics, agreement=0, progress=False, **a.settings) for a in asked]
    whole = together(found)
    differences = {}
    for metric in whole.metrics:
        order = [method for method in whole.ranking(metric) if method not in (RANDOM, DRAWN)]
        other = [method for method in order if method in GRADIENTS]
        best = next(method for method in order if method not in other)
        # Occlusion tries out what the curves measure, at a pass for each region.
        passed = next(method for method in other if method != "occlusion")
        differences[metric] = {
            "best LRP above best other": gap(whole, metric, best, other[0]),
            "best LRP above best of gradients": gap(whole, metric, best, passed),
            "best LRP above auto": gap(whole, metric, best, one.auto),
            "auto above best other": gap(whole, metric, one.auto, other[0]),
        }
    result = {
        "family": name, "seeds": list(seeds), "accuracy": [a.accuracy for a in asked], "examples": len(whole.targets),
        "chance": float(mask_area(one.data[2]).mean()), "rows": rows(whole, found),
        "leaders": {metric: whole.leaders(metric) for metric in whole.metrics}, "differences": differences,
    }  # fmt: skip
    write_json(FOLDER / f"{name}.json", result)
    print(f"{name}: accuracy {result['accuracy']}, chance {result['chance']:.3f}\n{whole}", flush=True)
    for metric, gaps in differences.items():
        for title, g in gaps.items():
            print(f"{metric}, {title}: {g['first']} - {g['second']} {g['mean']:.3f} [{g['low']:.3f}, {g['high']:.3f}]")
    return result
