"""PyHealth's shapes of data: patients and their examinations, a task, and its samples; given to the radiographs here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lrp_plugin import cxr, synthetic

if TYPE_CHECKING:
    from lrp_plugin.images import LabelledImages as _Pictures
else:
    _Pictures = object


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


class Records(_Pictures):
    """What PyHealth's datasets can do, for a `lrp_plugin.images.LabelledImages`."""

    def event(self, index: int) -> Event:
        """The examination at ``index``, without reading the picture."""
        index = self.position(index)
        return Event(self.path(index), self.classes[self.labels[index]], self.url(index), index)

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


class COVID19CXRDataset(Records, cxr.COVID19CXRDataset):
    """`lrp_plugin.cxr.COVID19CXRDataset` with PyHealth's records and tasks."""


class SyntheticCXR(Records, synthetic.SyntheticCXR):
    """`lrp_plugin.synthetic.SyntheticCXR` with PyHealth's records and tasks."""


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

    def __init__(self, dataset: Records, task: CXRClassification) -> None:
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
