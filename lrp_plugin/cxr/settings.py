"""How to train, and what was measured on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from lrp_plugin.files import csv_bytes
from lrp_plugin.kinds import checked

_SMALLER_IS_BETTER = ("loss", "ece")


@checked
@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run, under AdamW and torch's ``OneCycleLR``.

    Attributes:
        epochs: passes over the training data.
        learning_rate: at the top of the cycle.
        weight_decay: AdamW's.
        class_weights: None, "balanced" (N / (K n_c), of the training labels), or one positive number per class.
        max_grad_norm: clip the gradient's norm to this, or None.
        monitor: figure of merit that decides which epoch is best, a scalar of ``Trainer.evaluate``.
        patience: stop after so many epochs without a better one; None never stops early.
        load_best: put the best epoch's weights into the model at the end.

    Raises:
        ValueError: a value is of another kind, or outside its range.
    """

    epochs: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    class_weights: str | Sequence[float] | None = None
    max_grad_norm: float | None = None
    monitor: str = "accuracy"
    patience: int | None = None
    load_best: bool = True

    least: ClassVar[Mapping[str, int]] = {"epochs": 1, "patience": 1}
    most: ClassVar[Mapping[str, float]] = {}

    def __post_init__(self) -> None:
        for name, value in ((entry.name, getattr(self, entry.name)) for entry in fields(self)):
            if isinstance(value, int) and value < self.least.get(name, value):
                raise ValueError(f"{name}={value!r}: must be at least {self.least[name]}")
            if isinstance(value, (int, float)) and value > self.most.get(name, math.inf):
                raise ValueError(f"{name}={value!r}: must be at most {self.most[name]}")
            positive = name in ("learning_rate", "max_grad_norm")
            if isinstance(value, (int, float)) and not (0 < value < math.inf or (value == 0 and not positive)):
                raise ValueError(f"{name}={value!r}: must be finite and {'positive' if positive else 'at least 0'}")
        weights = self.class_weights
        if isinstance(weights, str) and weights != "balanced":
            raise ValueError(f"class_weights={weights!r}: legal are None, 'balanced', or numbers")
        if weights is not None and not isinstance(weights, str):
            if not all(0 < weight < math.inf for weight in weights):
                raise ValueError(f"class_weights={list(weights)}: every weight must be finite and positive")
            object.__setattr__(self, "class_weights", [float(weight) for weight in weights])

    @property
    def mode(self) -> str:
        """Which way the monitored figure is better: "min" or "max"."""
        return "min" if self.monitor in _SMALLER_IS_BETTER else "max"


@dataclass
class History:
    """What happened, epoch by epoch.

    Attributes:
        settings: of the run.
        rows: for each epoch ``epoch`` (from 1), ``learning_rate`` (of its last step), ``train_loss`` and,
            with a validation loader, ``val_`` and each scalar figure of merit.
    """

    settings: TrainSettings
    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int | None:
        """Epoch (from 1) with the best monitored figure, the first of equals; None where none was a number."""
        name, better = f"val_{self.settings.monitor}", min if self.settings.mode == "min" else max
        known = [row for row in self.rows if not math.isnan(row.get(name, math.nan))]
        return int(better(known, key=lambda row: row[name])["epoch"]) if known else None

    @property
    def best_score(self) -> float | None:
        """The monitored figure of that epoch."""
        best = self.best_epoch
        return None if best is None else self.rows[best - 1][f"val_{self.settings.monitor}"]

    @property
    def stopped_early(self) -> bool:
        """Patience ran out."""
        patience = self.settings.patience
        return patience is not None and len(self.rows) - (self.best_epoch or 0) >= patience

    def to_csv(self) -> str:
        """The rows as CSV with a header line."""
        names: list[Any] = list(dict.fromkeys(name for row in self.rows for name in row))
        return csv_bytes([names, *([row.get(name, "") for name in names] for row in self.rows)]).decode()
