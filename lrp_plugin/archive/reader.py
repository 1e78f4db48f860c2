"""Reading an archive: by id, in order, filtered; to NumPy, PyTorch, pandas, Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from lrp_plugin.archive import chunks, places
from lrp_plugin.archive.items import Plan, key_of
from lrp_plugin.archive.manifest import Manifest
from lrp_plugin.archive.rows import SCHEMA, unpacked

if TYPE_CHECKING:
    import pandas as pd

_KEPT = 64  # Footers a reader keeps.


@dataclass(frozen=True)
class Explanation:
    """One map of one item.

    Attributes:
        method, target: By what, and of which output.
        logit: The explained output.
        relevance: The sum of the map before it was pooled; logit - relevance was absorbed on the way.
        map: float32, (H, W), or (C, H, W) where channels were kept; in units of the output.
        share: Of positive relevance inside the mask, in [0, 1]; None without a mask or without positive relevance.
        row: All columns but the map.
    """

    method: str
    target: int
    logit: float
    relevance: float
    map: np.ndarray
    share: float | None
    row: dict[str, Any]


@dataclass(frozen=True)
class Explained:
    """One item of an archive.

    Attributes:
        id, source, checksum, label: Of the item.
        prediction: The greatest output, None where it failed.
        error: What went wrong, or None.
        explanations: A map for each target and method; none where it failed.
    """

    id: str
    source: str
    checksum: str | None
    label: str | None
    prediction: int | None
    error: str | None
    explanations: tuple[Explanation, ...]


class Archive:
    """An archive, open for reading; nothing but footers is read until something is asked for.

    Args:
        url: A folder or a URL.

    Raises:
        FileNotFoundError: There is no archive.

    >>> archive = Archive("maps/")
    >>> archive["patient17.png"].explanations[0].map
    >>> archive.filter(prediction=3, share=(0, 0.5)).to_pandas()
    """

    def __init__(self, url: str) -> None:
        self.url = str(url)
        self.manifest = Manifest.read(self.url)
        self.plan = Plan(self.url)
        self._footer = lru_cache(maxsize=_KEPT)(self._read_footer)

    def _read_footer(self, chunk: int) -> pq.FileMetaData:
        with chunks.opened(self.url, chunk, self.manifest.archive) as file:
            return file.metadata

    def __len__(self) -> int:
        """How many items are planned, done or not."""
        return len(self.plan)

    def __contains__(self, identifier: object) -> bool:
        """Whether the plan has the id."""
        try:
            return isinstance(identifier, str) and self.plan.find(identifier) is not None
        except KeyError:
            return False

    def __getitem__(self, identifier: str) -> Explained:
        """One item: the plan's footers say which file, the file's which row group; no other is read.

        Raises:
            KeyError: No such id, or it is not explained yet.
        """
        chunk, _ = self.plan.find(identifier)
        try:
            footer = self._footer(chunk)
        except FileNotFoundError:
            raise KeyError(f"{identifier!r} is not explained yet: lrp-plugin archive explain goes on") from None
        key = key_of(identifier)
        groups = [
            group for group in range(footer.num_row_groups) if _holds(footer.row_group(group).column(0).statistics, key)
        ]
        with chunks.opened(self.url, chunk, self.manifest.archive, footer=footer) as file:
            table = file.read_row_groups(groups)
        return explained(table.filter(pc.equal(table["id"], identifier)).to_pylist())

    def __iter__(self) -> Iterator[Explained]:
        """Every explained item, in the order of the plan, a file at a time."""
        return iter(self.filter())

    def ids(self) -> Iterator[str]:
        """Every planned id, in order."""
        return self.plan.ids()

    @property
    def done(self) -> list[int]:
        """The chunks whose file is there."""
        there = places.files_below(places.join(self.url, chunks.FOLDER))
        return [n for n in range(self.plan.chunks) if chunks.name_of(n).partition("/")[2] in there]

    def dataset(self) -> ds.Dataset:
        """All rows as a ``pyarrow.dataset``: any query, any engine that reads one."""
        located = [places.locate(places.join(self.url, chunks.name_of(chunk))) for chunk in self.done]
        if not located:
            return ds.dataset(pa.table({name: pa.array([], SCHEMA.field(name).type) for name in SCHEMA.names}))
        return ds.dataset([path for _, path in located], schema=SCHEMA, filesystem=located[0][0], format="parquet")

    def filter(
        self, *, prediction: int | Sequence[int] | None = None, target: int | Sequence[int] | None = None,
        label: str | Sequence[str] | None = None, method: str | Sequence[str] | None = None,
        share: tuple[float, float] | None = None, failed: bool | None = None, where: pc.Expression | None = None,
    ) -> Selection:  # fmt: skip
        """The rows that meet every condition given.

        Args:
            prediction, target, label, method: One value, or several of which any will do.
            share: The least and the greatest share in the mask, both included.
            failed: Only items with an error, or only those without.
            where: Any further condition on the columns (`lrp_plugin.archive.rows.SCHEMA`), as ``pyarrow.dataset``'s.
        """
        conditions = [] if where is None else [where]
        for name, wanted in (("prediction", prediction), ("target", target), ("label", label), ("method", method)):
            if wanted is not None:
                several = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
                conditions.append(ds.field(name).isin(several))
        if share is not None:
            conditions.append((ds.field("share") >= share[0]) & (ds.field("share") <= share[1]))
        if failed is not None:
            conditions.append(ds.field("error").is_valid() if failed else ds.field("error").is_null())
        condition = None
        for one in conditions:
            condition = one if condition is None else condition & one
        return Selection(self, condition)


class Selection:
    """Rows of an archive that meet a condition; read when asked for, maps only where they are wanted."""

    def __init__(self, archive: Archive, condition: pc.Expression | None) -> None:
        self.archive, self.condition = archive, condition

    def __len__(self) -> int:
        """How many rows there are (an item has one for each target and method)."""
        return self.archive.dataset().count_rows(filter=self.condition)

    def __iter__(self) -> Iterator[Explained]:
        """The items, each with those of its maps that meet the condition; a file at a time is held."""
        waiting: list[dict[str, Any]] = []
        for batch in self.archive.dataset().to_batches(filter=self.condition, **_FEW):
            for row in batch.to_pylist():
                if waiting and waiting[0]["id"] != row["id"]:
                    yield explained(waiting)
                    waiting = []
                waiting.append(row)
        if waiting:
            yield explained(waiting)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as a table; ``columns`` None: all but the maps."""
        return self.archive.dataset().to_table(columns=list(columns or _LIGHT), filter=self.condition)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows as a pandas frame; ``columns`` None: all but the maps."""
        return self.to_arrow(columns).to_pandas()

    def to_numpy(self) -> tuple[list[str], np.ndarray]:
        """Ids and maps, float32 (rows, ...); rows without a map are left out.

        Raises:
            ValueError: There are none.
        """
        table = self.archive.dataset().to_table(columns=["id", "map", "shape", "scale"], filter=self.condition)
        rows = table.filter(pc.is_valid(table["map"])).to_pylist()
        if not rows:
            raise ValueError("no row that meets the condition has a map")
        return [row["id"] for row in rows], np.stack([unpacked(row) for row in rows])

    def to_torch(self, transform: Callable[[dict[str, Any]], Any] | None = None) -> MapDataset:
        """A map-style ``torch.utils.data.Dataset`` of the rows that have a map."""
        return MapDataset(self, transform)


class MapDataset(Dataset[Any]):
    """The maps of a selection, for a ``DataLoader``: small columns are held, maps are read when asked for.

    Args:
        selection: Which rows.
        transform: Applied to each sample: a dict of ``map`` (float32 tensor), ``id``, ``method``, ``target``,
            ``prediction``, ``logit``, ``label``, ``share``; None where a row has none.
    """

    def __init__(self, selection: Selection, transform: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.archive, self.transform = selection.archive, transform
        names = ["id", "method", "target", "prediction", "logit", "label", "share"]
        condition = ds.field("map").is_valid()
        if selection.condition is not None:
            condition = condition & selection.condition
        self.table = selection.archive.dataset().to_table(columns=names, filter=condition)

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is out of range: there are {len(self)} maps")
        sample = self.table.slice(index % len(self), 1).to_pylist()[0]
        found = self.archive[sample["id"]].explanations
        same = (one for one in found if (one.method, one.target) == (sample["method"], sample["target"]))
        sample["map"] = torch.from_numpy(next(same).map)
        return self.transform(sample) if self.transform else sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "archive": self.archive.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, archive=Archive(state["archive"]))


_LIGHT = tuple(name for name in SCHEMA.names if name not in ("map", "shape", "scale"))
_FEW: dict[str, Any] = {"batch_size": 256, "batch_readahead": 2, "fragment_readahead": 1}


def explained(rows: Sequence[dict[str, Any]]) -> Explained:
    """One item from its rows."""
    first = rows[0]
    maps = tuple(
        Explanation(
            row["method"], row["target"], row["logit"], row["relevance"], unpacked(row), row["share"],
            {name: row[name] for name in _LIGHT},
        )
        for row in rows
        if row["map"] is not None
    )  # fmt: skip
    return Explained(
        first["id"], first["source"], first["checksum"], first["label"], first["prediction"], first["error"], maps
    )


def _holds(statistics: Any, key: int) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= key <= statistics.max
