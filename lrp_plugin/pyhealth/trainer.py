"""PyHealth's `Trainer` call over `lrp_plugin.cxr.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from lrp_plugin import cxr
from lrp_plugin.pyhealth.models import TorchvisionModel


class Trainer(cxr.Trainer):
    """Train, evaluate and apply a `TorchvisionModel`; after training it is in evaluation mode.

    AdamW with one cycle of rates instead of PyHealth's Adam. Nothing is written unless ``output_path`` is given.
    ``evaluate`` and ``inference`` are `lrp_plugin.cxr.Trainer`'s.

    Args:
        model: The model.
        checkpoint_path: Weights to begin with (``best.safetensors`` of an earlier run).
        metrics: Names of `lrp_plugin.cxr.METRICS`; None: accuracy, f1_macro, f1_micro.
        device, enable_logging: As ``device`` and ``progress`` there.
        output_path: Folder for checkpoints and the CSV log. exp_name: Folder within it.

    Raises:
        CheckpointError: The weights do not fit. ValueError: As `lrp_plugin.cxr.Trainer`.
    """

    def __init__(
        self, model: TorchvisionModel, checkpoint_path: str | Path | None = None,
        metrics: Sequence[str] | None = None, device: torch.device | str | None = None, enable_logging: bool = True,
        output_path: str | Path | None = None, exp_name: str | None = None,
    ) -> None:  # fmt: skip
        if checkpoint_path is not None:
            cxr.load_weights(checkpoint_path, model.model)
        output = None if output_path is None else Path(output_path) / (exp_name or "")
        metrics = ("accuracy", "f1_macro", "f1_micro") if metrics is None else metrics
        how: dict[str, Any] = {"device": device, "output": output, "progress": enable_logging, "metrics": metrics}
        super().__init__(model.eval().model, model.classes, **how)

    def train(  # type: ignore[override]
        self, train_dataloader: DataLoader[Any], val_dataloader: DataLoader[Any] | None = None,
        test_dataloader: DataLoader[Any] | None = None, epochs: int = 5,
        optimizer_params: Mapping[str, float] | None = None, monitor: str | None = None,
        load_best_model_at_last: bool = True, **settings: Any,
    ) -> cxr.History:  # fmt: skip
        """Train; returns what happened, epoch by epoch.

        Args:
            train_dataloader, val_dataloader: As in `lrp_plugin.cxr.Trainer.train`.
            test_dataloader: Evaluated at the end; the figures come last in the history, as ``test_...``.
            optimizer_params: ``{"lr": 1e-3}``; ValueError for any other.
            monitor: Which figure decides; None: accuracy.
            load_best_model_at_last: Put the best epoch's weights into the model at the end.
            epochs, **settings: Fields of `lrp_plugin.cxr.TrainSettings` (PyHealth's ``weight_decay``, ``max_grad_norm`` and
                ``patience``, and more), and ``resume``.
        """
        optimizer = {"lr": 1e-3, **(optimizer_params or {})}
        if set(optimizer) != {"lr"}:
            raise ValueError(
                f"optimizer_params {sorted(optimizer)}: legal is 'lr'; weight_decay is an argument of train"
            )
        chosen: dict[str, Any] = {"monitor": monitor or "accuracy", "load_best": load_best_model_at_last, **settings}
        chosen |= {"epochs": epochs, "learning_rate": optimizer["lr"]}
        history = super().train(train_dataloader, val_dataloader, **chosen)
        if test_dataloader is not None:
            figures = self.evaluate(test_dataloader)
            history.rows[-1].update({f"test_{name}": one for name, one in figures.items() if isinstance(one, float)})
        return history
