"""The task the pictures are for, and a dataset seen through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from .records import CXRDataset


@dataclass(frozen=True)
class CXRClassification:
    """One disease class per radiograph.

    Attributes:
        task_name: as PyHealth calls it.
        input_schema: name and kind of the inputs.
        output_schema: name and kind of the labels.
        size: side the pictures are resized to, pixels; None keeps the dataset's.
    """

    task_name: str = "COVID19CXRClassification"
    input_schema: dict[str, str] = field(default_factory=lambda: {"image": "image"})
    output_schema: dict[str, str] = field(default_factory=lambda: {"disease": "multiclass"})
    size: int | None = None


@dataclass(frozen=True)
class LabelProcessor:
    """Class names to labels and back."""

    label_vocab: dict[str, int]

    def process(self, name: str) -> Tensor:
        """Label of a class name, 0-d int64.

        Raises:
            KeyError: no such class.
        """
        if name not in self.label_vocab:
            raise KeyError(f"no class {name!r}; legal are {', '.join(self.label_vocab)}")
        return torch.tensor(self.label_vocab[name])


class TaskDataset(Dataset[dict[str, Any]]):
    """The samples of a task: each indexing reads one picture, nothing is kept.

    Args:
        dataset: where the pictures come from.
        task: the task.
    """

    def __init__(self, dataset: CXRDataset, task: CXRClassification) -> None:
        self.dataset, self.task = dataset, task
        self._resize = None if task.size is None else v2.Resize([task.size, task.size], antialias=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.dataset.classes

    @property
    def labels(self) -> list[int]:
        """Label of each sample, nothing read."""
        return self.dataset.labels

    @property
    def patients(self) -> list[str]:
        """Patient of each sample, nothing read."""
        return self.dataset.patients

    @property
    def samples(self) -> Sequence[dict[str, Any]]:
        """The samples as a sequence; each is read when it is reached."""
        return _LazySamples(self)

    @property
    def input_schema(self) -> dict[str, str]:
        """Name and kind of the inputs."""
        return self.task.input_schema

    @property
    def output_schema(self) -> dict[str, str]:
        """Name and kind of the labels."""
        return self.task.output_schema

    @property
    def output_processors(self) -> dict[str, LabelProcessor]:
        """``output_processors["disease"].label_vocab`` is the vocabulary."""
        return {"disease": LabelProcessor(self.dataset.label_vocab)}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read sample ``index``."""
        sample = self.dataset[index]
        return self._resize(sample) if self._resize else sample

    def __repr__(self) -> str:
        """Task and dataset."""
        return f"TaskDataset({self.task.task_name}, {self.dataset!r})"


class _LazySamples(Sequence[dict[str, Any]]):
    def __init__(self, dataset: TaskDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._dataset[i] for i in range(*index.indices(len(self)))]
        return self._dataset[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._dataset[i] for i in range(len(self)))
