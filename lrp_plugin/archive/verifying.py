"""Proof of an archive: every id exactly once, every byte as it was written, and a random sample explained again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lrp_plugin.archive import chunks, places
from lrp_plugin.archive.explaining import Explainer
from lrp_plugin.archive.items import Item, Plan
from lrp_plugin.archive.manifest import Manifest, decided, restored
from lrp_plugin.archive.pictures import checksum, read_items
from lrp_plugin.archive.rows import SCHEMA, unpacked
from lrp_plugin.archive.settings import Settings
from lrp_plugin.archive.work import batches

# Half precision keeps 11 bits: where the same numbers come from other hardware, a map may differ by its own rounding
# (2^-11 of the greatest value at most) and by float32's in the pass, which is far less.
TOLERANCE = 2.0**-9


@dataclass
class Verified:
    """What was looked at and what was found.

    Attributes:
        items: Ids in the plan.
        found: Ids found in whole files, each counted once.
        failed: Ids whose row carries an error.
        rows, maps: Rows read, and maps unpacked.
        again: Maps explained again.
        identical: Of those, the ones that are the same in every bit.
        greatest: The largest difference of the others, in parts of the map's greatest value.
        sources: Source files read again.
        problems: Everything that is wrong, each by name. Empty: the archive is proved.
        missing: Chunks without a whole file: not done yet, or lost.
    """

    items: int = 0
    found: int = 0
    failed: int = 0
    rows: int = 0
    maps: int = 0
    again: int = 0
    identical: int = 0
    greatest: float = 0.0
    sources: int = 0
    problems: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Complete, and nothing wrong."""
        return not self.problems and not self.missing


def verify(
    url: str, *, sample: int = 20, seed: int = 0, sources: bool = False, repair: bool = False,
    settings: Settings | None = None, device: str = "cpu", progress: Callable[[int, int], None] | None = None,
) -> Verified:  # fmt: skip
    """Check an archive.

    Every file is read through with its page checksums and compared with the plan: each id in its place, once, with every
    method for each of its targets, maps of their declared shape. Then the batches of ``sample`` random ids are read and
    explained again, and every bit is compared.

    Args:
        url: The archive.
        sample: How many ids are explained again; 0: none.
        seed: Of the sample.
        sources: Read every source again and compare its checksum; otherwise only the sample's.
        repair: Delete damaged files, so that the next ``explain`` makes them again.
        settings: Needed where the manifest cannot give them back (a model or a composite given as an object).
        device: Where the sample is explained.
        progress: Called with chunks looked at and all chunks.

    Returns:
        What was found; `Verified.problems` names each thing that is wrong.

    Raises:
        FileNotFoundError: There is no archive.
        ManifestError: The model can be made no longer as it was.
    """
    manifest, plan = Manifest.read(url), Plan(url)
    result = Verified(items=len(plan))
    state = chunks.look(url, manifest.archive, [plan.size(chunk) for chunk in range(plan.chunks)])
    result.missing = [chunk for chunk in range(plan.chunks) if chunk not in state.stamps and chunk not in state.damaged]
    damaged = dict(state.damaged)
    result.problems += damaged.values()
    result.problems += [f"{name} is no file of this archive" for name in state.strangers]
    _check_plan(plan, result)
    for number, chunk in enumerate(sorted(state.stamps)):
        found = list(_chunk_problems(url, chunk, plan, manifest, result, sources))
        if any(fatal for fatal, _ in found):
            damaged[chunk] = "; ".join(text for _, text in found)
        result.problems += [text for _, text in found]
        if progress is not None:
            progress(number + 1, plan.chunks)
    if sample:
        whole = sorted(state.stamps.keys() - damaged.keys())
        _explain_again(url, plan, manifest, whole, sample, seed, settings, device, result)
    if repair:
        for chunk in damaged:
            places.delete(places.join(url, chunks.name_of(chunk)))
    return result


def _check_plan(plan: Plan, result: Verified) -> None:
    """Ids may be in two generations only where somebody wrote into the plan by hand."""
    counts = pa.chunked_array([pa.array(list(plan.ids()), pa.string())]).value_counts()
    often = [row["values"] for row in counts.to_pylist() if row["counts"] > 1]
    result.problems += [f"the plan has the id {name!r} more than once" for name in often]


def _chunk_problems(
    url: str, chunk: int, plan: Plan, manifest: Manifest, result: Verified, sources: bool
) -> Iterator[tuple[bool, str]]:
    """Whether the file must be made again, and what is wrong."""
    name = chunks.name_of(chunk)
    try:
        with chunks.opened(url, chunk, manifest.archive, check=True) as file:
            table = file.read()
    except (chunks.DamagedChunkError, OSError, pa.ArrowInvalid) as error:
        yield True, str(error) if name in str(error) else f"{name} is damaged: {error}"
        return
    if not table.schema.remove_metadata().equals(SCHEMA):
        yield True, f"{name} has other columns than an archive's"
        return
    rows = table.to_pylist()
    items = plan.items(chunk)
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    yield from (
        (True, f"{name} has the id {one!r}, which belongs elsewhere") for one in by_id.keys() - {i.id for i in items}
    )
    result.rows += len(rows)
    for item in items:
        if item.id not in by_id:
            yield True, f"{name} lacks the id {item.id!r}"
            continue
        result.found += 1
        result.failed += by_id[item.id][0]["error"] is not None
        for text in _item_problems(item, by_id[item.id], manifest, result):
            yield True, f"{name}, {item.id!r}: {text}"
        if sources:
            result.sources += 1
            if changed := _source_problem(item, by_id[item.id][0]["checksum"]):
                yield False, changed


def _item_problems(item: Item, rows: Sequence[dict[str, Any]], manifest: Manifest, result: Verified) -> Iterator[str]:
    methods = set(manifest.decided["methods"])
    kind = manifest.decided["targets"]["kind"]
    if any(row["source"] != item.source or row["key"] != item.key for row in rows):
        yield "its source is not the plan's"
    without = [row for row in rows if row["map"] is None]
    if without:
        if len(rows) > 1:
            yield f"{len(rows)} rows, of which {len(without)} have no map"
        elif rows[0]["error"] is None and kind != "above":
            yield "no map and no error"
        return
    pairs = Counter((row["method"], row["target"]) for row in rows)
    wanted = {(method, row["target"]) for method in methods for row in rows}
    if set(pairs) != wanted or max(pairs.values()) > 1:
        yield f"rows {sorted(pairs.items())} for methods {sorted(methods)}"
    for row in rows:
        result.maps += 1
        try:
            values = unpacked(row)
        except ValueError as error:
            yield str(error)
            continue
        if not np.isfinite(values).all():
            yield f"the map of {row['method']} is NaN or infinite"


def _source_problem(item: Item, known: str | None) -> str | None:
    try:
        now = checksum(item.source)
    except FileNotFoundError:
        return None if known is None else f"the source of {item.id!r} vanished: {item.source}"
    except OSError as error:
        return f"the source of {item.id!r} cannot be read: {error}"
    if known is not None and now != known:
        return f"the source of {item.id!r} changed since it was explained: {item.source}"
    return None


def _explain_again(
    url: str, plan: Plan, manifest: Manifest, whole: Sequence[int], sample: int, seed: int, settings: Settings | None,
    device: str, result: Verified,
) -> None:  # fmt: skip
    if not whole:
        return
    settings = restored(manifest) if settings is None else settings
    model = settings.model.make()
    manifest.refuse_other(decided(settings, model), url)
    explainer = Explainer(settings, device, model)
    generator = np.random.default_rng(seed)
    sizes = np.array([plan.size(chunk) for chunk in whole])
    drawn = np.sort(generator.choice(sizes.sum(), min(sample, int(sizes.sum())), replace=False))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    wanted: dict[tuple[int, int], set[int]] = {}
    for place in drawn.tolist():
        number = int(np.searchsorted(starts, place, "right")) - 1
        inside = place - int(starts[number])
        wanted.setdefault((whole[number], inside // settings.batch), set()).add(inside)
    for (chunk, batch), insides in wanted.items():
        _compare_batch(url, plan, explainer, settings, chunk, batch, insides, result)


def _compare_batch(
    url: str, plan: Plan, explainer: Explainer, settings: Settings, chunk: int, batch: int, insides: set[int],
    result: Verified,
) -> None:  # fmt: skip
    items = plan.items(chunk)
    part = batches(items, settings.batch)[batch]
    images, reads = read_items(items[part], settings.picture)
    fresh = {(row["id"], row.get("method"), row.get("target")): row for row in explainer.explain(images, reads)}
    with chunks.opened(url, chunk) as file:
        stored = [row for row in file.read().to_pylist() if row["id"] in {items[place].id for place in insides}]
    checksums = {read.item.id: read for read in reads}
    for identifier in dict.fromkeys(row["id"] for row in stored):
        rows = [row for row in stored if row["id"] == identifier]
        result.sources += 1
        if text := _source_problem(checksums[identifier].item, rows[0]["checksum"]):
            if text not in result.problems:
                result.problems.append(text)
            continue  # Another picture has another map: one problem, one line.
        for row in rows:
            _compare(row, fresh.get((row["id"], row["method"], row["target"])), result)


def _compare(row: dict[str, Any], fresh: dict[str, Any] | None, result: Verified) -> None:
    who = f"{row['id']!r}, {row['method']}, output {row['target']}"
    if fresh is None:
        result.problems.append(f"{who}: explained again, it has no such row")
        return
    if (row["error"] is None) != (fresh.get("error") is None):
        result.problems.append(f"{who}: the archive says {row['error']}, explained again {fresh.get('error')}")
        return
    if row["map"] is None:
        return
    result.again += 1
    if row["map"] == fresh["map"] and np.float32(row["scale"]) == np.float32(fresh["scale"]):
        result.identical += 1
        return
    kept, made = unpacked(row), unpacked({**fresh, "id": row["id"]})
    difference = float(np.abs(kept - made).max() / row["scale"]) if kept.shape == made.shape else float("inf")
    result.greatest = max(result.greatest, difference)
    if difference > TOLERANCE:
        result.problems.append(f"{who}: explained again, the map differs by {difference:.2g} of its greatest value")
