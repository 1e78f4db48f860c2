"""PyHealth's `Trainer` call over `lrp_plugin.cxr.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from lrp_plugin import cxr
from lrp_plugin.pyhealth.models import TorchvisionModel

METRICS = ("accuracy", "f1_macro", "f1_micro")


class Trainer(cxr.Trainer):
    """Train, evaluate and apply a `TorchvisionModel`; after training it is in evaluation mode.

    AdamW with one cycle of rates instead of PyHealth's Adam. Nothing is written unless ``output_path`` is given.
    ``evaluate`` and ``inference`` are `lrp_plugin.cxr.Trainer`'s.

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
        self, model: TorchvisionModel, checkpoint_path: str | Path | None = None,
        metrics: Sequence[str] | None = None, device: torch.device | str | None = None, enable_logging: bool = True,
        output_path: str | Path | None = None, exp_name: str | None = None,
    ) -> None:  # fmt: skip
        if checkpoint_path is not None:
            cxr.load_weights(checkpoint_path, model.model)
        output = None if output_path is None else Path(output_path) / (exp_name or "")
        chosen = METRICS if metrics is None else metrics
        model.eval()
        super().__init__(
            model.model, model.classes, device=device, output=output, progress=enable_logging, metrics=chosen
        )

    def train(  # type: ignore[override]
        self, train_dataloader: DataLoader[Any], val_dataloader: DataLoader[Any] | None = None,
        test_dataloader: DataLoader[Any] | None = None, epochs: int = 5,
        optimizer_params: Mapping[str, float] | None = None, monitor: str | None = None,
        load_best_model_at_last: bool = True, **settings: Any,
    ) -> cxr.History:  # fmt: skip
        """Train; returns what happened, epoch by epoch.

        Args:
            train_dataloader: Batches with ``image`` and ``disease``.
            val_dataloader: Decides the best epoch and early stopping.
            test_dataloader: Evaluated at the end; the figures come last in the history, as ``test_...``.
            epochs: Passes over the data.
            optimizer_params: ``{"lr": 1e-3}``.
            monitor: Which figure decides; None: accuracy.
            load_best_model_at_last: Put the best epoch's weights into the model at the end.
            **settings: Further fields of `lrp_plugin.cxr.TrainSettings` (PyHealth's ``weight_decay``, ``max_grad_norm`` and
                ``patience``, and more), and ``resume``.

        Raises:
            ValueError: An optimizer parameter other than ``lr``, or an illegal setting.
        """
        optimizer = {"lr": 1e-3, **(optimizer_params or {})}
        if set(optimizer) != {"lr"}:
            raise ValueError(
                f"optimizer_params {sorted(optimizer)}: legal is 'lr'; weight_decay is an argument of train"
            )
        history = super().train(
            train_dataloader, val_dataloader, epochs=epochs, learning_rate=optimizer["lr"],
            monitor=monitor or "accuracy", load_best=load_best_model_at_last, **settings,
        )  # fmt: skip
        if test_dataloader is not None:
            figures = self.evaluate(test_dataloader)
            numbers = {f"test_{name}": value for name, value in figures.items() if isinstance(value, float)}
            history.rows[-1].update(numbers)
        return history
