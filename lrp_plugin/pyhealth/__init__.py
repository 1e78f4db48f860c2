"""PyHealth's spelling of this package: its names and calls, thin, over what is here.

A notebook written for PyHealth runs with only its imports changed::

    from lrp_plugin.pyhealth import (
        BasicGradientSaliencyMaps, COVID19CXRDataset, SaliencyVisualizer, TorchvisionModel, Trainer, UnifiedLRP,
        get_dataloader, split_by_sample,
    )

What concerns data, models and training needs the extra ``cxr`` and is imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrp_plugin.pyhealth.conservation import ConservationError, ConservationReport, ConservationValidator, LayerCheck
from lrp_plugin.pyhealth.handlers import (
    AdaptiveAvgPool2dLRPHandler,
    AvgPool2dLRPHandler,
    BatchNorm2dLRPHandler,
    Conv2dLRPHandler,
    DropoutLRPHandler,
    EmbeddingLRPHandler,
    FlattenLRPHandler,
    LinearLRPHandler,
    LRPHandlerRegistry,
    LRPLayerHandler,
    MaxPool2dLRPHandler,
    ReLULRPHandler,
    create_default_registry,
)
from lrp_plugin.pyhealth.layerwise import LayerwiseRelevancePropagation
from lrp_plugin.pyhealth.lrp import UnifiedLRP
from lrp_plugin.pyhealth.saliency import BasicGradientSaliencyMaps
from lrp_plugin.pyhealth.visualizer import SaliencyVisualizer, visualize_attribution

if TYPE_CHECKING:
    from lrp_plugin.cxr import get_dataloader, split_by_patient, split_by_sample
    from lrp_plugin.pyhealth.models import TorchvisionModel
    from lrp_plugin.pyhealth.shapes import COVID19CXRDataset, SyntheticCXR
    from lrp_plugin.pyhealth.trainer import Trainer

_LATER = {
    "COVID19CXRDataset": "lrp_plugin.pyhealth.shapes",
    "SyntheticCXR": "lrp_plugin.pyhealth.shapes",
    "get_dataloader": "lrp_plugin.cxr",
    "split_by_patient": "lrp_plugin.cxr",
    "split_by_sample": "lrp_plugin.cxr",
    "TorchvisionModel": "lrp_plugin.pyhealth.models",
    "Trainer": "lrp_plugin.pyhealth.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "BasicGradientSaliencyMaps", "AdaptiveAvgPool2dLRPHandler", "AvgPool2dLRPHandler", "BatchNorm2dLRPHandler",
    "Conv2dLRPHandler", "DropoutLRPHandler", "EmbeddingLRPHandler", "FlattenLRPHandler", "LinearLRPHandler",
    "MaxPool2dLRPHandler", "ReLULRPHandler", "ConservationValidator", "LayerwiseRelevancePropagation",
    "COVID19CXRDataset", "ConservationError", "ConservationReport", "LRPHandlerRegistry", "LRPLayerHandler",
    "LayerCheck", "SaliencyVisualizer", "SyntheticCXR", "TorchvisionModel", "Trainer", "UnifiedLRP",
    "create_default_registry", "get_dataloader", "split_by_patient", "split_by_sample", "visualize_attribution",
]  # fmt: skip
