"""One pass over an archive's small columns: distributions by class and method, and the worst cases, in bounded memory."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from lrp_plugin.archive.reader import Archive

BINS = 20
_COLUMNS = [
    "id",
    "source",
    "label",
    "method",
    "target",
    "prediction",
    "logit",
    "relevance",
    "share",
    "mask_area",
    "error",
]


@dataclass
class Distribution:
    """Of one class and method.

    Attributes:
        counts: (BINS,), how many shares inside the mask lie in each twentieth of [0, 1].
        number, total, square: Of the shares.
        area: Sum of the masks' areas, what chance scores.
        maps: Rows with a map, with a share or not.
        reached: Sum of relevance / logit.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, int))
    number: int = 0
    total: float = 0.0
    square: float = 0.0
    area: float = 0.0
    maps: int = 0
    reached: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        """Takes one row in."""
        self.maps += 1
        self.reached += row["relevance"] / row["logit"] if row["logit"] else math.nan
        if row["share"] is not None:
            self.counts[min(int(row["share"] * BINS), BINS - 1)] += 1
            self.number += 1
            self.total += row["share"]
            self.square += row["share"] ** 2
            self.area += row["mask_area"]

    @property
    def mean(self) -> float:
        """Mean share; NaN without any."""
        return self.total / self.number if self.number else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the shares; NaN with fewer than two."""
        if self.number < 2:
            return math.nan
        return math.sqrt(max(self.square / self.number - self.mean**2, 0.0) * self.number / (self.number - 1))

    @property
    def chance(self) -> float:
        """Mean area of the masks."""
        return self.area / self.number if self.number else math.nan


@dataclass(frozen=True)
class Case:
    """One item for the list.

    Attributes:
        badness: What the list is sorted by, the greatest first: 2 for an error, else 1 - the least share inside the mask;
            without masks the greatest distance of relevance / logit from 1, squeezed into [0, 1].
        rows: The item's rows without their maps.
    """

    badness: float
    rows: list[dict[str, Any]]


@dataclass
class Summary:
    """What the pages show.

    Attributes:
        distributions: By predicted class and method.
        cases: The worst, in that order.
        items, failed: Of those explained.
        masks: Whether any row has a share.
    """

    distributions: dict[tuple[int, str], Distribution]
    cases: list[Case]
    items: int
    failed: int
    masks: bool


def summarize(archive: Archive, examples: int) -> Summary:
    """Reads every row's small columns once.

    Args:
        archive: The archive.
        examples: How many cases are kept.
    """
    distributions: dict[tuple[int, str], Distribution] = {}
    worst: list[tuple[float, int, list[dict[str, Any]]]] = []
    items = failed = 0
    masks = False
    for rows in _items(archive):
        items += 1
        failed += rows[0]["error"] is not None
        for row in rows:
            if row["method"] is not None and row["error"] is None:
                distributions.setdefault((row["prediction"], row["method"]), Distribution()).add(row)
                masks = masks or row["share"] is not None
        entry = (badness(rows), -items, rows)  # Equal ones stay in the archive's order.
        if len(worst) < examples:
            heapq.heappush(worst, entry)
        elif worst and entry > worst[0]:
            heapq.heapreplace(worst, entry)
    cases = [Case(bad, rows) for bad, _, rows in sorted(worst, reverse=True)]
    return Summary(dict(sorted(distributions.items())), cases, items, failed, masks)


def badness(rows: list[dict[str, Any]]) -> float:
    """See `Case`."""
    if rows[0]["error"] is not None:
        return 2.0
    shares = [row["share"] for row in rows if row["share"] is not None]
    if shares:
        return 1.0 - min(shares)
    distances = [abs(1 - row["relevance"] / row["logit"]) for row in rows if row["method"] is not None and row["logit"]]
    return max(distances) / (1 + max(distances)) if distances else 0.0


def _items(archive: Archive) -> Iterator[list[dict[str, Any]]]:
    batches = archive.dataset().to_batches(columns=_COLUMNS, batch_size=4096, fragment_readahead=2)
    rows = (row for batch in batches for row in batch.to_pylist())
    for _, group in groupby(rows, key=lambda row: row["id"]):
        yield list(group)
