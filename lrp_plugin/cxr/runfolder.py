"""A run folder: the settings, weights and history of one training run, and how to open its data and model again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lrp_plugin.files import write_atomically
from lrp_plugin.images import LabelledImages
from lrp_plugin.synthetic import Shortcut, SyntheticCXR

from .checkpoints import CheckpointError, load_model
from .folders import COVID19CXRDataset, CXRFolder
from .loaders import get_dataloader
from .models import CXRClassifier, build_model
from .parts import StoredParts
from .settings import History, TrainSettings
from .splits import CXRSubset, InMemory
from .transforms import cxr_transforms

SETTINGS_FILE = "run.json"
WEIGHTS_FILE = "best.safetensors"

#: What the demo and the reports compare unless told otherwise.
DEFAULT_METHODS = ("saliency", "epsilon", "alphabeta", "epsilon_plus_flat")


@dataclass(frozen=True)
class RunSettings(TrainSettings):
    """What decides a run's data, model and weights; kept in the run folder as JSON.

    Attributes:
        data: ``"synthetic"``, or a folder with one subfolder for each class.
        model: a name of :func:`lrp_plugin.cxr.list_models`.
        weights: None, or what torchvision takes (``"DEFAULT"``).
        size: side of the pictures in pixels.
        count: number of synthetic pictures; ignored for a folder.
        seed: of pictures, split, weights and order.
        shortcut: strength in [0, 1] of a text marker planted on synthetic COVID pictures, or None for no
            marker.
        batch_size: pictures a batch.
        augment: turn, shift and zoom the training pictures of a folder a little.
        lenient: leave out broken pictures and missing classes with a warning instead of an error.
        workers: processes that read ahead.
    """

    monitor: str = "loss"
    data: str = "synthetic"
    model: str = "reference_cnn"
    weights: str | None = None
    size: int = 128
    count: int = 1200
    seed: int = 0
    shortcut: float | None = None
    batch_size: int = 32
    augment: bool = False
    lenient: bool = False
    workers: int = 0

    least = {**TrainSettings.least, "size": 8, "count": 1, "seed": 0, "batch_size": 1, "workers": 0}

    def save(self, folder: Path) -> None:
        """Write the settings into the run folder."""
        write_atomically(folder / SETTINGS_FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> RunSettings:
        """Read the settings of a run folder.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: the file is not one of ours.
        """
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no run (no {SETTINGS_FILE}): lrp-plugin cxr train --out {folder}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"it holds a {type(values).__name__} instead of names and values")
            unknown = set(values) - {field.name for field in fields(cls)}
            if unknown:
                raise ValueError(f"unknown {', '.join(sorted(unknown))}")
            return cls(**values)
        except ValueError as error:  # json's errors and UnicodeDecodeError are ValueErrors too.
            raise ValueError(f"{path} is no settings file of this version: {error}") from error


@dataclass(frozen=True)
class Parts:
    """A dataset and its three parts; ``test`` is the part that reports are about."""

    whole: LabelledImages
    train: Any
    val: Any
    test: CXRSubset
    stored: StoredParts


def open_dataset(settings: RunSettings, transform: Any = None) -> LabelledImages:
    """Open the pictures of a run.

    Raises:
        FileNotFoundError: the folder does not exist.
        RadiographError: it holds no pictures, or (unless lenient) a class has none.
    """
    if settings.data == "synthetic":
        shortcut = None if settings.shortcut is None else Shortcut(strength=settings.shortcut)
        return SyntheticCXR(settings.count, settings.seed, size=settings.size, shortcut=shortcut, transform=transform)
    if settings.shortcut is not None:
        raise ValueError("a shortcut can be planted on --data synthetic only: real pictures are left as they are")
    root, strict = Path(settings.data), not settings.lenient
    if any((root / name).is_dir() for name in ("Lung_Opacity", "COVID")):
        return COVID19CXRDataset(root, expected=None, size=settings.size, transform=transform, strict=strict)
    return CXRFolder(root, size=settings.size, transform=transform, strict=strict)


def open_parts(settings: RunSettings, folder: Path | None = None, *, training: bool = True) -> Parts:
    """Open the pictures and their parts.

    Args:
        settings: the run's.
        folder: a run folder whose stored parts are used; None cuts 70/10/20, stratified, by the run's seed.
        training: whether the parts are trained on: synthetic pictures for training are then drawn once and held in
            memory (those of a folder are read when needed), and missing or changed training pictures are an error.

    Raises:
        As :func:`open_dataset`; ValueError where a part would be empty, or (unless lenient) where pictures that are
        needed are gone or changed.
    """
    whole = open_dataset(settings)
    stored = StoredParts.cut(whole, settings.seed) if folder is None else StoredParts.load(folder)

    def part(name: str, by_content: bool, strict: bool = True) -> CXRSubset:
        found = stored.indices(whole, name, strict=strict) if by_content else stored.by_name(whole, name)
        return CXRSubset(whole, found)

    known = folder is not None
    train, val = (part(name, known and training) for name in ("train", "val"))
    test = part("test", known, not settings.lenient)
    if training and settings.data == "synthetic":
        return Parts(whole, InMemory(train), InMemory(val), test, stored)
    if training and settings.augment:
        train = CXRSubset(open_dataset(settings, cxr_transforms()), train.indices)
    return Parts(whole, train, val, test, stored)


def train_run(
    settings: RunSettings, parts: Parts, folder: Path, *, resume: Any = False, progress: bool = True
) -> tuple[CXRClassifier, History]:
    """Train the run's model into its folder.

    Args:
        settings: written to the folder before the first epoch.
        parts: of :func:`open_parts`.
        folder: gets ``run.json``, ``last.ckpt``, ``best.safetensors`` and ``history.csv``.
        resume: as in :meth:`lrp_plugin.cxr.Trainer.train`.
        progress: show bars.

    Returns:
        The model with the best epoch's weights, on the trainer's device, and what happened.

    Raises:
        ValueError: unknown model or illegal setting.
        FileExistsError, CheckpointError: as :meth:`lrp_plugin.cxr.Trainer.train`.
    """
    from .trainer import Trainer, seed_everything

    seed_everything(settings.seed)
    model = build_model(settings.model, len(parts.whole.classes), settings.weights)
    trainer = Trainer(model, parts.whole.classes, output=folder, seed=settings.seed, progress=progress)
    read: dict[str, Any] = {"num_workers": settings.workers, "seed": settings.seed}
    train = get_dataloader(parts.train, settings.batch_size, True, **read)
    val = get_dataloader(parts.val, settings.batch_size, **read)
    # An earlier run keeps its settings; those of a start that came to nothing are replaced.
    if not (folder / "last.ckpt").exists():
        settings.save(folder)
        parts.stored.save(folder)
    how = {field.name: getattr(settings, field.name) for field in fields(TrainSettings)}
    return model, trainer.train(train, val, resume=resume, **how)


def open_model(folder: Path, classes: tuple[str, ...]) -> CXRClassifier:
    """The trained model of a run folder, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: there are no weights, or they are for another number of classes.
    """
    model, _ = load_model(folder / WEIGHTS_FILE)
    if model.num_classes != len(classes):
        raise CheckpointError(
            f"the model in {folder} knows {model.num_classes} classes, the data has {len(classes)}: "
            f"{', '.join(classes)}"
        )
    return model
