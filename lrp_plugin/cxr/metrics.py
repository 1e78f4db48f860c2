"""Figures of merit, by name, from torchmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.images import IGNORED

#: Name -> class in ``torchmetrics.classification`` and its options. Add an entry to offer another. (Names,
#: not classes: torchmetrics takes seconds to import, and reading data does not need it.)
METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("MulticlassAccuracy", {"average": "micro"}),
    "balanced_accuracy": ("MulticlassAccuracy", {"average": "macro"}),
    "f1_macro": ("MulticlassF1Score", {"average": "macro"}),
    "f1_micro": ("MulticlassF1Score", {"average": "micro"}),
    "precision_macro": ("MulticlassPrecision", {"average": "macro"}),
    "recall_macro": ("MulticlassRecall", {"average": "macro"}),
    "specificity_macro": ("MulticlassSpecificity", {"average": "macro"}),
    "cohen_kappa": ("MulticlassCohenKappa", {}),
    "matthews": ("MulticlassMatthewsCorrCoef", {}),
    "auroc": ("MulticlassAUROC", {"average": "none"}),
    "ece": ("MulticlassCalibrationError", {"n_bins": 15, "norm": "l1"}),
    "confusion_matrix": ("MulticlassConfusionMatrix", {}),
}

#: What :meth:`lrp_plugin.cxr.Trainer.evaluate` computes unless told otherwise.
DEFAULT_METRICS = ("accuracy", "f1_macro", "f1_micro", "auroc", "ece", "confusion_matrix")


class Scores:
    """Metrics (keys of :data:`METRICS`; ValueError for another) and mean loss over batches, of K named classes.

    One process or several: torchmetrics gathers the states, which live on ``device``.
    """

    def __init__(self, classes: Sequence[str], names: Sequence[str], device: torch.device | str = "cpu") -> None:
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(f"no metric {', '.join(unknown)}; legal are {', '.join(METRICS)}")
        from torchmetrics import MeanMetric, MetricCollection, classification

        self.classes, self.names = tuple(classes), tuple(names)
        made: dict[str, Any] = {
            name: getattr(classification, kind)(len(self.classes), **options)
            for name, (kind, options) in METRICS.items()
            if name in (*names, "confusion_matrix")
        }
        made["loss"] = MeanMetric().set_dtype(torch.float64)
        # No compute groups: they merge metrics that look alike after one batch, and AUROC never does.
        self._metrics = MetricCollection(made, compute_groups=False).to(device)

    def update(self, probabilities: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch: probabilities ``(N, K)``, labels ``(N,)`` (`IGNORED` ones not), cross entropies ``(N,)``, nats."""
        kept = labels != IGNORED
        if kept.any():
            self._metrics.update(preds=probabilities[kept].float(), target=labels[kept], value=losses[kept].double())

    def compute(self) -> dict[str, Any]:
        """``loss`` and each scalar metric so far as float; ``confusion_matrix`` as an int64 tensor ``(K, K)``, rows true.

        ``auroc`` is a dictionary of class name to float, NaN where the class (or any other) does not occur, and
        ``auroc_macro`` the mean over the classes that have one.
        """
        with warnings.catch_warnings():
            # A class that does not occur is reported as NaN below.
            warnings.filterwarnings("ignore", message="No (positive|negative) samples in targets")
            values = {name: value.cpu() for name, value in self._metrics.compute().items()}
        support = values["confusion_matrix"].sum(1)
        result: dict[str, Any] = {"loss": float(values["loss"])}
        for name in self.names:
            if name == "auroc":
                defined = (support > 0) & (support < support.sum())
                areas = torch.where(defined, values[name].double().clamp(max=1.0), torch.nan)
                result[name] = dict(zip(self.classes, areas.tolist(), strict=True))
                result["auroc_macro"] = float(areas.nanmean())
            else:
                result[name] = values[name] if name == "confusion_matrix" else float(values[name])
        return result
