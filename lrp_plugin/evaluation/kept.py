"""Values on disk, one file for each method and metric: a comparison that was stopped goes on where it stopped."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.files import file_stem, write_atomically

HEADER = "comparison.json"


class Kept:
    """The values of one comparison in a folder.

    Args:
        folder: Made where it is missing; None keeps nothing.
        facts: What the values depend on: data, model, settings.

    Raises:
        ValueError: The folder holds the values of another comparison; what differs is named.
    """

    def __init__(self, folder: Path | None, facts: dict[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        header = folder / HEADER
        if os.path.exists(header):  # pathlib's raises for a name too long
            held = json.loads(header.read_text())
            wrong = [
                f"{key} ({held.get(key)} there, {value} now)" for key, value in facts.items() if held.get(key) != value
            ]
            if wrong:
                raise ValueError(
                    f"{folder} holds another comparison: {'; '.join(wrong)}. Give another folder, or remove it"
                )
        else:
            write_atomically(header, json.dumps(facts, indent=1).encode())

    def get(self, method: str, metric: str) -> Any:
        """What was put there, or None."""
        if self.folder is None or not (path := self._path(method, metric)).exists():
            return None
        held = json.loads(path.read_text())
        return held["values"] if (held["method"], held["metric"]) == (method, metric) else None

    def put(self, method: str, metric: str, values: Any) -> None:
        """Writes numbers, whole or not at all."""
        if self.folder is not None:
            content = {"method": method, "metric": metric, "values": values}
            write_atomically(self._path(method, metric), json.dumps(content).encode())

    def tensor(self, method: str, metric: str) -> Tensor | None:
        """Values ``(N, ...)`` put by `put_tensor`, or None."""
        found = self.get(method, metric)
        return None if found is None else torch.tensor(_numbers(found), dtype=torch.float64)

    def put_tensor(self, method: str, metric: str, values: Tensor) -> None:
        """Writes a tensor; NaN as null."""
        self.put(method, metric, _plain(values.tolist()))

    def _path(self, method: str, metric: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{file_stem(method)}--{file_stem(metric)}.json"


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return None if math.isnan(values) else values


def _numbers(values: Any) -> Any:
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return math.nan if values is None else values
