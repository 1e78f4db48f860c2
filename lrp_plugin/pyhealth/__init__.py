"""PyHealth's spelling of this package: its names and calls, thin, over what is here.

A notebook written for PyHealth runs with only its imports changed::

    from lrp_plugin.pyhealth import (
        BasicGradientSaliencyMaps, COVID19CXRDataset, SaliencyVisualizer, TorchvisionModel, Trainer, UnifiedLRP,
        get_dataloader, split_by_sample,
    )

What concerns data, models and training needs the extra ``cxr`` and is imported when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .conservation import ConservationError, ConservationReport, ConservationValidator, LayerCheck
from .handlers import (
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
from .lrp import LayerwiseRelevancePropagation, UnifiedLRP
from .saliency import BasicGradientSaliencyMaps
from .visualizer import SaliencyVisualizer, visualize_attribution

if TYPE_CHECKING:
    from lrp_plugin.cxr import get_dataloader, split_by_patient, split_by_sample

    from .shapes import COVID19CXRDataset, SyntheticCXR
    from .training import TorchvisionModel, Trainer

_LATER = {
    ".training": ("TorchvisionModel", "Trainer"), ".shapes": ("COVID19CXRDataset", "SyntheticCXR"),
    "..cxr": ("get_dataloader", "split_by_patient", "split_by_sample"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BasicGradientSaliencyMaps", "AdaptiveAvgPool2dLRPHandler", "AvgPool2dLRPHandler", "BatchNorm2dLRPHandler",
    "Conv2dLRPHandler", "DropoutLRPHandler", "EmbeddingLRPHandler", "FlattenLRPHandler", "LinearLRPHandler",
    "MaxPool2dLRPHandler", "ReLULRPHandler", "ConservationValidator", "LayerwiseRelevancePropagation",
    "COVID19CXRDataset", "ConservationError", "ConservationReport", "LRPHandlerRegistry", "LRPLayerHandler",
    "LayerCheck", "SaliencyVisualizer", "SyntheticCXR", "TorchvisionModel", "Trainer", "UnifiedLRP",
    "create_default_registry", "get_dataloader", "split_by_patient", "split_by_sample", "visualize_attribution",
]  # fmt: skip
