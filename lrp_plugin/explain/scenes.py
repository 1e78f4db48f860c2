"""Segmentations and detections: a class's region, a box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_plugin.explain import figures
from lrp_plugin.explain.core import relevance_of, scores_of
from lrp_plugin.explain.explanation import Explanation, Guess
from lrp_plugin.explain.names import target_number


def explain_region(
    model: Any, inputs: Tensor, scores: Tensor, target: Any, names: list[str] | None, output: Any,
    request: dict[str, Any], facts: dict[str, Any],
) -> Explanation:  # fmt: skip
    """A class of a segmentation: its score's mean over the pixels that were given it.

    Args:
        model: The network.
        inputs: ``(1, C, H, W)``.
        scores: ``(K, h, w)``, one map a class; with K = 1 a pixel belongs to it where its score is above 0.
        target: A class; the one with most pixels if None, the background (class 0) last.
        names: The classes' names.
        output: Which tensor of the model's.
        request: The method and its options.
        facts: What the explanation holds besides.

    Raises:
        ValueError: No pixel was given the class.
    """
    classes = scores.argmax(0) if len(scores) > 1 else torch.where(scores[0] > 0, 0, -1)
    counts = torch.stack([(classes == k).sum() for k in range(len(scores))])
    number = target_number(target, names, len(scores))
    if number is None:
        ranked = counts.clone()
        if len(scores) > 1 and bool(counts[1:].any()):
            ranked[0] = 0
        number = int(ranked.argmax())
    region = classes == number
    if not bool(region.any()):
        present = ", ".join(names[k] if names else str(k) for k in counts.nonzero().flatten().tolist())
        raise ValueError(
            f"no pixel was given class {names[number] if names else number}; there are {present or 'none'}"
        )
    inside = region.to(scores.dtype)

    def mean_score(found: Any) -> Tensor:
        return (scores_of(found, output)[:, number] * inside).sum((1, 2)) / inside.sum()

    found, account, method, unit = relevance_of(model, inputs, None, output=mean_score, **request)
    shares = scores.double().softmax(0)[number] if len(scores) > 1 else scores[0].double().sigmoid()
    facts = {**facts, "view": {**facts["view"], "region": region.cpu()}}
    facts["notes"] = (*facts["notes"], f"explained: the class's score, mean over its {int(region.sum())} pixels")
    return Explanation(
        "segmentation", found[0].detach().cpu(), method=method, target=number,
        target_name=names[number] if names else None, logit=float((scores[number] * inside).sum() / inside.sum()),
        probability=float(shares[region].mean()), top=(), ledger=account, unit=unit, draw=figures.draw_segmentation,
        **facts,
    )  # fmt: skip


def explain_box(
    model: Any, inputs: Tensor, boxes: dict[str, Tensor], target: Any, names: list[str] | None,
    request: dict[str, Any], facts: dict[str, Any],
) -> Explanation:  # fmt: skip
    """The score of one box of a detector that returns dicts of boxes, labels and scores, as torchvision's do.

    Args:
        model: The detector.
        inputs: ``(1, C, H, W)``.
        boxes: What it returned: ``boxes`` ``(B, 4)``, ``labels`` and ``scores`` ``(B,)``.
        target: The box's rank by score; the best if None.
        names: The classes' names.
        request: The method and its options.
        facts: What the explanation holds besides.

    Raises:
        ValueError: There is no box, or none of that rank.
    """
    count = len(boxes["scores"])
    if count == 0:
        raise ValueError("the detector found no box in this picture (its score threshold is the model's own setting)")
    ranks = boxes["scores"].argsort(descending=True)
    rank = target_number(target, None, count) or 0
    place = int(ranks[rank])
    found, account, method, _ = relevance_of(
        model, inputs, None, output=lambda results: torch.stack([one["scores"][place] for one in results]), **request
    )
    labels = boxes["labels"].tolist() if "labels" in boxes else [1] * count

    def called(label: int) -> str | None:
        return names[label] if names and 0 <= label < len(names) else None

    top = tuple(
        Guess(k, called(labels[place]) or f"class {labels[place]}", float(boxes["scores"][place]), None)
        for k, place in enumerate(ranks[:5].tolist())
    )
    facts = {**facts, "view": {**facts["view"], "box": boxes["boxes"][place].tolist()}}
    name = called(labels[place]) or f"class {labels[place]}"
    return Explanation(
        "detection", found[0].detach().cpu(), method=method, target=rank,
        target_name=f"{name}, score {float(boxes['scores'][place]):.2f}", logit=float(boxes["scores"][place]),
        probability=None, top=top, ledger=account, unit="score", draw=figures.draw_detection, **facts,
    )  # fmt: skip
