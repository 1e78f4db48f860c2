"""PyHealth's `TorchvisionModel`, which takes batches by keyword, and its `Trainer` call over `lrp_plugin.cxr.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation
from torch.utils.data import DataLoader

from lrp_plugin import cxr
from lrp_plugin.images import IGNORED
from lrp_plugin.images.splits import known
from lrp_plugin.kinds import checked


class TorchvisionModel(nn.Module):
    """A classifier of `lrp_plugin.cxr.build_model` for the dataset's classes, which resizes and normalizes inside.

    Args:
        dataset: With ``classes`` and, perhaps, ``input_schema`` and ``output_schema`` (the names of image and label).
        model_name: One of `lrp_plugin.cxr.list_models`.
        model_config: ``weights`` (None, ``"DEFAULT"``, ...) and ``input_size``, as in `lrp_plugin.cxr.build_model`.

    Attributes:
        model: The network, pictures ``x`` ``(N, 1 or 3, H, W)`` in [0, 1] to logits ``(N, K)``: what LRP explains.

    Raises:
        ValueError, RuntimeError: As `lrp_plugin.cxr.build_model`.
    """

    @checked
    def __init__(self, dataset: Any, model_name: str, model_config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.classes = tuple(known(dataset, "classes"))
        self.image_key = next(iter(getattr(dataset, "input_schema", {"image": ""})))
        self.label_key = next(iter(getattr(dataset, "output_schema", {"disease": ""})))
        self.model = cxr.build_model(model_name, len(self.classes), **(model_config or {}))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """Classify a batch.

        Args:
            **batch: Images ``(N, 1 or 3, H, W)`` and, if known, labels ``(N,)`` under the dataset's names (``image``,
                ``disease``); other entries are ignored. ValueError without images.

        Returns:
            ``logit`` and ``y_prob``, both ``(N, K)``; with labels also ``loss`` (mean cross entropy, nats) and
            ``y_true`` ``(N,)``.
        """
        if self.image_key not in batch:
            raise ValueError(f"the batch has {', '.join(batch) or 'nothing'}; give images as {self.image_key}=tensor")
        device = next(self.model.parameters()).device
        logit = self.model(batch[self.image_key].as_subclass(Tensor).to(device))
        result = {"logit": logit, "y_prob": logit.softmax(1)}
        if batch.get(self.label_key) is not None:
            labels = batch[self.label_key].as_subclass(Tensor).to(device)
            result |= {"loss": F.cross_entropy(logit, labels, ignore_index=IGNORED), "y_true": labels}
        return result


class Trainer(cxr.Trainer):
    """Train, evaluate and apply a `TorchvisionModel`; after training it is in evaluation mode.

    AdamW with one cycle of rates instead of PyHealth's Adam. Nothing is written unless ``output_path`` is given.
    ``evaluate`` and ``inference`` are `lrp_plugin.cxr.Trainer`'s, as is what is raised.

    Args:
        model: The model.
        checkpoint_path: Weights to begin with (``best.safetensors`` of an earlier run); CheckpointError if they do not fit.
        metrics: Names of `lrp_plugin.cxr.METRICS`; None: accuracy, f1_macro, f1_micro.
        device, enable_logging: As ``device`` and ``progress`` there.
        output_path: Folder for checkpoints and the CSV log. exp_name: Folder within it.
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
        chosen = {"monitor": monitor or "accuracy", "load_best": load_best_model_at_last, **settings}
        history = super().train(
            train_dataloader, val_dataloader, epochs=epochs, learning_rate=optimizer["lr"], **chosen
        )
        if test_dataloader is not None:
            figures = self.evaluate(test_dataloader)
            history.rows[-1].update({f"test_{name}": one for name, one in figures.items() if isinstance(one, float)})
        return history
