"""A run folder: the settings, weights and history of one training run, and how to open its data and model again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lrp_plugin.files import write_json
from lrp_plugin.images import LabelledImages
from lrp_plugin.images.loaders import InMemory, get_dataloader
from lrp_plugin.images.parts import StoredParts
from lrp_plugin.images.splits import LabelledSubset
from lrp_plugin.kinds import checked
from lrp_plugin.synthetic import Shortcut, SyntheticCXR

from .checkpoints import CheckpointError, load_model
from .folders import COVID19CXRDataset, CXRFolder, cxr_transforms
from .models import CXRClassifier, build_model
from .settings import History, TrainSettings, setting

SETTINGS_FILE = "run.json"
WEIGHTS_FILE = "best.safetensors"

#: What the demo and the reports compare unless told otherwise.
DEFAULT_METHODS = ("saliency", "epsilon", "alphabeta", "epsilon_plus_flat")


@checked
@dataclass(frozen=True)
class RunSettings(TrainSettings):
    """What decides a run's data, model and weights; kept in the run folder as JSON."""

    monitor: str = "loss"
    data: str = setting("synthetic", "'synthetic' or a folder with one subfolder for each class")
    model: str = setting("reference_cnn", "reference_cnn or any torchvision classifier")
    weights: str | None = setting(None, "pretrained weights that torchvision knows, such as DEFAULT")
    size: int = setting(128, "side of the pictures in pixels", 8, 10_000)
    count: int = setting(1200, "number of synthetic pictures", 1, 1_000_000)
    seed: int = setting(0, "of pictures, split, weights and order")
    shortcut: float | None = setting(None, "strength of a text marker planted on synthetic COVID pictures", 0, 1)
    batch_size: int = setting(32, "pictures a batch", 1)
    augment: bool = setting(False, "vary a folder's training pictures")
    lenient: bool = setting(False, "leave out broken, missing and changed pictures with a warning")
    workers: int = setting(0, "processes that read ahead")

    def save(self, folder: Path) -> None:
        """Write the settings into the run folder."""
        write_json(folder / SETTINGS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> RunSettings:
        """Read the settings of a run folder; FileNotFoundError where it holds no run, ValueError for a file not of ours."""
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no run (no {SETTINGS_FILE}): lrp-plugin cxr train --out {folder}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"it holds a {type(values).__name__} instead of names and values")
            return cls(**values)
        except (ValueError, TypeError) as error:  # json's errors and UnicodeDecodeError are ValueErrors too
            raise ValueError(f"{path} is no settings file of this version: {error}") from error


@dataclass(frozen=True)
class Parts:
    """The data of a run's settings and its three parts; ``test`` is the part that reports are about."""

    settings: RunSettings
    whole: LabelledImages
    train: Any
    val: Any
    test: LabelledSubset
    stored: StoredParts


def open_dataset(settings: RunSettings, transform: Any = None) -> LabelledImages:
    """Open the pictures of a run; raises as :class:`lrp_plugin.cxr.CXRFolder`, ``strict`` unless lenient."""
    if settings.data == "synthetic":
        shortcut = None if settings.shortcut is None else Shortcut(strength=settings.shortcut)
        return SyntheticCXR(settings.count, settings.seed, size=settings.size, shortcut=shortcut, transform=transform)
    if settings.shortcut is not None:
        raise ValueError("a shortcut can be planted on --data synthetic only: real pictures are left as they are")
    root = Path(settings.data)
    how: dict[str, Any] = {"size": settings.size, "transform": transform, "strict": not settings.lenient}
    if any((root / name).is_dir() for name in ("Lung_Opacity", "COVID")):
        return COVID19CXRDataset(root, expected=None, **how)
    return CXRFolder(root, **how)


def open_parts(settings: RunSettings, folder: Path | None = None, *, training: bool = True) -> Parts:
    """Open a run's pictures and their parts: those stored in ``folder``, or cut 70/10/20, stratified, by the run's seed.

    For ``training`` synthetic pictures are drawn once and held in memory (those of a folder are read when needed), and
    missing or changed training pictures are an error.

    Raises:
        As :func:`open_dataset`; ValueError where a part would be empty, or (unless lenient) where pictures that are
        needed are gone or changed.
    """
    whole = open_dataset(settings)
    stored = StoredParts.cut(whole, settings.seed) if folder is None else StoredParts.load(folder)

    def part(name: str, by_content: bool, strict: bool = True) -> LabelledSubset:
        if by_content and folder is not None:
            return LabelledSubset(whole, stored.indices(whole, name, strict=strict))
        return LabelledSubset(whole, stored.by_name(whole, name))

    train, val, test = part("train", training), part("val", training), part("test", True, not settings.lenient)
    if training and settings.data == "synthetic":
        return Parts(settings, whole, InMemory(train), InMemory(val), test, stored)
    if training and settings.augment:
        train = LabelledSubset(open_dataset(settings, cxr_transforms()), train.indices)
    return Parts(settings, whole, train, val, test, stored)


def train_run(
    settings: RunSettings, parts: Parts, folder: Path, *, resume: Any = False, progress: bool = True
) -> tuple[CXRClassifier, History]:
    """Train the run's model into its folder: ``run.json`` and ``parts.json`` beside what the trainer writes there.

    Arguments, what is raised and the history as :meth:`lrp_plugin.cxr.Trainer.train`, and ValueError for an unknown model,
    which comes back with the best epoch's weights, on the trainer's device.
    """
    from .module import seed_everything
    from .trainer import Trainer

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
    how = {entry.name: getattr(settings, entry.name) for entry in fields(TrainSettings)}
    return model, trainer.train(train, val, resume=resume, **how)


def open_model(folder: Path, classes: tuple[str, ...]) -> CXRClassifier:
    """The trained model of a run folder, in evaluation mode, on the CPU; CheckpointError where it does not fit the data."""
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}: its training was stopped in the first epoch, go on with lrp-plugin cxr train "
            f"--out {folder} --resume; or it diverged, train into another --out"
        )
    model, _ = load_model(folder / WEIGHTS_FILE)
    if model.num_classes != len(classes):
        raise CheckpointError(
            f"the model in {folder} knows {model.num_classes} classes, the data has {len(classes)}: "
            f"{', '.join(classes)}"
        )
    return model
