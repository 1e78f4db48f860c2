"""Which picture is in which part of a run: chosen once, kept by name and content, so that no training picture is tested.

Cutting the data anew at each command would do for data that never changes; with one of 400 files removed, 56 of 80 test
pictures had been trained on.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrp_plugin.files import write_atomically
from lrp_plugin.images.errors import DataWarning
from lrp_plugin.images.labelled import LabelledImages
from lrp_plugin.images.splits import split_by_group

PARTS_FILE = "parts.json"
_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class StoredParts:
    """The parts of a run.

    Attributes:
        parts: "train", "val" and "test" to name to SHA-256 of the content, in the order of the data.
    """

    parts: Mapping[str, Mapping[str, str]]

    @classmethod
    def cut(cls, dataset: LabelledImages, seed: int) -> StoredParts:
        """Cut 70/10/20, stratified, by ``seed``; copies of one file go into one part.

        Raises:
            ValueError: A part would be empty.
        """
        contents = [dataset.content(index) for index in range(len(dataset))]
        doubled = len(contents) - len(set(contents))
        if doubled:
            told = f"{doubled} pictures of {dataset.name} are copies of others; copies are kept in one part"
            warnings.warn(told, DataWarning, stacklevel=3)
        dealt: list[list[int]] = [[], [], []]
        reason = ""
        try:
            dealt = split_by_group(dataset.labels, contents, seed=seed)
        except ValueError as error:
            reason = f"; {error}" if "n_splits" not in str(error) else ""  # in scikit-learn's own words
        if not all(dealt):
            raise ValueError(
                f"{len(dataset)} pictures are too few to train, validate and test: each part needs some (about 10 pictures "
                f"of each class){reason}"
            )
        return cls({
            part: {dataset.picture_name(index): contents[index] for index in own} for part, own in zip(_NAMES, dealt)
        })  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write ``parts.json``."""
        write_atomically(folder / PARTS_FILE, (json.dumps({"format": 1, **self.parts}, indent=0) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> StoredParts:
        """Read ``parts.json``.

        Raises:
            ValueError: It is missing or of another shape: a run of an earlier version, or a damaged one.
        """
        path = folder / PARTS_FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls({name: {str(key): str(value) for key, value in stored[name].items()} for name in _NAMES})
        except FileNotFoundError:
            raise ValueError(
                f"{folder} does not say which pictures it was trained on (no {PARTS_FILE}); train again with this version"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no list of parts of this version: {error}") from error

    def indices(self, dataset: LabelledImages, part: str, *, strict: bool = True) -> list[int]:
        """Positions in ``dataset`` of a part's pictures, found by content, whatever they are called now.

        Args:
            dataset: The run's data as it is now, or other data.
            part: "train", "val" or "test".
            strict: Raise where a picture is gone or changed, instead of a warning.

        Returns:
            Ascending positions. For other data than the run's (no name and no content in common) all are "test".

        Raises:
            ValueError: Pictures are gone or changed and ``strict``, or none is left.
        """
        home = {name: where for where in _NAMES for name in self.parts[where]}
        by_content = {content: where for where in reversed(_NAMES) for content in self.parts[where].values()}
        found: list[int] = []
        changed: list[str] = []
        new: list[str] = []
        elsewhere = 0  # pictures of other parts
        for index in range(len(dataset)):
            name = dataset.picture_name(index)
            # Hashing reads the file: other parts' pictures are believed by name.
            where = home[name] if home.get(name, part) != part else by_content.get(dataset.content(index))
            if where == part:
                found.append(index)
            elif where is None:
                (changed if name in home else new).append(name)
            else:
                elsewhere += 1
        if not (found or changed or elsewhere):
            if part != "test":
                raise ValueError(f"{dataset.name} holds none of the pictures of the run's {part} part")
            _say(dataset, f"none of the run's pictures: all {len(new)} are taken as test pictures")
            return list(range(len(dataset)))
        self._account(dataset, part, len(found), changed, new, strict)
        return found

    def _account(
        self, dataset: LabelledImages, part: str, found: int, changed: list[str], new: list[str], strict: bool
    ) -> None:
        """Raise for what is gone or changed where that is strict; warn of what is left out."""
        gone = len(self.parts[part]) - found - len(changed)
        told = [f"{len(changed)} pictures whose content changed since training ({_some(changed)})"] * bool(changed)
        told += [f"no longer {gone} of the {len(self.parts[part])} pictures of the {part} part"] * (gone > 0)
        if told and strict:
            raise ValueError(
                f"{dataset.name} holds {' and '.join(told)}: figures would not be about the run's {part} pictures. "
                "Put them back, or leave them out with --lenient"
            )
        told += [f"{len(new)} pictures that no part of the run has ({_some(new)})"] * bool(new)
        if told:
            _say(dataset, f"{' and '.join(told)}; they are left out")
        if not found:
            raise ValueError(f"{dataset.name} holds no picture of the run's {part} part")

    def by_name(self, dataset: LabelledImages, part: str) -> list[int]:
        """Positions of a part's pictures by their names alone; no file is read."""
        return [index for index in range(len(dataset)) if dataset.picture_name(index) in self.parts[part]]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _say(dataset: LabelledImages, message: str) -> None:
    warnings.warn(f"{dataset.name} holds {message}", DataWarning, stacklevel=5)
