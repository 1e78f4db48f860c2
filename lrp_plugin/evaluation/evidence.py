"""Where each method puts its positive relevance over a labelled set: by region and class, as numbers, table and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.tv_tensors import Mask

from lrp_plugin.evaluation.comparing import bar
from lrp_plugin.evaluation.intervals import Interval, Values, bootstrap_mean
from lrp_plugin.evaluation.localization import mask_area, mask_share
from lrp_plugin.evaluation.methods import explainers
from lrp_plugin.files import csv_bytes
from lrp_plugin.images import IGNORED

ALL_CLASSES = "all"
_COLUMNS = ("region", "class", "method", "inside", "low", "high", "pictures", "chance")


@dataclass(frozen=True)
class Localisation:
    """How much of one method's positive relevance lies inside the region, for one class over the test set.

    Attributes:
        class_name: One of the report's class names.
        method: The method's name.
        inside: Mean share in [0, 1] with its bootstrap interval (`lrp_plugin.evidence.evidence_by_class`).
        chance: The region's mean share of the image, in [0, 1]: what a map without knowledge scores.
    """

    class_name: str
    method: str
    inside: Interval
    chance: float


@dataclass(frozen=True)
class RemovalTest:
    """What happens to one class when something outside the region is removed from its images.

    Attributes:
        class_name: One of the report's class names.
        removed: What was removed, such as ``"text marker, upper left corner"``.
        accuracy_with: Accuracy on the class's images that have it, in [0, 1], with its interval.
        accuracy_without: Accuracy on the same images with it removed.
        drop: Their paired difference, with minus without, in [-1, 1]: `bootstrap_mean` over the images of
            (right before) - (right after). Paired, since the two accuracies' own intervals would hide a small
            drop.
    """

    class_name: str
    removed: str
    accuracy_with: Interval
    accuracy_without: Interval
    drop: Interval


def removal_tests(
    class_names: Sequence[str], removed: str, labels: Values, right_with: Values, right_without: Values
) -> list[RemovalTest]:
    """One test for each class that occurs among ``labels`` ``(N,)``: which of these images were right, before and after."""
    classes, before, after = (np.asarray(values, np.float64) for values in (labels, right_with, right_without))
    tests = []
    for label, name in enumerate(class_names):
        own = classes == label
        if own.any():
            intervals = (bootstrap_mean(values[own]) for values in (before, after, before - after))
            tests.append(RemovalTest(name, removed, *intervals))
    return tests


@dataclass(frozen=True)
class EvidenceScores:
    """Where each method puts its positive relevance, picture by picture; NaN where a picture has no such region.

    Attributes:
        class_names: K names.
        labels: True class of each picture, ``(N,)``; its logit is the one explained.
        shares: Region -> method -> share of positive relevance inside the region, ``(N,)``, in [0, 1]; NaN also where
            the map holds nothing positive.
        areas: Region -> the region's share of the picture, ``(N,)``: what chance scores.
    """

    class_names: tuple[str, ...]
    labels: Tensor
    shares: Mapping[str, Mapping[str, Tensor]]
    areas: Mapping[str, Tensor]

    def intervals(self, region: str) -> list[Localisation]:
        """Mean share with its 95 % bootstrap interval for each class that has the region, then for all."""
        groups = {name: self.labels == label for label, name in enumerate(self.class_names)}
        groups[ALL_CLASSES] = torch.ones_like(self.labels, dtype=torch.bool)
        return [
            Localisation(name, method, bootstrap_mean(shares[chosen]), float(self.areas[region][chosen].nanmean()))
            for name, chosen in groups.items()
            if not self.areas[region][chosen].isnan().all()
            for method, shares in self.shares[region].items()
        ]


def score_evidence(
    model: nn.Module, dataset: Any, methods: Sequence[str], *, bounds: tuple[Any, Any] | None = None,
    batch_size: int = 32, progress: bool = True,
) -> EvidenceScores:  # fmt: skip
    """Explain the true class of each picture with each method and measure the shares inside the known regions.

    Args:
        model: Pictures ``(N, C, H, W)`` to logits ``(N, K)``, on any device; explained in evaluation mode.
        dataset: With ``classes``; samples with ``image``, ``disease`` and any ``tv_tensors.Mask`` ``(1, H, W)``, whose
            names are the regions'. Pictures that could not be read (`IGNORED`) are left out.
        methods: Names of `lrp_plugin.evaluation.method_names`.
        bounds: The least and greatest value of an input entry, for ``"epsilon_gamma_box"``.
        batch_size: Pictures explained at once.
        progress: Show a bar on standard error.

    Raises:
        ValueError: An unknown method, or no picture at all.
    """
    model.eval()
    explanations = explainers(methods, model, bounds)
    device = next(model.parameters()).device
    regions = [name for name, value in dataset[0].items() if isinstance(value, Mask)]
    labels: list[Tensor] = []
    areas: dict[str, list[Tensor]] = {region: [] for region in regions}
    shares: dict[str, dict[str, list[Tensor]]] = {region: {name: [] for name in explanations} for region in regions}
    for batch in bar(DataLoader(dataset, batch_size), progress, "Explaining"):
        kept = batch["disease"] != IGNORED
        if not kept.any():
            continue
        images, target = batch["image"][kept].as_subclass(Tensor).to(device), batch["disease"][kept]
        masks = {region: batch[region][kept].as_subclass(Tensor) for region in regions}
        labels.append(target)
        for region, mask in masks.items():
            area = mask_area(mask)
            areas[region].append(area.masked_fill(area == 0, math.nan))
        for name, explain in explanations.items():
            relevance = explain(images, target.to(device)).cpu()
            for region, mask in masks.items():
                shares[region][name].append(mask_share(relevance, mask))
    if not labels:
        raise ValueError("no picture could be read: nothing to explain")
    return EvidenceScores(
        tuple(dataset.classes),
        torch.cat(labels),
        {region: {name: torch.cat(parts) for name, parts in of.items()} for region, of in shares.items()},
        {region: torch.cat(parts) for region, parts in areas.items()},
    )


def above_saliency(rows: Sequence[Localisation]) -> set[tuple[str, str]]:
    """(class, method) whose whole interval lies above that of gradient saliency for the same class."""
    saliency = {row.class_name: row.inside.high for row in rows if row.method == "saliency"}
    # A comparison with NaN is false: one picture has no interval and shows nothing.
    return {(row.class_name, row.method) for row in rows if row.inside.low > saliency.get(row.class_name, math.nan)}


def evidence_table(rows: Sequence[Localisation], region: str) -> str:
    """The rows as text: a line for each method, a column for each class; a star for `above_saliency`."""
    starred, cells = above_saliency(rows), {(row.class_name, row.method): row for row in rows}
    names, methods = (list(dict.fromkeys(column)) for column in zip(*cells))
    width = max(map(len, [*methods, "chance (area)"]))

    def line(head: str, entries: Iterable[str]) -> str:
        return (f"{head:{width}}" + "".join(f"  {entry:>19}" for entry in entries)).rstrip()

    def share(name: str, method: str) -> str:
        inside, star = cells[name, method].inside, "*" if (name, method) in starred else " "
        return f"{100 * inside.mean:5.1f} [{100 * inside.low:4.1f}, {100 * inside.high:4.1f}]{star}"

    firsts = [cells[name, methods[0]] for name in names]
    counts = ", ".join(f"{row.class_name} {row.inside.count}" for row in firsts)
    note = " * the interval lies wholly above gradient saliency's." if "saliency" in methods else ""
    return "\n".join([
        f"Positive relevance inside the {region}, % [95 % bootstrap interval]",
        line("", names),
        *(line(method, (share(name, method) for name in names)) for method in methods),
        line("chance (area)", (f"{100 * row.chance:5.1f}{'':14}" for row in firsts)),
        f"Pictures: {counts}.{note}",
    ])  # fmt: skip


def evidence_csv(tables: Mapping[str, Sequence[Localisation]], earlier: bytes = b"") -> bytes:
    """Every region's rows as CSV, shares in [0, 1]; rows of an earlier table stay where their method is not in this one."""
    methods = {row.method for rows in tables.values() for row in rows}
    kept = list(csv.reader(io.StringIO(earlier.decode("utf-8", "replace"))))[1:]
    lines: list[Sequence[object]] = [row for row in kept if len(row) == len(_COLUMNS) and row[2] not in methods]
    for region, rows in tables.items():
        for row in rows:
            shares = (f"{value:.6f}" for value in (row.inside.mean, row.inside.low, row.inside.high))
            lines.append([region, row.class_name, row.method, *shares, row.inside.count, f"{row.chance:.6f}"])
    return csv_bytes([_COLUMNS, *lines])
