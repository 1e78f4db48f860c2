"""The files of an archive: one for each chunk, its name from the plan alone, whole or not there."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lrp_plugin.archive import places
from lrp_plugin.archive.rows import SCHEMA

FOLDER = "maps"
ROWS_IN_GROUP = 64  # What reading one item takes: small groups, so that a reader need not unpack a whole file.
_TAG = b"lrp_plugin.archive"
_READERS = 16  # Footers read at once; an object store answers one request in tens of milliseconds.


def name_of(chunk: int) -> str:
    """A chunk's file, below the archive: a thousand in a folder."""
    return f"{FOLDER}/{chunk // 1000:05d}/{chunk:08d}.parquet"


@dataclass(frozen=True)
class Stamp:
    """What a chunk's footer says, so that counting needs no rows.

    Attributes:
        archive: The archive's name, from its manifest.
        chunk: The chunk's number.
        items, failed: How many items it holds, and how many of them carry an error.
        seconds: What explaining took.
        written: When, seconds since 1970.
        versions: Of the packages that wrote it.
    """

    archive: str
    chunk: int
    items: int
    failed: int
    seconds: float
    written: float
    versions: dict[str, str]


def encode(rows: Sequence[dict[str, Any]], archive: str, chunk: int, versions: dict[str, str]) -> tuple[bytes, Stamp]:
    """A chunk as the bytes of its Parquet file, row by row as given, with its stamp in the footer."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    failed = sum(row["error"] is not None for row in rows)
    spent = sum({row["id"]: row["seconds"] for row in rows}.values())
    stamp = Stamp(archive, chunk, len({row["id"] for row in rows}), failed, spent, time.time(), versions)
    table = table.replace_schema_metadata({_TAG: json.dumps(asdict(stamp)).encode()})
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, row_group_size=ROWS_IN_GROUP, compression="zstd", compression_level=1, write_page_checksum=True,
        use_dictionary=["method", "label", "error"], write_statistics=["key", "target", "prediction", "share"],
    )  # fmt: skip
    return buffer.getvalue(), stamp


def write(url: str, chunk: int, content: bytes) -> None:
    """Put a chunk's file in its place; one that is there is replaced."""
    places.write_bytes(places.join(url, name_of(chunk)), content)


class DamagedChunkError(ValueError):
    """A chunk's file cannot be read, or is not this archive's; the message names it."""


def opened(
    url: str, chunk: int, archive: str | None = None, *, check: bool = False, footer: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """A chunk's file, its footer read. An open file belongs to one thread.

    Args:
        url: The archive.
        chunk: Which.
        archive: The name the footer must carry, or None for any.
        check: Compare each page's checksum when it is read.
        footer: The footer, where it was read before.

    Raises:
        FileNotFoundError: It is not there.
        DamagedChunkError: It is cut short, no Parquet, or another archive's.
    """
    place = places.join(url, name_of(chunk))
    system, path = places.locate(place)
    try:
        file = pq.ParquetFile(path, filesystem=system, page_checksum_verification=check, metadata=footer)
        stamp = stamp_of(file)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedChunkError(f"{place} is damaged: {error}") from error
    if archive is not None and (stamp.archive, stamp.chunk) != (archive, chunk):
        raise DamagedChunkError(f"{place} belongs to another archive or another chunk")
    return file


def stamp_of(file: pq.ParquetFile) -> Stamp:
    """The stamp in a file's footer."""
    return Stamp(**json.loads((file.schema_arrow.metadata or {})[_TAG]))


@dataclass(frozen=True)
class State:
    """What is there of an archive.

    Attributes:
        stamps: Of each chunk whose file is whole, by number.
        damaged: What is wrong with the others that are there.
        strangers: Files among the maps that the plan does not know, by their paths below the archive.
    """

    stamps: dict[int, Stamp]
    damaged: dict[int, str]
    strangers: list[str]


def look(url: str, archive: str, sizes: Sequence[int]) -> State:
    """Reads every footer: a chunk is done where its file is whole, this archive's, and has all its items.

    Args:
        url: The archive.
        archive: Its name.
        sizes: How many items each chunk has.
    """
    there = {f"{FOLDER}/{name}" for name in places.files_below(places.join(url, FOLDER))}
    wanted = {name_of(chunk): chunk for chunk in range(len(sizes))}
    strangers = sorted(there - wanted.keys())
    stamps: dict[int, Stamp] = {}
    damaged: dict[int, str] = {}
    for chunk, found in _footers(url, archive, (wanted[name] for name in sorted(there & wanted.keys()))):
        if isinstance(found, str):
            damaged[chunk] = found
        elif found.items != sizes[chunk]:
            damaged[chunk] = f"{name_of(chunk)} holds {found.items} of its {sizes[chunk]} items"
        else:
            stamps[chunk] = found
    return State(stamps, damaged, strangers)


def _footers(url: str, archive: str, chunks: Iterable[int]) -> Iterator[tuple[int, Stamp | str]]:
    def read(chunk: int) -> tuple[int, Stamp | str]:
        try:
            with opened(url, chunk, archive) as file:
                return chunk, stamp_of(file)
        except (DamagedChunkError, FileNotFoundError) as error:
            return chunk, str(error)

    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read, chunks)


def leftovers(strangers: Iterable[str]) -> list[str]:
    """Files that a killed writer left: its neighbours' names, never a chunk's."""
    return [name for name in strangers if name.rpartition("/")[2].startswith(".") and name.endswith(".tmp")]
