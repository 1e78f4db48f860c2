"""PyHealth's shapes of data: patients and their examinations, a task, and its samples; given to the radiographs here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lrp_plugin import cxr, synthetic
from lrp_plugin.images import LabelledImages


@dataclass(frozen=True)
class Event:
    """One examination: its file (or ``synthetic:17``), class name, origin (empty where unknown), place in the dataset."""

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
    """One disease class per radiograph: name and kind of inputs and labels; ``size`` (pixels) resizes the pictures."""

    task_name: str = "COVID19CXRClassification"
    input_schema: dict[str, str] = field(default_factory=lambda: {"image": "image"})
    output_schema: dict[str, str] = field(default_factory=lambda: {"disease": "multiclass"})
    size: int | None = None


@dataclass(frozen=True)
class LabelProcessor:
    """Class names to labels and back."""

    label_vocab: dict[str, int]

    def process(self, name: str) -> Tensor:
        """Label of a class name, 0-d int64; KeyError where there is no such class."""
        if name not in self.label_vocab:
            raise KeyError(f"no class {name!r}; legal are {', '.join(self.label_vocab)}")
        return torch.tensor(self.label_vocab[name])


class TaskDataset(Dataset[dict[str, Any]]):
    """The samples of a task: each indexing reads one picture, nothing is kept.

    ``classes``, ``labels`` and ``patients`` are the dataset's, ``input_schema`` and ``output_schema`` the task's;
    ``output_processors["disease"].label_vocab`` is the vocabulary.
    """

    def __init__(self, dataset: Records, task: CXRClassification) -> None:
        self.dataset, self.task = dataset, task
        self.classes, self.labels, self.patients = dataset.classes, dataset.labels, dataset.patients
        self.input_schema, self.output_schema = task.input_schema, task.output_schema
        self.output_processors = {"disease": LabelProcessor(dataset.label_vocab)}
        self._resize = v2.Identity() if task.size is None else v2.Resize([task.size, task.size], antialias=True)

    @property
    def samples(self) -> TaskDataset:
        """The samples as a sequence; each is read when it is reached."""
        return self

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        """Read sample ``index``, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._resize(self.dataset[index])

    def __repr__(self) -> str:
        """Task and dataset."""
        return f"TaskDataset({self.task.task_name}, {self.dataset!r})"


class Records(LabelledImages):
    """What PyHealth's datasets can do, for a `lrp_plugin.images.LabelledImages`."""

    default_task = CXRClassification()

    def event(self, index: int) -> Event:
        """The examination at ``index``, without reading the picture."""
        index = self.position(index)
        return Event(self.path(index), self.classes[self.labels[index]], self.url(index), index)

    def get_patient(self, patient_id: str | int) -> Patient:
        """The patient of that id; KeyError where nobody has it."""
        events = tuple(self.event(index) for index, owner in enumerate(self.patients) if owner == str(patient_id))
        if not events:
            some = ", ".join(dict.fromkeys(self.patients[:3]))
            raise KeyError(f"no patient {patient_id!r} in {self.name}; ids look like {some}")
        return Patient(str(patient_id), events)

    def stats(self, show: bool = True) -> dict[str, Any]:
        """``dataset`` (name), ``patients``, ``events`` (counts) and ``classes`` (name to count); printed where ``show``."""
        counts, patients = self.class_counts(), len(set(self.patients))
        if show:
            print(f"Dataset: {self.name}\nNumber of patients: {patients}\nNumber of events: {len(self)}")
            print("\n".join(f"  {name}: {count}" for name, count in counts.items()))
        return {"dataset": self.name, "patients": patients, "events": len(self), "classes": counts}

    def set_task(self, task: CXRClassification | None = None) -> TaskDataset:
        """View the dataset as samples of ``task`` (the default task if None); nothing is read or copied."""
        return TaskDataset(self, task or self.default_task)


class COVID19CXRDataset(Records, cxr.COVID19CXRDataset):
    """`lrp_plugin.cxr.COVID19CXRDataset` with PyHealth's records and tasks."""


class SyntheticCXR(Records, synthetic.SyntheticCXR):
    """`lrp_plugin.synthetic.SyntheticCXR` with PyHealth's records and tasks."""
