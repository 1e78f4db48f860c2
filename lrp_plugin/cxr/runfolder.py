"""A run folder: the settings, weights and history of one training run, and how to open its data and model again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lrp_plugin.files import write_atomically
from lrp_plugin.pyhealth.shapes import CXRDataset
from lrp_plugin.synthetic import Shortcut, SyntheticCXR

from .checkpoints import CheckpointError, load_model
from .folders import COVID19CXRDataset, CXRFolder
from .loaders import get_dataloader
from .memory import InMemory
from .models import CXRClassifier, build_model
from .settings import History
from .splits import DEFAULT_RATIOS, CXRSubset, split_by_sample
from .trainer import Trainer, seed_everything
from .transforms import cxr_transforms

SETTINGS_FILE = "run.json"
WEIGHTS_FILE = "best.safetensors"


@dataclass(frozen=True)
class RunSettings:
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
        epochs: passes over the training data.
        batch_size: pictures a batch.
        learning_rate: AdamW's.
        augment: turn, shift and zoom the training pictures of a folder a little.
        lenient: leave out broken pictures and missing classes with a warning instead of an error.
        workers: processes that read ahead.
    """

    data: str = "synthetic"
    model: str = "reference_cnn"
    weights: str | None = None
    size: int = 128
    count: int = 1200
    seed: int = 0
    shortcut: float | None = None
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 3e-3
    augment: bool = False
    lenient: bool = False
    workers: int = 0

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
        known = {field.name for field in fields(cls)}
        try:
            values = json.loads(path.read_text())
            unknown = set(values) - known
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path} is no settings file: {error}") from error
        if not isinstance(values, dict) or unknown:
            raise ValueError(f"{path} is no settings file of this version: unknown {', '.join(sorted(unknown))}")
        return cls(**values)


@dataclass(frozen=True)
class Parts:
    """A dataset and its three parts; ``test`` is the part that reports are about."""

    whole: CXRDataset
    train: Any
    val: Any
    test: CXRSubset


def open_dataset(settings: RunSettings, transform: Any = None) -> CXRDataset:
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


def open_parts(settings: RunSettings) -> Parts:
    """Open the pictures and cut them 70/10/20, stratified, by the run's seed.

    Synthetic pictures for training are drawn once and held in memory; those of a folder are read when needed.

    Raises:
        As :func:`open_dataset`; ValueError where a part would be empty.
    """
    whole = open_dataset(settings)
    train, val, test = split_by_sample(whole, DEFAULT_RATIOS, settings.seed, stratify=True)
    if min(len(train), len(val), len(test)) == 0:
        raise ValueError(
            f"{len(whole)} pictures make {len(train)} to train, {len(val)} to validate and {len(test)} to test: "
            "each part needs some (about 10 pictures of each class)"
        )
    if settings.data == "synthetic":
        return Parts(whole, InMemory(train), InMemory(val), test)
    if settings.augment:
        train = CXRSubset(open_dataset(settings, cxr_transforms(train=True)), train.indices)
    return Parts(whole, train, val, test)


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
    seed_everything(settings.seed)
    model = build_model(settings.model, len(parts.whole.classes), settings.weights)
    trainer = Trainer(model, parts.whole.classes, output=folder, seed=settings.seed, progress=progress)
    loaders = [
        get_dataloader(part, settings.batch_size, shuffle, num_workers=settings.workers, seed=settings.seed)
        for part, shuffle in ((parts.train, True), (parts.val, False))
    ]
    # An earlier run keeps its settings; those of a start that came to nothing are replaced.
    if not (folder / "last.ckpt").exists():
        settings.save(folder)
    history = trainer.train(
        *loaders, resume=resume, epochs=settings.epochs, learning_rate=settings.learning_rate, monitor="loss"
    )
    return model, history


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
