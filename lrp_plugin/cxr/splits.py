"""Cut a dataset into training, validation and test parts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

DEFAULT_RATIOS = (0.7, 0.1, 0.2)


class CXRSubset(Subset[dict[str, Any]]):
    """A part of a dataset that still knows classes, labels and patients."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(getattr(self.dataset, "classes", ()))

    @property
    def labels(self) -> list[int]:
        """Label of each sample, nothing read."""
        labels = labels_of(self.dataset)
        return [labels[index] for index in self.indices]

    @property
    def patients(self) -> list[str]:
        """Patient of each sample, nothing read."""
        patients = patients_of(self.dataset)
        return [patients[index] for index in self.indices]


def labels_of(dataset: Dataset[Any]) -> list[int]:
    """Labels of a dataset without reading its pictures.

    Raises:
        TypeError: the dataset has no ``labels`` (nor ``targets``, torchvision's word).
    """
    labels = getattr(dataset, "labels", getattr(dataset, "targets", None))
    if labels is None:
        raise TypeError(f"{type(dataset).__name__} has no `labels`: give it a list with the label of each sample")
    return [int(label) for label in labels]


def split_by_sample(
    dataset: Dataset[Any], ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0, *, stratify: bool = False
) -> list[CXRSubset]:
    """Cut at random, each picture for itself.

    Plain, part k gets ``floor(ratio_k N)`` pictures and the last part the rest: 21,165 at 70/10/20 makes
    14,815, 2,116 and 4,234. Stratified, this is done within each class, by largest remainder.

    Args:
        dataset: anything with a length; with ``labels`` to stratify.
        ratios: share of each part, in any order, summing to 1.
        seed: the same seed makes the same cut.
        stratify: keep the classes' shares in each part.

    Returns:
        One subset for each ratio, indices ascending within a part.

    Raises:
        ValueError: the ratios are negative or do not sum to 1.
        TypeError: stratify without labels.
    """
    _check(ratios)
    order = _shuffled(len(dataset), seed)  # type: ignore[arg-type]
    parts: list[list[int]] = [[] for _ in ratios]
    if stratify:
        labels = labels_of(dataset)
        by_class: dict[int, list[int]] = defaultdict(list)
        for index in order:
            by_class[labels[index]].append(index)
        for label in sorted(by_class):
            _deal(by_class[label], _largest_remainder(len(by_class[label]), ratios), parts)
    else:
        sizes = [math.floor(ratio * len(order) + 1e-9) for ratio in ratios[:-1]]
        _deal(order, [*sizes, len(order) - sum(sizes)], parts)
    return [CXRSubset(dataset, sorted(part)) for part in parts]


def split_by_patient(
    dataset: Dataset[Any], ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0, *, stratify: bool = False
) -> list[CXRSubset]:
    """Cut so that no patient is in two parts.

    Patients come in random order, each to the part that lacks most pictures (stratified: pictures of their
    classes).

    Args:
        dataset: a dataset with ``patients`` (and ``labels`` to stratify).
        ratios: as in :func:`split_by_sample`; met as nearly as whole patients allow.
        seed: the same seed makes the same cut.
        stratify: keep the classes' shares in each part.

    Returns:
        One subset for each ratio.

    Raises:
        ValueError: the ratios are negative or do not sum to 1.
        TypeError: the dataset names no patients, or stratify without labels.
    """
    _check(ratios)
    patients = patients_of(dataset)
    kinds = labels_of(dataset) if stratify else [0] * len(patients)
    pictures: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(patients):
        pictures[patient].append(index)
    totals = Counter(kinds)
    lacking = [{kind: ratio * total for kind, total in totals.items()} for ratio in ratios]
    parts: list[list[int]] = [[] for _ in ratios]
    names = list(pictures)
    for number in _shuffled(len(names), seed):
        own = pictures[names[number]]
        need = Counter(kinds[index] for index in own)
        best = max(range(len(parts)), key=lambda k: sum(lacking[k][kind] * n for kind, n in need.items()))
        parts[best].extend(own)
        for kind, count in need.items():
            lacking[best][kind] -= count
    return [CXRSubset(dataset, sorted(part)) for part in parts]


def patients_of(dataset: Dataset[Any]) -> list[str]:
    """Patients of a dataset without reading its pictures.

    Raises:
        TypeError: the dataset has no ``patients``.
    """
    patients = getattr(dataset, "patients", None)
    if patients is None:
        raise TypeError(f"{type(dataset).__name__} has no `patients`: give it a list with the patient of each sample")
    return [str(patient) for patient in patients]


def _check(ratios: Sequence[float]) -> None:
    if not ratios or min(ratios) < 0 or not math.isclose(sum(ratios), 1.0, abs_tol=1e-6):
        raise ValueError(f"ratios {list(ratios)} must be non-negative and sum to 1; they sum to {sum(ratios):g}")


def _shuffled(n: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _largest_remainder(n: int, ratios: Sequence[float]) -> list[int]:
    sizes = [math.floor(ratio * n + 1e-9) for ratio in ratios]
    behind = sorted(range(len(ratios)), key=lambda k: sizes[k] - ratios[k] * n)
    for k in behind[: n - sum(sizes)]:
        sizes[k] += 1
    return sizes


def _deal(order: Sequence[int], sizes: Sequence[int], parts: list[list[int]]) -> None:
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        part.extend(order[start : start + size])
        start += size
