"""What is to be explained: ids and sources, in an order that follows from the ids alone, cut into chunks."""

from __future__ import annotations

import bisect
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lrp_plugin.archive import places
from lrp_plugin.images import DICOM_SUFFIXES, IMAGE_SUFFIXES, is_image_file

FOLDER = "items"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("targets", pa.list_(pa.int32())),
        pa.field("mask", pa.string()),
    ]
)
_OWN = ("path", "id", "label", "target", "mask")


def key_of(identifier: str) -> int:
    """The 64 bits that place an id: the first of its BLAKE2b digest. Equal on every machine, spread evenly."""
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Item:
    """One picture to be explained.

    Attributes:
        key: `key_of` its id.
        id: Its name, unique in the archive.
        source: Path or URL of the file.
        label: Its class, if the list of items says so.
        targets: Outputs to be explained, if the list of items says so.
        mask: Path or URL of a mask (above half of full scale is inside), or None.
    """

    key: int
    id: str
    source: str
    label: str | None
    targets: tuple[int, ...] | None
    mask: str | None


def read_items(source: str, masks: str | None = None) -> pa.Table:
    """The items that a folder, a CSV or a Parquet file names, sorted by their keys.

    Args:
        source: A folder (its pictures, recursively; the id is the path from the folder), or a ``.csv`` or ``.parquet``
            file with a column ``path`` and, as you like, ``id`` (else the path), ``label``, ``target`` (a number, or
            several separated by blanks; a list in Parquet) and ``mask``. Relative paths start at the file's folder.
        masks: A folder with a mask of the same relative path for each picture that has one.

    Returns:
        A table of `SCHEMA`.

    Raises:
        ValueError: No items, two of one id, a column missing or unknown.
        FileNotFoundError: ``source`` does not exist.
    """
    if not places.exists(source):
        raise FileNotFoundError(f"{source} does not exist: give a folder of pictures, a .csv or a .parquet file")
    columns = _from_folder(source) if places.is_folder(source) else _from_list(source)
    if masks is not None:
        found = set(places.files_below(masks))
        columns["mask"] = [places.join(masks, name) if name in found else None for name in columns["id"]]
        if not any(columns["mask"]):
            raise ValueError(f"none of the {len(columns['id'])} items has a file of its name in the masks {masks}")
    if not columns["id"]:
        raise ValueError(f"{source} holds no pictures: known are {', '.join((*IMAGE_SUFFIXES, *DICOM_SUFFIXES))}")
    table = pa.table({"key": [key_of(name) for name in columns["id"]], **columns}, schema=SCHEMA)
    table = table.sort_by([("key", "ascending"), ("id", "ascending")])
    _refuse_doubles(table["id"], source)
    return table


def _refuse_doubles(ids: pa.ChunkedArray, source: str) -> None:
    counts = ids.value_counts()
    often = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(often):
        names = ", ".join(repr(name) for name in often.field("values").to_pylist()[:3])
        raise ValueError(f"{source} names {len(often)} ids more than once ({names}): an id must be unique")


def _from_folder(folder: str) -> dict[str, list[Any]]:
    suffixes = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)
    names = sorted(places.files_below(folder))
    local = places.local_path(folder) if places.is_local(folder) else None
    kept = [n for n in names if (is_image_file(local / n) if local else n.lower().endswith(suffixes))]
    empty: list[None] = [None] * len(kept)
    start = str(local) if local else folder
    return {
        "id": kept, "source": [places.join(start, name) for name in kept],
        "label": empty, "targets": empty, "mask": list(empty),
    }  # fmt: skip


def _from_list(source: str) -> dict[str, list[Any]]:
    content = io.BytesIO(places.read_bytes(source))
    if source.lower().endswith(".parquet"):
        table = pq.read_table(content)
    elif source.lower().endswith(".csv"):
        from pyarrow import csv

        text = {name: pa.string() for name in _OWN}
        table = csv.read_csv(
            content,
            convert_options=csv.ConvertOptions(column_types=text, strings_can_be_null=True, null_values=[""]),
        )
    else:
        raise ValueError(f"{source} is no folder and ends in neither .csv nor .parquet")
    if "path" not in table.column_names:
        raise ValueError(
            f"{source} has no column 'path' but {', '.join(table.column_names)}; known are {', '.join(_OWN)}"
        )
    start = source.replace("\\", "/").rpartition("/")[0] or "."
    given = {name: table[name].to_pylist() if name in table.column_names else None for name in _OWN}
    paths = given["path"] or []
    for name in ("path", "id"):
        missing = [row for row, value in enumerate(given[name] or ()) if value in (None, "")]
        if missing:
            raise ValueError(f"{source}: row {missing[0] + 1} has no {name} ({len(missing)} such rows)")
    empty: list[None] = [None] * len(paths)
    return {
        "id": [str(value) for value in given["id"] or paths],
        "source": [_absolute(start, path) for path in paths],
        "label": [None if value is None else str(value) for value in given["label"] or empty],
        "targets": [_targets(value, source) for value in given["target"] or empty],
        "mask": [value and _absolute(start, value) for value in given["mask"] or empty],
    }


def _absolute(start: str, path: str) -> str:
    if "://" in path:
        return path
    if places.is_local(start):
        return str(places.local_path(start) / path)
    return places.join(start, path)


def _targets(value: Any, source: str) -> list[int] | None:
    if value is None:
        return None
    several = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        return [int(one) for one in several]
    except (TypeError, ValueError):
        raise ValueError(f"{source}: target {value!r} is no number, nor several separated by blanks") from None


def write_items(url: str, generation: int, table: pa.Table, chunk: int) -> None:
    """Write the items of one generation, a row group for each chunk."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=chunk, compression="zstd", write_page_checksum=True)
    places.write_bytes(places.join(url, FOLDER, f"{generation:04d}.parquet"), buffer.getvalue())


class Plan:
    """Which item lies in which chunk, from the footers of the item files: nothing else is read.

    Items were added in generations (one each time the archive grew); a generation's chunks follow those of the
    generation before. Within a generation items are sorted by key, so an id is found by bisection.

    Args:
        url: The archive.

    Raises:
        FileNotFoundError: It has no items.
        ValueError: An item file is damaged.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        names = sorted(name for name in places.files_below(places.join(url, FOLDER)) if name.endswith(".parquet"))
        if not names:
            raise FileNotFoundError(f"{url} holds no archive (no {FOLDER}/*.parquet)")
        self._files = [places.join(url, FOLDER, name) for name in names]
        self._footers: list[pq.FileMetaData] = []
        self._first: list[int] = []
        self._counts: list[int] = []
        self._bounds: list[tuple[int, list[int]]] = []
        for generation in range(len(names)):
            self._read_footer(generation)

    def _read_footer(self, generation: int) -> None:
        with self._open(generation) as file:
            footer = file.metadata
        self._footers.append(footer)
        groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
        self._first.append(len(self._counts))
        self._counts += [group.num_rows for group in groups]
        self._bounds.append((self._first[-1], [group.column(0).statistics.max for group in groups]))

    def _open(self, generation: int) -> pq.ParquetFile:
        """The file anew: an open one belongs to one thread."""
        system, path = places.locate(self._files[generation])
        known = self._footers[generation] if generation < len(self._footers) else None
        try:
            return pq.ParquetFile(path, filesystem=system, metadata=known)
        except pa.ArrowInvalid as error:
            raise ValueError(f"the list of items {self._files[generation]} is damaged: {error}") from error

    def __len__(self) -> int:
        return sum(self._counts)

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return len(self._counts)

    @property
    def generations(self) -> int:
        """How often items were added, the first time included."""
        return len(self._files)

    def size(self, chunk: int) -> int:
        """How many items a chunk has."""
        return self._counts[chunk]

    def items(self, chunk: int) -> list[Item]:
        """The items of a chunk, in order."""
        generation = bisect.bisect_right(self._first, chunk) - 1
        with self._open(generation) as file:
            table = file.read_row_group(chunk - self._first[generation])
        return [
            Item(**{**row, "targets": None if row["targets"] is None else tuple(row["targets"])})
            for row in table.to_pylist()
        ]

    def ids(self) -> Iterator[str]:
        """Every id, in the order of the chunks."""
        for generation in range(self.generations):
            with self._open(generation) as file:
                for batch in file.iter_batches(columns=["id"]):
                    yield from batch["id"].to_pylist()

    def table(self) -> pa.Table:
        """All items of all generations, in the order of the chunks."""
        return pa.concat_tables([self._whole(generation) for generation in range(self.generations)])

    def _whole(self, generation: int) -> pa.Table:
        with self._open(generation) as file:
            return file.read()

    def find(self, identifier: str) -> tuple[int, int]:
        """The chunk of an id and its place there.

        Raises:
            KeyError: The archive has no such id.
        """
        key = key_of(identifier)
        for first, bounds in self._bounds:
            chunk = bisect.bisect_left(bounds, key)
            while chunk < len(bounds):  # Two ids of one key may lie on both sides of a boundary.
                items = self.items(first + chunk)
                for place, item in enumerate(items):
                    if item.id == identifier:
                        return first + chunk, place
                if bounds[chunk] > key:
                    break
                chunk += 1
        raise KeyError(f"the archive {self.url} has no id {identifier!r}")
