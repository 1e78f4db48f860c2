"""Chest X-rays: data, synthetic data, models, training. The attribution core never imports this."""

from .models import CXRClassifier, build_model, list_models
from .opacities import Shortcut
from .records import CXRDataset
from .reference import ReferenceCNN
from .synthetic import SyntheticCXR

__all__ = [
    "CXRClassifier",
    "CXRDataset",
    "ReferenceCNN",
    "Shortcut",
    "SyntheticCXR",
    "build_model",
    "list_models",
]
