"""How far an archive is: done, failed, left, and about how long that will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from lrp_plugin.archive import chunks
from lrp_plugin.archive.items import Plan
from lrp_plugin.archive.manifest import Manifest

_RECENT = 200  # Files whose dates give the speed; older ones may be of another day or another cluster.


@dataclass(frozen=True)
class Progress:
    """Counts of items.

    Attributes:
        items: All.
        done: In the archive, failed ones included.
        failed: Of those, the ones whose row carries an error.
        seconds_left: An estimate from the speed of the last files, or None where nothing is known yet.
    """

    items: int
    done: int
    failed: int
    seconds_left: float | None = None

    @property
    def left(self) -> int:
        """Not done yet."""
        return self.items - self.done


@dataclass(frozen=True)
class Status:
    """An archive's state in full.

    Attributes:
        progress: The counts.
        manifest: What made it.
        chunks: Files there should be.
        damaged: What is wrong with files that are not whole; they count as left.
        strangers: Files among the maps that are not the archive's.
        errors: Each error's message, without the names in it, and how often it came.
        examples: For each of those an id.
    """

    progress: Progress
    manifest: Manifest
    chunks: int
    damaged: list[str]
    strangers: list[str]
    errors: dict[str, int]
    examples: dict[str, str]


def progress_of(plan: Plan, stamps: Mapping[int, chunks.Stamp]) -> Progress:
    """The counts, from the stamps of whole files."""
    done = sum(stamp.items for stamp in stamps.values())
    failed = sum(stamp.failed for stamp in stamps.values())
    return Progress(len(plan), done, failed, _estimate(len(plan) - done, stamps))


def _estimate(left: int, stamps: Mapping[int, chunks.Stamp]) -> float | None:
    if not left:
        return 0.0
    recent = sorted(stamps.values(), key=lambda stamp: stamp.written)[-_RECENT:]
    if len(recent) < 2 or recent[-1].written <= recent[0].written:
        return None
    # The first file's own items were made before its date.
    return left * (recent[-1].written - recent[0].written) / sum(stamp.items for stamp in recent[1:])


def status(url: str) -> Status:
    """Counts done, failed and left from the files' footers, and the kinds of errors from the rows of those with any.

    Args:
        url: The archive.

    Raises:
        FileNotFoundError: There is no archive.
    """
    manifest, plan = Manifest.read(url), Plan(url)
    state = chunks.look(url, manifest.archive, [plan.size(chunk) for chunk in range(plan.chunks)])
    left_behind = set(chunks.leftovers(state.strangers))
    strangers = [name for name in state.strangers if name not in left_behind]
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for chunk, stamp in sorted(state.stamps.items()):
        if stamp.failed:
            with chunks.opened(url, chunk) as file:
                table = file.read(columns=["id", "source", "error"])
            for row in table.filter(pc.is_valid(table["error"])).to_pylist():
                kind = row["error"].replace(row["source"], "SOURCE")
                counts[kind] += 1
                examples.setdefault(kind, row["id"])
    return Status(
        progress_of(plan, state.stamps), manifest, plan.chunks, list(state.damaged.values()), strangers,
        dict(counts.most_common()), examples,
    )  # fmt: skip
