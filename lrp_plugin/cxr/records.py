"""What every chest X-ray dataset here has in common: labels, patients, a summary, samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

if TYPE_CHECKING:
    from .tasks import CXRClassification, TaskDataset

#: Label of a picture that could not be read. Losses and metrics leave it out (cross entropy's own default).
IGNORED = -100


@dataclass(frozen=True)
class Event:
    """One examination.

    Attributes:
        path: the image file, or a name such as ``synthetic:17``.
        label: class name.
        url: where the image came from, empty where nobody said.
        index: position in the dataset.
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
    events: tuple[Event, ...] = field(default_factory=tuple)

    def get_events(self) -> list[Event]:
        """The examinations, in dataset order."""
        return list(self.events)


class CXRDataset(Dataset[dict[str, Any]]):
    """A labelled set of chest X-rays, read one picture at a time.

    A sample is a dictionary:

    * ``image``: ``tv_tensors.Image`` float32 ``(C, H, W)`` in [0, 1], C = 1 (mode "L") or 3 ("RGB");
    * ``disease``: 0-d ``int64`` tensor, or :data:`IGNORED` where the picture could not be read;
    * ``lungs``: ``tv_tensors.Mask`` uint8 ``(1, H, W)``, 1 inside the lungs; all 0 where no mask is known;
    * ``patient_id``: string.

    Args:
        name: name of the dataset.
        classes: class names; the label of a class is its position in sorted order.
        labels: label of each picture, length N.
        patients: patient of each picture, length N.
    """

    def __init__(self, name: str, classes: Sequence[str], labels: Sequence[int], patients: Sequence[str]) -> None:
        self.name = name
        self.classes: tuple[str, ...] = tuple(sorted(classes))
        self.labels = list(labels)
        self.patients = list(patients)
        self._events_of: dict[str, list[int]] | None = None

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
            IndexError: it lies outside the dataset.
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
        counts = dict.fromkeys(self.classes, 0)
        for label in self.labels:
            counts[self.classes[label]] += 1
        return counts

    def get_patient(self, patient_id: str | int) -> Patient:
        """Fetch a patient by id.

        Raises:
            KeyError: nobody has that id.
        """
        if self._events_of is None:
            self._events_of = {}
            for index, patient in enumerate(self.patients):
                self._events_of.setdefault(patient, []).append(index)
        indices = self._events_of.get(str(patient_id))
        if indices is None:
            some = ", ".join(list(self._events_of)[:3])
            raise KeyError(f"no patient {patient_id!r} in {self.name}; ids look like {some}")
        return Patient(str(patient_id), tuple(self.event(index) for index in indices))

    def stats(self, show: bool = True) -> dict[str, Any]:
        """Summarize the dataset.

        Args:
            show: print the summary too.

        Returns:
            ``dataset`` (name), ``patients``, ``events`` (counts) and ``classes`` (class name to count).
        """
        summary: Mapping[str, Any] = {
            "dataset": self.name,
            "patients": len(set(self.patients)),
            "events": len(self),
            "classes": self.class_counts(),
        }
        if show:
            print(f"Dataset: {summary['dataset']}")
            print(f"Number of patients: {summary['patients']}")
            print(f"Number of events: {summary['events']}")
            for name, count in summary["classes"].items():
                print(f"  {name}: {count}")
        return dict(summary)

    @property
    def default_task(self) -> CXRClassification:
        """The task these pictures are for: one disease class per picture."""
        from .tasks import CXRClassification

        return CXRClassification()

    def set_task(self, task: CXRClassification | None = None) -> TaskDataset:
        """View the dataset as samples of ``task`` (the default task if None); nothing is read or copied."""
        from .tasks import TaskDataset

        return TaskDataset(self, task or self.default_task)

    def __repr__(self) -> str:
        """Name, size and classes."""
        return f"{type(self).__name__}({len(self)} pictures, classes {', '.join(self.classes)})"
