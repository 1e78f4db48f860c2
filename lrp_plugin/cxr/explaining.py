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

from lrp_plugin.evaluation.methods import Explain, builder
from lrp_plugin.evidence import bootstrap_mean, mask_area, mask_share
from lrp_plugin.files import csv_bytes
from lrp_plugin.images import IGNORED
from lrp_plugin.report import Localisation

from .loaders import get_dataloader
from .models import CXRClassifier
from .runfolder import DEFAULT_METHODS

#: Regions a sample may bring a mask of.
REGIONS = ("lungs", "evidence", "marker")

ALL_CLASSES = "all"


def build_explainer(name: str, model: CXRClassifier) -> Explain:
    """The function ``(images, target) -> relevance`` of a name of `lrp_plugin.evaluation.methods.method_names`.

    Raises:
        ValueError: unknown name; the legal ones are listed.
    """
    return builder(name, model, model.pixel_range)(model)


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

    def intervals(self, region: str) -> list[Localisation]:
        """Mean share with its 95 % bootstrap interval for each class that has the region, then for all."""
        rows = []
        groups = [(name, self.labels == label) for label, name in enumerate(self.class_names)]
        for name, chosen in [*groups, (ALL_CLASSES, torch.ones_like(self.labels, dtype=torch.bool))]:
            areas = self.areas[region][chosen]
            for method, shares in self.shares[region].items() if not areas.isnan().all() else ():
                rows.append(Localisation(name, method, bootstrap_mean(shares[chosen]), float(areas.nanmean())))
        return rows


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
        methods: names that :func:`build_explainer` knows.
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
            relevance = explainer(images, target.to(device)).cpu()
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


def above_saliency(rows: Sequence[Localisation]) -> set[tuple[str, str]]:
    """(class, method) whose whole interval lies above that of gradient saliency for the same class."""
    saliency = {row.class_name: row.inside.high for row in rows if row.method == "saliency"}
    return {
        (row.class_name, row.method)
        for row in rows
        # A comparison with NaN is false: one picture has no interval and shows nothing.
        if row.inside.low > saliency.get(row.class_name, math.nan)
    }


def evidence_table(rows: Sequence[Localisation], region: str) -> str:
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
