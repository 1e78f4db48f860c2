"""Explain a set of pictures into an archive, or go on where an earlier run stopped."""

from __future__ import annotations

import dataclasses
import errno
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from lrp_plugin.archive import chunks, places
from lrp_plugin.archive.explaining import Explainer
from lrp_plugin.archive.items import FOLDER, Plan, read_items, write_items
from lrp_plugin.archive.manifest import Manifest, decided
from lrp_plugin.archive.pictures import read_items as read_pictures
from lrp_plugin.archive.pool import Machines, cluster, explain_chunks
from lrp_plugin.archive.settings import Settings
from lrp_plugin.archive.state import Progress, progress_of
from lrp_plugin.explain.core import forward

_REMEDY = "give size= and channels= of the pictures that it was made for"
_TRIED = 8  # Pictures looked at for one that can be read, before anything is started.


class TooManyErrorsError(RuntimeError):
    """More items failed than the run was allowed; what is done is kept."""


@dataclass(frozen=True)
class Limits:
    """When to stop, and what to do again.

    Attributes:
        max_errors: Stop when more items than this have failed in this run; None: never.
        retry_errors: Also do again the chunks with failed items.
        add: Accept items that the archive does not have yet; otherwise they are refused.
    """

    max_errors: int | None = None
    retry_errors: bool = False
    add: bool = False


def explain_archive(
    source: str | None, url: str, settings: Settings, *, masks: str | None = None, machines: Machines | None = None,
    limits: Limits | None = None, classes: list[str] | None = None, report: Callable[[Progress], None] | None = None,
) -> Progress:  # fmt: skip
    """Explain every picture of a source into an archive.

    The same call goes on after a stop of any kind: what is whole is kept, the rest is done. Each id is in the result
    once, since a chunk's file has a name that follows from the plan, and a second writing replaces the first.

    Args:
        source: A folder, a CSV or a Parquet file (see `lrp_plugin.archive.items.read_items`); None: the items that the
            archive has.
        url: The archive: a folder or any URL that pyarrow or fsspec opens.
        settings: What decides the numbers.
        masks: A folder of masks.
        machines: Where it runs; None: on this machine.
        limits: When to stop; None: at the end.
        classes: Names of the outputs, for the reader and the report; others replace those an archive has.
        report: Called with the progress after every chunk.

    Returns:
        The progress at the end.

    Raises:
        ManifestError: The archive was made by another model, other settings or other items; each difference is named.
        ValueError: Bad items, or a model that none of the first pictures passes.
        TooManyErrorsError: More errors than allowed.
        OSError: The disk is full, a place cannot be written; what is done is kept.
    """
    machines, limits = machines or Machines(), limits or Limits()
    model = settings.model.make()
    manifest = _manifest(url, settings, model, source, classes)
    plan = _plan(url, manifest, settings, model, source, masks, limits.add, classes)
    if classes is not None and classes != manifest.classes:
        _try(plan.table(), settings, model, classes)
        manifest = dataclasses.replace(manifest, about={**manifest.about, "classes": classes})
        manifest.write(url)
    state = chunks.look(url, manifest.archive, [plan.size(chunk) for chunk in range(plan.chunks)])
    _sweep(url)
    for note in [*manifest.other_versions(), *state.damaged.values()]:
        warnings.warn(f"{url}: {note}" + ("; it is made again" if note in state.damaged.values() else ""), stacklevel=2)
    again = {chunk for chunk, stamp in state.stamps.items() if limits.retry_errors and stamp.failed}
    pending = [chunk for chunk in range(plan.chunks) if chunk not in state.stamps or chunk in again]
    progress = progress_of(plan, {n: stamp for n, stamp in state.stamps.items() if n not in again})
    if report is not None:
        report(progress)
    if not pending:
        return progress
    with _named_errors(url):
        progress = _run(url, manifest, plan, pending, settings, machines, limits, progress, report)
    _sweep(url)
    return progress


def _sweep(url: str) -> None:
    """Deletes what writers that were killed, of a run before or on a machine that is gone, had begun."""
    for name in chunks.leftovers(places.files_below(url)):
        places.delete(places.join(url, name))


def _run(
    url: str, manifest: Manifest, plan: Plan, pending: list[int], settings: Settings, machines: Machines, limits: Limits,
    progress: Progress, report: Callable[[Progress], None] | None,
) -> Progress:  # fmt: skip
    began, failed, done = time.time(), 0, 0
    with (
        cluster(machines) as ray,
        closing(explain_chunks(ray, url, manifest.archive, pending, settings, machines, plan.generations)) as written,
    ):
        for row in written:
            failed, done = failed + row["failed"], done + row["items"]
            left = progress.left - row["items"]
            progress = dataclasses.replace(
                progress, done=progress.done + row["items"], failed=progress.failed + row["failed"],
                seconds_left=(time.time() - began) / done * left,
            )  # fmt: skip
            if report is not None:
                report(progress)
            if limits.max_errors is not None and failed > limits.max_errors:
                raise TooManyErrorsError(
                    f"{failed} of the {done} items of this run failed, allowed are {limits.max_errors}; the files that are "
                    f"done are kept. lrp-plugin archive status {url} names the errors; --retry-errors does them again"
                )
    return progress


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    """A worker's exception as the one it was, with what to do about it."""
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                cause.errno, f"no space left where the archive lies, {url}: every file there is whole; "
                "make room and run the same command again"
            ) from error  # fmt: skip
        if cause is error:
            raise
        raise RuntimeError(
            f"{type(cause).__name__}: {cause}; what is done is kept, the same command goes on"
        ) from error


def _cause(error: BaseException) -> BaseException:
    """What was raised in a worker, from inside Ray's wrappings."""
    inner = getattr(error, "cause", None) or error.__cause__
    if isinstance(inner, BaseException) and type(error).__module__.partition(".")[0] == "ray":
        return _cause(inner)
    return error


def _manifest(
    url: str, settings: Settings, model: nn.Module, source: str | None, classes: list[str] | None
) -> Manifest:
    """The archive's manifest, which must agree; a new one is not written yet."""
    try:
        manifest = Manifest.read(url)
    except FileNotFoundError:
        if source is None:
            raise
        # A run may have been killed between the list and the manifest: what it left is no one else's.
        there = places.files_below(url)
        if set(there) - {f"{FOLDER}/0000.parquet", *chunks.leftovers(there)}:
            raise ValueError(f"{url} is not empty and holds no archive: give an empty or a new folder") from None
        return Manifest.of(settings, model, {"source": source, "classes": classes})
    manifest.refuse_other(decided(settings, model), url)
    return manifest


def _plan(
    url: str, manifest: Manifest, settings: Settings, model: nn.Module, source: str | None, masks: str | None, add: bool,
    classes: list[str] | None,
) -> Plan:  # fmt: skip
    """The archive's plan, made or grown as the source asks; the manifest comes last, so that an archive has both."""
    new = not places.exists(places.join(url, "manifest.json"))
    if source is None:
        return Plan(url)
    asked = read_items(source, masks)
    if new:
        _try(asked, settings, model, classes)
        write_items(url, 0, asked, settings.chunk)
        manifest.write(url)
        return Plan(url)
    plan = Plan(url)
    added = _added(plan.table(), asked, url)
    if added.num_rows:
        if not add:
            names = ", ".join(added["id"].to_pylist()[:3])
            raise ValueError(f"{url} lacks {added.num_rows} items of {source} ({names}): --add takes them in")
        write_items(url, plan.generations, added, settings.chunk)
        plan = Plan(url)
    return plan


def _added(known: pa.Table, asked: pa.Table, url: str) -> pa.Table:
    """The items that are new.

    Raises:
        ValueError: An item that the archive has is another one now.
    """
    old = {row["id"]: row for row in known.to_pylist()}
    differing = [
        f"  {row['id']}: {name} was {old[row['id']][name]}, is {row[name]}"
        for row in asked.to_pylist()
        if row["id"] in old
        for name in ("source", "label", "targets", "mask")
        if old[row["id"]][name] != row[name]
    ]
    if differing:
        more = f"\n  and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(f"{url} knows some ids otherwise:\n" + "\n".join(differing[:5]) + more)
    return asked.filter(pc.invert(pc.is_in(asked["id"], known["id"])))


def _try(asked: pa.Table, settings: Settings, model: nn.Module, classes: list[str] | None) -> None:
    """Explains one picture before anything is made: a wrong size, method, model or list of classes is known at once.

    Raises:
        ValueError: None of the first pictures can be explained, or there are not as many classes as outputs.
    """
    from lrp_plugin.archive.items import Item

    error = ""
    for row in asked.slice(0, _TRIED).to_pylist():
        item = Item(**{**row, "targets": None if row["targets"] is None else tuple(row["targets"])})
        images, reads = read_pictures([item], settings.picture)
        explainer = Explainer(settings, model=model)
        rows = explainer.explain(np.asarray(images), reads)
        error = next((one["error"] for one in rows if one["error"]), "")
        if not error:
            if classes is not None and len(classes) != explainer.outputs:
                given = f"{len(classes)} classes ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"
                raise ValueError(f"{given} for a model of {explainer.outputs} outputs; give a name for each")
            return
        if not reads[0].error:
            try:
                forward(explainer.model, explainer.inputs(torch.from_numpy(images)), remedy=_REMEDY)
            except ValueError as refused:  # the model's own, in words that help
                error = str(refused)
    tried = min(_TRIED, asked.num_rows)
    raise ValueError(f"none of the first {tried} items can be explained; nothing was made. The last: {error}")
