"""Which picture is in which part of a run: chosen once, kept by name and content, so that no training picture is tested.

Cutting the data anew at each command would do for data that never changes; with one of 400 files removed, 56 of 80 test
pictures had been trained on.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
            told = f"{doubled} pictures of {dataset.name} are copies of others; copies are kept in one part"
            warnings.warn(told, DataWarning, stacklevel=3)
        reason = ""
        try:
            dealt = split_by_group(dataset.labels, contents, DEFAULT_RATIOS, seed)
        except ValueError as error:
            dealt, reason = [[], [], []], f"; {error}"
        parts = {part: {names[index]: contents[index] for index in own} for part, own in zip(_NAMES, dealt)}
        if not all(parts.values()):
            raise ValueError(
                f"{len(dataset)} pictures are too few to train, validate and test: each part needs some (about 10 pictures "
                f"of each class){reason}"
            )
        return cls(parts)

    def save(self, folder: Path) -> None:
        """Write ``parts.json``."""
        write_atomically(folder / PARTS_FILE, (json.dumps({"format": 1, **self.parts}, indent=0) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> StoredParts:
        """Read ``parts.json``.

        Raises:
            ValueError: it is missing or of another shape: a run of an earlier version, or a damaged one.
        """
        path = folder / PARTS_FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            parts = {name: {str(key): str(value) for key, value in stored[name].items()} for name in _NAMES}
        except FileNotFoundError:
            raise ValueError(
                f"{folder} does not say which pictures it was trained on (no {PARTS_FILE}); train again with this version"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no list of parts of this version: {error}") from error
        return cls(parts)

    def indices(self, dataset: LabelledImages, part: str, *, strict: bool = True) -> list[int]:
        """Positions in ``dataset`` of a part's pictures, found by content, whatever they are called now.

        Args:
            dataset: the run's data as it is now, or other data.
            part: "train", "val" or "test".
            strict: raise where a picture is gone or changed, instead of a warning.

        Returns:
            Ascending positions. For other data than the run's (no name and no content in common) all are "test".

        Raises:
            ValueError: pictures are gone or changed and ``strict``, or none is left.
        """
        home = {name: where for where in _NAMES for name in self.parts[where]}
        by_content = {content: where for where in reversed(_NAMES) for content in self.parts[where].values()}
        found: list[int] = []
        changed: list[str] = []
        new: list[str] = []
        met = False
        for index in range(len(dataset)):
            name = picture_name(dataset, index)
            if home.get(name, part) != part:  # Hashing reads the file: other parts' pictures are believed by name.
                met = True
                continue
            where = by_content.get(_content(dataset, index))
            met = met or where is not None or name in home
            if where is None:
                (changed if name in home else new).append(name)
            elif where == part:
                found.append(index)
        if not met:
            if part != "test":
                raise ValueError(f"{dataset.name} holds none of the pictures of the run's {part} part")
            _say(dataset, f"none of the run's pictures: all {len(new)} are taken as test pictures")
            return list(range(len(dataset)))
        gone = len(self.parts[part]) - len(found) - len(changed)
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
        return found

    def by_name(self, dataset: LabelledImages, part: str) -> list[int]:
        """Positions of a part's pictures by their names alone; no file is read."""
        return [index for index in range(len(dataset)) if picture_name(dataset, index) in self.parts[part]]


def picture_name(dataset: LabelledImages, index: int) -> str:
    """What a picture is called in the data: its path below the data's folder, or ``synthetic:17``."""
    path = dataset.path(index)
    return Path(path).relative_to(dataset.root).as_posix() if isinstance(dataset, CXRFolder) else path


def _content(dataset: LabelledImages, index: int) -> str:
    if isinstance(dataset, SyntheticCXR):  # A picture is its seed and its position.
        recipe = f"{dataset.seed}:{index}:{dataset.images_per_patient}:{dataset.contrast}"
        return hashlib.sha256(recipe.encode()).hexdigest()
    try:
        return hashlib.sha256(Path(dataset.path(index)).read_bytes()).hexdigest()
    except OSError as error:
        return f"unreadable {dataset.path(index)}: {error.strerror}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _say(dataset: LabelledImages, message: str) -> None:
    warnings.warn(f"{dataset.name} holds {message}", DataWarning, stacklevel=4)
