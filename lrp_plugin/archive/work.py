"""The three steps of a chunk, read, explain, write, each as its worker runs it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lrp_plugin.archive import chunks
from lrp_plugin.archive.explaining import Explainer, Row
from lrp_plugin.archive.items import Item, Plan
from lrp_plugin.archive.manifest import versions
from lrp_plugin.archive.pictures import Read, read_items
from lrp_plugin.archive.settings import Settings

#: The plan's footers are read once by each worker, not once a chunk.
_plan = lru_cache(maxsize=4)(Plan)


def batches(items: Sequence[Item] | Sequence[Read], size: int) -> list[slice]:
    """Where the batches of a chunk lie: always the same, whatever was done before, so that bits are the same too."""
    return [slice(start, min(start + size, len(items))) for start in range(0, len(items), size)]


def read_chunk(row: dict[str, Any], *, url: str, settings: Settings, generations: int) -> dict[str, Any]:
    """Reads a chunk's pictures.

    Args:
        row: ``{"id": chunk}``, or ``{"chunk": chunk}``.
        url: The archive.
        settings: Of the archive.
        generations: How many the plan has; a worker that lived through an addition reads it again.
    """
    torch.set_num_threads(1)  # Readers run beside each other; resizing in many threads would starve the explainers.
    plan = _plan(url)
    if plan.generations != generations:
        _plan.cache_clear()
        plan = _plan(url)
    chunk = int(row["chunk"])
    images, reads = read_items(plan.items(chunk), settings.picture)
    return {"chunk": chunk, "images": images, "reads": pickle.dumps(reads)}


class ExplainChunks:
    """Explains chunks in a process that keeps the model.

    Args:
        settings: Of the archive.
        archive: Its name.
        device: Where the model runs, ``"cpu"`` or ``"cuda"`` (Ray shows an actor its own GPUs only).
        began: Called first, in the explainer's process.
        before: Called with each batch's images before they are explained (tests: an actor that dies).
    """

    def __init__(
        self, settings: Settings, archive: str, device: str = "cpu", began: Callable[[], None] = lambda: None,
        before: Callable[[np.ndarray], None] | None = None,
    ) -> None:  # fmt: skip
        began()
        torch.set_num_threads(settings.threads)
        self.settings, self.archive, self.before = settings, archive, before
        self.explainer = Explainer(settings, device)
        self.versions = versions()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turns what `read_chunk` read into the bytes of the chunk's file."""
        chunk, images, reads = int(row["chunk"]), row["images"], pickle.loads(row["reads"])
        content, stamp = chunks.encode(self.rows(images, reads), self.archive, chunk, self.versions)
        return {"chunk": chunk, "content": content, "items": stamp.items, "failed": stamp.failed}

    def rows(self, images: np.ndarray, reads: Sequence[Read]) -> list[Row]:
        """The rows of a chunk."""
        found: list[Row] = []
        for part in batches(reads, self.settings.batch):
            if self.before is not None:
                self.before(images[part])
            found += self.explainer.explain(images[part], reads[part])
        return found


def write_chunk(row: dict[str, Any], *, url: str) -> dict[str, Any]:
    """Puts a chunk's file in its place; what is left to say of it is small."""
    chunks.write(url, int(row["chunk"]), row["content"])
    return {"chunk": int(row["chunk"]), "items": int(row["items"]), "failed": int(row["failed"])}
