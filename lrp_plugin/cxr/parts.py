"""Which picture is in which part of a run: chosen once, kept by name and content, so that no training picture is tested.

Cutting the data anew at each command would do for data that never changes; with one of 400 files removed, 56 of 80 test
pictures had been trained on.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_plugin.files import write_atomically
from lrp_plugin.images import LabelledImages
from lrp_plugin.synthetic import SyntheticCXR

from .folders import CXRFolder, DataWarning
from .splits import DEFAULT_RATIOS, split_by_group

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
            ValueError: a part would be empty.
        """
        names = [picture_name(dataset, index) for index in range(len(dataset))]
        contents = [_content(dataset, index) for index in range(len(dataset))]
        doubled = len(contents) - len(set(contents))
        if doubled:
            warnings.warn(
                f"{doubled} pictures of {dataset.name} are copies of others; copies are kept in one part",
                DataWarning,
                stacklevel=3,
            )
        try:
            dealt = split_by_group(dataset.labels, contents, DEFAULT_RATIOS, seed)
        except ValueError as error:
            raise ValueError(
                f"{len(dataset)} pictures are too few to train, validate and test: each part needs some (about 10 pictures "
                f"of each class); {error}"
            ) from error
        parts = {part: {names[index]: contents[index] for index in own} for part, own in zip(_NAMES, dealt)}
        if not all(parts.values()):
            raise ValueError(f"{len(dataset)} pictures leave a part empty: each part needs some, of several pictures")
        return cls(parts)

    def save(self, folder: Path) -> None:
        """Write ``parts.json``."""
        write_atomically(folder / PARTS_FILE, (json.dumps({"format": 1, **self.parts}, indent=0) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> StoredParts:
        """Read ``parts.json``.

        Raises:
            ValueError: it is missing or not one of ours.
        """
        path = folder / PARTS_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            parts = {name: {str(key): str(value) for key, value in values[name].items()} for name in _NAMES}
        except FileNotFoundError:
            raise ValueError(
                f"{folder} does not say which pictures it was trained on (no {PARTS_FILE}), so none can be called "
                "unseen: train it again"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no list of parts of this version: {error}") from error
        return cls(parts)

    def indices(self, dataset: LabelledImages, part: str, *, strict: bool = True) -> list[int]:
        """Positions in ``dataset`` of a part's pictures, found by name, else by content.

        Args:
            dataset: the run's data as it is now, or other data.
            part: "train", "val" or "test".
            strict: raise where a picture is gone or changed, instead of a warning.

        Returns:
            Ascending positions. For other data than the run's (no name and no content in common) all are "test".

        Raises:
            ValueError: pictures are gone or changed and ``strict``, or none is left.
        """
        names = [picture_name(dataset, index) for index in range(len(dataset))]
        home = {name: where for where in _NAMES for name in self.parts[where]}
        by_content = {content: where for where in reversed(_NAMES) for content in self.parts[where].values()}
        found: dict[str, list[int]] = {name: [] for name in _NAMES}
        known = 0
        changed: list[str] = []
        new: list[str] = []
        for index, name in enumerate(names):
            stored = self.parts[home[name]][name] if name in home else None
            # Hashing reads the file: pictures of another part than the one asked for are believed by name.
            content = stored if stored is not None and home[name] != part else _content(dataset, index)
            where = by_content.get(content)
            known += where is not None
            if where is not None:
                found[where].append(index)
            else:
                (new if stored is None else changed).append(name)
        if known == 0 and not changed:
            if part != "test":
                raise ValueError(f"{dataset.name} holds none of the pictures of the run's {part} part")
            _say(dataset, f"none of the run's pictures: all {len(names)} are taken as test pictures")
            return list(range(len(names)))
        gone = len(self.parts[part]) - len(found[part]) - sum(home[name] == part for name in changed)
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
        if not found[part]:
            raise ValueError(f"{dataset.name} holds no picture of the run's {part} part")
        return found[part]

    def by_name(self, dataset: LabelledImages, part: str) -> list[int]:
        """Positions of a part's pictures by their names alone; no file is read."""
        return [index for index in range(len(dataset)) if picture_name(dataset, index) in self.parts[part]]


def picture_name(dataset: LabelledImages, index: int) -> str:
    """What a picture is called in the data: its path below the data's folder, or ``synthetic:17``."""
    path = dataset.path(index)
    return Path(path).relative_to(dataset.root).as_posix() if isinstance(dataset, CXRFolder) else path


def _content(dataset: LabelledImages, index: int) -> str:
    if isinstance(dataset, SyntheticCXR):
        # A picture is its seed and its position.
        recipe = f"{dataset.seed}:{index}:{dataset.images_per_patient}:{dataset.contrast}"
        return hashlib.sha256(recipe.encode()).hexdigest()
    try:
        with open(dataset.path(index), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        return f"unreadable {dataset.path(index)}: {error.strerror}"


def _digest(file: Any) -> str:
    """`hashlib.file_digest` of Python 3.11, for 3.10."""
    digest = hashlib.sha256()
    while block := file.read(2**18):
        digest.update(block)
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    counted = Counter(names)
    return ", ".join(list(counted)[:3]) + (", ..." if len(counted) > 3 else "")


def _say(dataset: LabelledImages, message: str) -> None:
    warnings.warn(f"{dataset.name} holds {message}", DataWarning, stacklevel=4)
