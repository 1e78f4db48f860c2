"""PyHealth's shapes of data: a dataset of patients and their examinations, and the samples of a task in it.

This file imports nothing else of the package: the radiographs of `lrp_plugin.synthetic` and `lrp_plugin.cxr` have these
shapes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

#: Label of a picture that could not be read. Losses and metrics leave it out (cross entropy's own default).
IGNORED = -100


@dataclass(frozen=True)
class Event:
    """One examination.

    Attributes:
        path: The image file, or a name such as ``synthetic:17``.
        label: Class name.
        url: Where the image came from, empty where nobody said.
        index: Position in the dataset.
    """

    path: str
    label: str
    url: str
    index: int
    event_type: str = "covid19_cxr"

    @property
    def attr_dict(self) -> dict[str, str]:
        """``path``, ``url`` and ``label``, as PyHealth spells them."""
        return {"path": self.path, "url": self.url, "label": self.label}


@dataclass(frozen=True)
class Patient:
    """A patient and the examinations of theirs in the dataset."""

    patient_id: str
    events: tuple[Event, ...] = ()

    def get_events(self) -> list[Event]:
        """The examinations, in dataset order."""
        return list(self.events)


class CXRDataset(Dataset[dict[str, Any]]):
    """A labelled set of chest X-rays, read one picture at a time.

    A sample is a dictionary:

    * ``image``: ``tv_tensors.Image`` float32 ``(C, H, W)`` in [0, 1], C = 1 (mode "L") or 3 ("RGB");
    * ``disease``: 0-d ``int64`` tensor, or `IGNORED` where the picture could not be read;
    * ``lungs``: ``tv_tensors.Mask`` uint8 ``(1, H, W)``, 1 inside the lungs; all 0 where no mask is known;
    * ``patient_id``: string.

    Args:
        name: Name of the dataset.
        classes: Class names; the label of a class is its position in sorted order.
        labels: Label of each picture, length N.
        patients: Patient of each picture, length N.
    """

    def __init__(self, name: str, classes: Sequence[str], labels: Sequence[int], patients: Sequence[str]) -> None:
        self.name = name
        self.classes: tuple[str, ...] = tuple(sorted(classes))
        self.labels = list(labels)
        self.patients = list(patients)

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read sample ``index``."""

    @abstractmethod
    def event(self, index: int) -> Event:
        """The examination at ``index``, without reading the picture."""

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def position(self, index: int) -> int:
        """Turn an index that may be negative into one in [0, N).

        Raises:
            IndexError: It lies outside the dataset.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}[{index}]: legal are {-len(self)} to {len(self) - 1} ({len(self)} pictures)")
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

    def get_patient(self, patient_id: str | int) -> Patient:
        """Fetch a patient by id.

        Raises:
            KeyError: Nobody has that id.
        """
        events = tuple(self.event(index) for index, owner in enumerate(self.patients) if owner == str(patient_id))
        if not events:
            some = ", ".join(dict.fromkeys(self.patients[:3]))
            raise KeyError(f"no patient {patient_id!r} in {self.name}; ids look like {some}")
        return Patient(str(patient_id), events)

    def stats(self, show: bool = True) -> dict[str, Any]:
        """Summarize the dataset.

        Args:
            show: Print the summary too.

        Returns:
            ``dataset`` (name), ``patients``, ``events`` (counts) and ``classes`` (class name to count).
        """
        counts = self.class_counts()
        summary = {"dataset": self.name, "patients": len(set(self.patients)), "events": len(self), "classes": counts}
        if show:
            print(f"Dataset: {self.name}")
            print(f"Number of patients: {summary['patients']}")
            print(f"Number of events: {summary['events']}")
            for name, count in counts.items():
                print(f"  {name}: {count}")
        return summary

    @property
    def default_task(self) -> CXRClassification:
        """The task these pictures are for: one disease class per picture."""
        return CXRClassification()

    def set_task(self, task: CXRClassification | None = None) -> TaskDataset:
        """View the dataset as samples of ``task`` (the default task if None); nothing is read or copied."""
        return TaskDataset(self, task or self.default_task)

    def __repr__(self) -> str:
        """Name, size and classes."""
        return f"{type(self).__name__}({len(self)} pictures, classes {', '.join(self.classes)})"


@dataclass(frozen=True)
class CXRClassification:
    """One disease class per radiograph.

    Attributes:
        task_name: As PyHealth calls it.
        input_schema: Name and kind of the inputs.
        output_schema: Name and kind of the labels.
        size: Side the pictures are resized to, pixels; None keeps the dataset's.
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
            KeyError: No such class.
        """
        if name not in self.label_vocab:
            raise KeyError(f"no class {name!r}; legal are {', '.join(self.label_vocab)}")
        return torch.tensor(self.label_vocab[name])


class TaskDataset(Dataset[dict[str, Any]]):
    """The samples of a task: each indexing reads one picture, nothing is kept.

    Args:
        dataset: Where the pictures come from.
        task: The task.

    Attributes:
        classes, labels, patients: The dataset's.
        input_schema, output_schema: The task's.
        output_processors: ``output_processors["disease"].label_vocab`` is the vocabulary.
    """

    def __init__(self, dataset: CXRDataset, task: CXRClassification) -> None:
        self.dataset, self.task = dataset, task
        self.classes, self.labels, self.patients = dataset.classes, dataset.labels, dataset.patients
        self.input_schema, self.output_schema = task.input_schema, task.output_schema
        self.output_processors = {"disease": LabelProcessor(dataset.label_vocab)}
        self._resize = None if task.size is None else v2.Resize([task.size, task.size], antialias=True)

    @property
    def samples(self) -> Sequence[dict[str, Any]]:
        """The samples as a sequence; each is read when it is reached."""
        return _LazySamples(self)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read sample ``index``."""
        sample = self.dataset[index]
        return self._resize(sample) if self._resize else sample

    def event(self, index: int) -> Event:
        """The examination at ``index``, without reading the picture."""
        return self.dataset.event(index)

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
