"""A labelled set of pictures, read one at a time: what the radiographs of this package are."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

IGNORED = -100
"""Label of a picture that could not be read. Losses and metrics leave it out (cross entropy's own default)."""


class LabelledImages(Dataset[dict[str, Any]]):
    """Samples of ``image`` ``(C, H, W)`` in [0, 1], ``disease`` (0-d int64), masks and ``patient_id``; nothing is kept.

    Args:
        name: Of the set.
        classes: Class names; they are sorted.
        labels: Place of each picture's class among the sorted names, length N.
        patients: Patient of each picture, length N.
    """

    def __init__(self, name: str, classes: Sequence[str], labels: Sequence[int], patients: Sequence[str]) -> None:
        self.name = name
        self.classes: tuple[str, ...] = tuple(sorted(classes))
        self.labels, self.patients = list(labels), list(patients)

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read sample ``index``."""

    @abstractmethod
    def path(self, index: int) -> str:
        """The file of picture ``index``, or a name such as ``synthetic:17``."""

    def picture_name(self, index: int) -> str:
        """What picture ``index`` is called, wherever the set lies."""
        return self.path(index)

    def content(self, index: int) -> str:
        """SHA-256 of picture ``index``'s file: the same under another name, another once it was changed."""
        try:
            return hashlib.sha256(Path(self.path(index)).read_bytes()).hexdigest()
        except OSError as error:
            return f"unreadable {self.path(index)}: {error.strerror}"

    def url(self, index: int) -> str:
        """Where picture ``index`` came from, empty where nobody said."""
        return ""

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def position(self, index: int) -> int:
        """Turn an index that may be negative into one in [0, N).

        Raises:
            IndexError: It lies outside the set.
        """
        if not -len(self) <= index < len(self):
            told = f"{self.name} has {len(self)} pictures, legal are {-len(self)} to {len(self) - 1}"
            raise IndexError(f"index {index} lies outside the data: {told}")
        return index % len(self)

    @property
    def label_vocab(self) -> dict[str, int]:
        """Class name to label, in label order."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def id2label(self) -> dict[int, str]:
        """Label to class name."""
        return dict(enumerate(self.classes))

    def class_counts(self) -> dict[str, int]:
        """Pictures of each class, classes without any included."""
        counts = Counter(self.labels)
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def __repr__(self) -> str:
        """Name, size and classes."""
        return f"{type(self).__name__}({len(self)} pictures, classes {', '.join(self.classes)})"
