"""Figures of merit, by name, from torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassCohenKappa,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassSpecificity,
)

from .records import IGNORED

#: Name -> maker of the metric for K classes. Add an entry to offer another.
METRICS: dict[str, Callable[[int], Metric]] = {
    "accuracy": lambda k: MulticlassAccuracy(k, average="micro", ignore_index=IGNORED),
    "balanced_accuracy": lambda k: MulticlassAccuracy(k, average="macro", ignore_index=IGNORED),
    "f1_macro": lambda k: MulticlassF1Score(k, average="macro", ignore_index=IGNORED),
    "f1_micro": lambda k: MulticlassF1Score(k, average="micro", ignore_index=IGNORED),
    "precision_macro": lambda k: MulticlassPrecision(k, average="macro", ignore_index=IGNORED),
    "recall_macro": lambda k: MulticlassRecall(k, average="macro", ignore_index=IGNORED),
    "specificity_macro": lambda k: MulticlassSpecificity(k, average="macro", ignore_index=IGNORED),
    "cohen_kappa": lambda k: MulticlassCohenKappa(k, ignore_index=IGNORED),
    "matthews": lambda k: MulticlassMatthewsCorrCoef(k, ignore_index=IGNORED),
    "auroc": lambda k: MulticlassAUROC(k, average="none", ignore_index=IGNORED),
    "ece": lambda k: MulticlassCalibrationError(k, n_bins=15, norm="l1", ignore_index=IGNORED),
    "confusion_matrix": lambda k: MulticlassConfusionMatrix(k, ignore_index=IGNORED),
}

#: What :meth:`lrp_plugin.cxr.Trainer.evaluate` computes unless told otherwise.
DEFAULT_METRICS = ("accuracy", "f1_macro", "f1_micro", "auroc", "ece", "confusion_matrix")


class Scores:
    """Metrics and mean loss over batches, one process or several (torchmetrics gathers the states).

    Args:
        classes: class names, K of them.
        names: keys of :data:`METRICS`.
        device: where the states live.

    Raises:
        ValueError: an unknown metric.
    """

    def __init__(
        self, classes: Sequence[str], names: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(f"no metric {', '.join(unknown)}; legal are {', '.join(METRICS)}")
        self.classes, self.names = tuple(classes), tuple(names)
        needed = dict.fromkeys([*names, "confusion_matrix"])
        # No compute groups: they merge metrics that look alike after one batch, and AUROC never does.
        self._metrics = MetricCollection(
            {name: METRICS[name](len(self.classes)) for name in needed}, compute_groups=False
        ).to(device)
        self._loss = _Mean().to(device)

    def update(self, probabilities: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch.

        Args:
            probabilities: ``(N, K)``.
            labels: ``(N,)``; those equal to :data:`IGNORED` are left out.
            losses: cross entropy of each sample, ``(N,)``, nats.
        """
        kept = labels != IGNORED
        if kept.any():
            self._metrics.update(probabilities[kept].float(), labels[kept])
            self._loss.update(losses[kept].double())

    def compute(self) -> dict[str, Any]:
        """Figures so far.

        Returns:
            ``loss`` and each scalar metric as float; ``auroc`` as a dictionary of class name to float, NaN
            where the class (or any other) does not occur, with ``auroc_macro``, the mean over the classes
            that have one; ``confusion_matrix`` as an int64 tensor ``(K, K)``, rows true.
        """
        values = self._metrics.compute()
        matrix = values["confusion_matrix"].cpu()
        result: dict[str, Any] = {"loss": float(self._loss.compute())}
        for name in self.names:
            if name == "confusion_matrix":
                result[name] = matrix
            elif name == "auroc":
                support = matrix.sum(1)
                defined = (support > 0) & (support < support.sum())
                areas = torch.where(defined, values[name].cpu().double().clamp(max=1.0), torch.nan)
                result[name] = dict(zip(self.classes, areas.tolist(), strict=True))
                result["auroc_macro"] = float(areas.nanmean())
            else:
                result[name] = float(values[name])
        return result


class _Mean(Metric):
    """Mean of all values seen, in float64 (torchmetrics' own works in float32)."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values of any shape."""
        self.total = self.total + values.sum()
        self.count = self.count + values.numel()

    def compute(self) -> Tensor:
        """The mean, NaN of nothing."""
        return self.total / self.count
