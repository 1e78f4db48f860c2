"""Cut a labelled set into training, validation and test parts, by scikit-learn; parts that know their labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset

from lrp_plugin.kinds import checked

DEFAULT_RATIOS = (0.7, 0.1, 0.2)
_MOST_FOLDS = 20


class LabelledSubset(Subset[dict[str, Any]]):
    """A part of a data set that still knows ``classes``, ``labels`` and ``patients``, without reading a picture."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(getattr(self.dataset, "classes", ()))

    @property
    def labels(self) -> list[int]:
        """Label of each sample."""
        labels = known(self.dataset, "labels")
        return [int(labels[index]) for index in self.indices]

    @property
    def patients(self) -> list[str]:
        """Patient of each sample."""
        patients = known(self.dataset, "patients")
        return [str(patients[index]) for index in self.indices]


def known(dataset: Any, what: str) -> list[Any]:
    """The ``classes``, ``labels`` (torchvision's word: ``targets``) or ``patients`` of a data set, without reading a picture.

    Raises:
        TypeError: It has none.
    """
    found = getattr(dataset, what, getattr(dataset, "targets", None) if what == "labels" else None)
    if found is None:
        each = "class, by label" if what == "classes" else "sample"
        raise TypeError(f"{type(dataset).__name__} has no `{what}`: give it a list with one entry for each {each}")
    return list(found)


@checked
def split_by_sample(
    dataset: Dataset[Any], ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0, *, stratify: bool = False
) -> list[LabelledSubset]:
    """Cut at random, each picture for itself (``sklearn.model_selection.train_test_split``).

    Part k gets ``floor(ratio_k N)`` pictures and the last part the rest: 21,165 at 70/10/20 makes 14,815, 2,116 and 4,234.

    Args:
        dataset: Anything with a length; with ``labels`` to stratify.
        ratios: Share of each part, in any order, summing to 1.
        seed: The same seed makes the same cut.
        stratify: Keep the classes' shares in each part; each class then needs a picture for every part.

    Returns:
        One subset for each ratio, indices ascending.

    Raises:
        ValueError: The ratios are negative or do not sum to 1, or there are too few pictures to stratify.
        TypeError: Stratify without labels.
    """
    from sklearn.model_selection import train_test_split

    _check(ratios, seed)
    labels = np.asarray(known(dataset, "labels")) if stratify else None
    rest = np.arange(len(dataset))  # type: ignore[arg-type]
    parts: list[Any] = []
    for size in [math.floor(ratio * len(rest) + 1e-9) for ratio in ratios[:-1]]:
        part, left = rest[:size], rest[size:]
        if len(part) and len(left):
            of = None if labels is None else labels[rest]
            with _told_of_too_few(ratios):
                part, left = train_test_split(rest, train_size=size, random_state=seed, stratify=of)
        parts.append(part)
        rest = left
    return [LabelledSubset(dataset, sorted(part.tolist())) for part in [*parts, rest]]


@checked
def split_by_patient(
    dataset: Dataset[Any], ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0, *, stratify: bool = False
) -> list[LabelledSubset]:
    """Cut so that no patient is in two parts; the ratios are met as nearly as whole patients and twentieths allow.

    Arguments as :func:`split_by_sample`; the data set has ``patients``.

    Raises:
        ValueError: The ratios are negative or do not sum to 1, or there are fewer pictures (to stratify: of every class)
            than folds; 70/10/20 takes ten.
        TypeError: The data set names no patients, or stratify without labels.
    """
    patients = known(dataset, "patients")
    labels = known(dataset, "labels") if stratify else [0] * len(patients)
    return [LabelledSubset(dataset, part) for part in split_by_group(labels, patients, ratios, seed)]


def split_by_group(
    labels: Sequence[int], groups: Sequence[str], ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0
) -> list[list[int]]:
    """Positions of each part, ascending, by ``sklearn.model_selection.StratifiedGroupKFold``: as `split_by_patient`."""
    from sklearn.model_selection import StratifiedGroupKFold

    _check(ratios, seed)
    whole = (k for k in range(2, _MOST_FOLDS) if all(abs(ratio * k - round(ratio * k)) < 1e-6 for ratio in ratios))
    folds = next(whole, _MOST_FOLDS)
    with warnings.catch_warnings(), _told_of_too_few(ratios):
        warnings.filterwarnings("ignore", message="The least populated class")
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        dealt = [part.tolist() for _, part in cutter.split(np.zeros(len(labels)), labels, groups)]
    edges = [0, *(round(float(edge) * folds) for edge in np.cumsum(ratios))]
    return [sorted(sum(dealt[start:end], [])) for start, end in zip(edges, edges[1:])]


def spread(items: Sequence[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` of the items (None: all), spread over all; ValueError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: give 1 or more")
    if limit is None or limit >= len(items):
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]


@contextmanager
def _told_of_too_few(ratios: Sequence[float]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"too few pictures to cut by {list(ratios)} (stratify=False may do): {error}") from error


def _check(ratios: Sequence[float], seed: int) -> None:
    if not len(ratios) or min(ratios) < 0 or not math.isclose(sum(ratios), 1.0, abs_tol=1e-6):
        raise ValueError(f"ratios {list(ratios)} must be non-negative and sum to 1; they sum to {sum(ratios):g}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: legal are 0 to {2**32 - 1}")
