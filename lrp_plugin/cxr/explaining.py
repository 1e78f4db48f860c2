"""Explain a set of radiographs with several methods, and measure where each puts its relevance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lrp_plugin.attribution import RULES
from lrp_plugin.composites import epsilon_gamma_box
from lrp_plugin.composites.ready import READY
from lrp_plugin.evidence import Interval, bootstrap_mean, mask_area, mask_share
from lrp_plugin.files import csv_bytes
from lrp_plugin.gradients import METHODS, AttributionMethod, build_method
from lrp_plugin.images import IGNORED

from .loaders import get_dataloader
from .models import CXRClassifier

#: What the demo and the reports compare unless told otherwise.
DEFAULT_METHODS = ("saliency", "epsilon", "alphabeta", "epsilon_plus_flat")

#: Regions a sample may bring a mask of.
REGIONS = ("lungs", "evidence", "marker")

ALL_CLASSES = "all"


def method_names() -> list[str]:
    """Every name :func:`build_explainer` knows: gradient methods, LRP rules, composites."""
    gradients = [name for name in METHODS if name != "lrp"]
    return [*gradients, *RULES, *READY, "epsilon_gamma_box"]


def build_explainer(name: str, model: CXRClassifier) -> AttributionMethod:
    """A method by its short name: a gradient method, an LRP rule, or a ready composite.

    Args:
        name: one of :func:`method_names`. ``epsilon_gamma_box`` takes the range of pixels, 0 to 1, as the
            first layer sees it.
        model: the classifier.

    Raises:
        ValueError: unknown name; the legal ones are listed.
    """
    if name not in method_names():
        raise ValueError(f"unknown method {name!r}; legal are {', '.join(method_names())}")
    if name == "epsilon_gamma_box":
        low, high = torch.tensor(0.0), torch.tensor(1.0)
        if model.mean is not None and model.std is not None:
            low, high = (low - model.mean) / model.std, (high - model.mean) / model.std
        return build_method("lrp", model, composite=epsilon_gamma_box(low, high))
    if name in READY:
        return build_method("lrp", model, composite=name)
    if name in RULES:
        return build_method("lrp", model, rule=name)
    return build_method(name, model)


@dataclass(frozen=True)
class EvidenceScores:
    """Where each method puts its positive relevance, picture by picture.

    Attributes:
        class_names: K names.
        labels: true class of each picture, ``(N,)``; its logit is the one explained.
        shares: region -> method -> share of positive relevance inside the region, ``(N,)``, in [0, 1]; NaN
            where the picture has no such region or the map nothing positive.
        areas: region -> the region's share of the picture, ``(N,)``: what chance scores. NaN where it has
            none.
    """

    class_names: tuple[str, ...]
    labels: Tensor
    shares: Mapping[str, Mapping[str, Tensor]]
    areas: Mapping[str, Tensor]

    def intervals(self, region: str) -> list[EvidenceRow]:
        """Mean share with its 95 % bootstrap interval for each class that has the region, then for all."""
        rows = []
        groups = [(name, self.labels == label) for label, name in enumerate(self.class_names)]
        for name, chosen in [*groups, (ALL_CLASSES, torch.ones_like(self.labels, dtype=torch.bool))]:
            areas = self.areas[region][chosen]
            if areas.isnan().all():
                continue
            for method, shares in self.shares[region].items():
                rows.append(EvidenceRow(name, method, bootstrap_mean(shares[chosen]), float(areas.nanmean())))
        return rows


@dataclass(frozen=True)
class EvidenceRow:
    """One line of the table: class (or "all"), method, mean share inside with interval, chance."""

    class_name: str
    method: str
    inside: Interval
    chance: float


def score_evidence(
    model: CXRClassifier,
    dataset: Any,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    batch_size: int = 32,
    progress: bool = True,
) -> EvidenceScores:
    """Explain the true class of each picture with each method and measure the shares inside the known regions.

    Args:
        model: the classifier, on any device; explained in evaluation mode.
        dataset: samples with ``image``, ``disease`` and masks ``(1, H, W)`` of any of :data:`REGIONS`, and
            ``classes``.
        methods: names of :func:`method_names`.
        batch_size: pictures explained at once.
        progress: show a bar on stderr.

    Returns:
        The shares. Pictures that could not be read are left out.

    Raises:
        ValueError: unknown method, or no picture at all.
    """
    explainers = {name: build_explainer(name, model.eval()) for name in methods}
    device = next(model.parameters()).device
    labels: list[Tensor] = []
    shares: dict[str, dict[str, list[Tensor]]] = {}
    areas: dict[str, list[Tensor]] = {}
    loader = get_dataloader(dataset, batch_size)
    for batch in tqdm(loader, desc="Explaining", disable=not progress, leave=False):
        kept = batch["disease"] != IGNORED
        if not kept.any():
            continue
        images, target = batch["image"][kept].as_subclass(Tensor).to(device), batch["disease"][kept]
        masks = {name: batch[name][kept].as_subclass(Tensor) for name in REGIONS if name in batch}
        labels.append(target)
        for region, mask in masks.items():
            area = mask_area(mask)
            areas.setdefault(region, []).append(area.masked_fill(area == 0, math.nan))
        for name, explainer in explainers.items():
            relevance = explainer.attribute(images, target.to(device)).cpu()
            for region, mask in masks.items():
                shares.setdefault(region, {}).setdefault(name, []).append(mask_share(relevance, mask))
    if not labels:
        raise ValueError("no picture could be read: nothing to explain")
    return EvidenceScores(
        tuple(dataset.classes),
        torch.cat(labels),
        {region: {name: torch.cat(parts) for name, parts in of.items()} for region, of in shares.items()},
        {region: torch.cat(parts) for region, parts in areas.items()},
    )


def above_saliency(rows: Sequence[EvidenceRow]) -> set[tuple[str, str]]:
    """(class, method) whose whole interval lies above that of gradient saliency for the same class."""
    saliency = {row.class_name: row.inside.high for row in rows if row.method == "saliency"}
    return {
        (row.class_name, row.method)
        for row in rows
        # A comparison with NaN is false: one picture has no interval and shows nothing.
        if row.inside.low > saliency.get(row.class_name, math.nan)
    }


def evidence_table(rows: Sequence[EvidenceRow], region: str) -> str:
    """The rows as text: a line for each method, a column for each class.

    A star marks an interval wholly above gradient saliency's.
    """
    starred = above_saliency(rows)
    names = list(dict.fromkeys(row.class_name for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    cells = {(row.class_name, row.method): row for row in rows}
    width = max(len(method) for method in [*methods, "chance (area)"])

    def cell(name: str, method: str) -> str:
        row = cells[name, method]
        star = "*" if (name, method) in starred else " "
        return f"{100 * row.inside.mean:5.1f} [{100 * row.inside.low:4.1f}, {100 * row.inside.high:4.1f}]{star}"

    head = f"{'':{width}}" + "".join(f"  {name:>19}" for name in names)
    lines = [f"Positive relevance inside the {region}, % [95 % bootstrap interval]", head]
    lines += [f"{method:{width}}" + "".join(f"  {cell(name, method):>19}" for name in names) for method in methods]
    chance = [f"  {100 * cells[name, methods[0]].chance:5.1f}{'':14}" for name in names]
    lines.append(f"{'chance (area)':{width}}" + "".join(chance).rstrip())
    counts = ", ".join(f"{name} {cells[name, methods[0]].inside.count}" for name in names)
    note = " * the interval lies wholly above gradient saliency's." if "saliency" in methods else ""
    lines.append(f"Pictures: {counts}.{note}")
    return "\n".join(lines)


_COLUMNS = ("region", "class", "method", "inside", "low", "high", "pictures", "chance")


def evidence_csv(tables: Mapping[str, Sequence[EvidenceRow]], earlier: bytes = b"") -> bytes:
    """Every region's rows as CSV, shares in [0, 1]; rows of an earlier table stay where their method is not in this one."""
    methods = {row.method for rows in tables.values() for row in rows}
    kept = list(csv.reader(io.StringIO(earlier.decode("utf-8", "replace"))))[1:]
    rows = [row for row in kept if len(row) == len(_COLUMNS) and row[2] not in methods]
    rows += [
        [
            region,
            row.class_name,
            row.method,
            *(f"{value:.6f}" for value in (row.inside.mean, row.inside.low, row.inside.high)),
            str(row.inside.count),
            f"{row.chance:.6f}",
        ]
        for region, of in tables.items()
        for row in of
    ]
    return csv_bytes([_COLUMNS, *rows])
