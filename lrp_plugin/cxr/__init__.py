"""Chest X-rays: data, models, training. The attribution core never imports this.

What trains needs Lightning and is imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrp_plugin.images import IGNORED, LabelledImages
from lrp_plugin.images.errors import DataWarning
from lrp_plugin.images.loaders import EpochSampler, InMemory, get_dataloader, join_processes
from lrp_plugin.images.splits import LabelledSubset as CXRSubset
from lrp_plugin.images.splits import split_by_patient, split_by_sample
from lrp_plugin.synthetic import Shortcut, SyntheticCXR
from lrp_plugin.visualization.classes import plot_class_examples, plot_class_histogram, plot_confusion_matrix

from .checkpoints import CheckpointError, load_model, load_weights, save_weights
from .folders import (
    COVID19_COUNTS,
    COVID19CXRDataset,
    CXRFolder,
    RadiographError,
    cxr_transforms,
    read_radiograph,
)
from .metrics import DEFAULT_METRICS, METRICS
from .models import CXRClassifier, build_model, list_models
from .reference import ReferenceCNN
from .settings import History, TrainSettings

if TYPE_CHECKING:
    from .module import seed_everything
    from .trainer import Trainer

_LATER = {"Trainer": ".trainer", "seed_everything": ".module"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_LATER[name], __name__), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs {error.name}: pip install 'lrp-plugin[cxr]'") from error


__all__ = [
    "COVID19_COUNTS", "DEFAULT_METRICS", "IGNORED", "METRICS", "COVID19CXRDataset", "CXRClassifier", "CXRFolder",
    "CXRSubset", "CheckpointError", "DataWarning", "EpochSampler", "History", "InMemory", "LabelledImages",
    "RadiographError", "ReferenceCNN", "Shortcut", "SyntheticCXR", "TrainSettings", "Trainer", "build_model",
    "cxr_transforms", "get_dataloader", "join_processes", "list_models", "load_model", "load_weights",
    "plot_class_examples", "plot_class_histogram", "plot_confusion_matrix", "read_radiograph",
    "save_weights", "seed_everything", "split_by_patient", "split_by_sample",
]  # fmt: skip
