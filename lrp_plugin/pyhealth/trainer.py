"""PyHealth's `Trainer` call over `lrp_plugin.cxr.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lrp_plugin import cxr
from lrp_plugin.cxr.checkpoints import load_weights
from lrp_plugin.pyhealth.models import TorchvisionModel

METRICS = ("accuracy", "f1_macro", "f1_micro")


class Trainer:
    """Train, evaluate and apply a `TorchvisionModel`; it is in evaluation mode after each.

    AdamW with a cosine schedule instead of PyHealth's Adam. Nothing is written unless ``output_path`` is given.

    Args:
        model: The model.
        checkpoint_path: Weights to begin with (``best.safetensors`` of an earlier run).
        metrics: Names of `lrp_plugin.cxr.METRICS`; None: accuracy, f1_macro, f1_micro.
        device: None takes a CUDA device where there is one.
        enable_logging: Show progress bars.
        output_path: Folder for checkpoints and the CSV log.
        exp_name: Folder within ``output_path``.

    Raises:
        ValueError: An unknown metric.
        CheckpointError: The weights do not fit.
    """

    def __init__(
        self,
        model: TorchvisionModel,
        checkpoint_path: str | Path | None = None,
        metrics: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        enable_logging: bool = True,
        output_path: str | Path | None = None,
        exp_name: str | None = None,
    ) -> None:
        if checkpoint_path is not None:
            load_weights(checkpoint_path, model.model)
        output = None if output_path is None else Path(output_path) / (exp_name or "")
        self.model = model
        self.trainer = cxr.Trainer(
            model.model,
            model.classes,
            device=device,
            output=output,
            progress=enable_logging,
            metrics=METRICS if metrics is None else metrics,
        )

    def train(
        self,
        train_dataloader: DataLoader[Any],
        val_dataloader: DataLoader[Any] | None = None,
        test_dataloader: DataLoader[Any] | None = None,
        epochs: int = 5,
        optimizer_params: Mapping[str, float] | None = None,
        weight_decay: float = 0.01,
        max_grad_norm: float | None = None,
        monitor: str | None = None,
        load_best_model_at_last: bool = True,
        patience: int | None = None,
        **settings: Any,
    ) -> cxr.History:
        """Train.

        Args:
            train_dataloader: Batches with ``image`` and ``disease``.
            val_dataloader: Decides the best epoch and early stopping.
            test_dataloader: Evaluated at the end; the figures come last in the history, as ``test_...``.
            epochs: Passes over the data.
            optimizer_params: ``{"lr": 1e-3}``.
            weight_decay: AdamW's.
            max_grad_norm: Clip the gradient's norm to this.
            monitor: Which figure decides; None: accuracy.
            load_best_model_at_last: Put the best epoch's weights into the model at the end.
            patience: Stop after so many epochs without a better one.
            **settings: Further fields of `lrp_plugin.cxr.TrainSettings`, and ``resume``.

        Returns:
            What happened, epoch by epoch.

        Raises:
            ValueError: An optimizer parameter other than ``lr``, or an illegal setting.
        """
        optimizer = {"lr": 1e-3, **(optimizer_params or {})}
        if set(optimizer) != {"lr"}:
            raise ValueError(
                f"optimizer_params {sorted(optimizer)}: legal is 'lr'; weight_decay is an argument of train"
            )
        history = self.trainer.train(
            train_dataloader,
            val_dataloader,
            epochs=epochs,
            learning_rate=optimizer["lr"],
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            monitor=monitor or "accuracy",
            load_best=load_best_model_at_last,
            patience=patience,
            **settings,
        )
        self.model.eval()
        if test_dataloader is not None:
            figures = self.evaluate(test_dataloader)
            numbers = {f"test_{name}": value for name, value in figures.items() if isinstance(value, float)}
            history.rows[-1].update(numbers)
        return history

    def evaluate(self, dataloader: DataLoader[Any]) -> dict[str, Any]:
        """Mean loss (nats) and the metrics, by name."""
        self.model.eval()
        return self.trainer.evaluate(dataloader)

    def inference(self, dataloader: DataLoader[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """True labels ``(M,)``, probabilities ``(M, K)`` and mean loss, in the loader's order."""
        self.model.eval()
        return self.trainer.inference(dataloader)
