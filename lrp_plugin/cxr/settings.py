"""How to train, and what was measured on the way."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lrp_plugin.errors import told
from lrp_plugin.files import csv_bytes
from lrp_plugin.kinds import checked

POSITIVE, _MOST = sys.float_info.min, sys.float_info.max
_SMALLER_IS_BETTER = ("loss", "ece")


def setting(default: Any, text: str, least: float = 0, most: float = _MOST) -> Any:
    """A field of settings: its default, what it is, and what a number must be."""
    return field(default=default, metadata={"help": text, "least": least, "most": most})


@checked
@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run, under AdamW and torch's ``OneCycleLR``; each field's ``help`` says what it is.

    Raises:
        ValueError: a value is of another kind, or outside its range.
    """

    epochs: int = setting(8, "passes over the training pictures", 1)
    learning_rate: float = setting(3e-3, "learning rate at the top of the cycle", POSITIVE)
    weight_decay: float = setting(0.01, "AdamW's")
    class_weights: str | Sequence[float] | None = setting(
        None, "None, 'balanced' (N / (K n_c), of the training labels), or one positive number per class"
    )
    max_grad_norm: float | None = setting(None, "clip gradients to this norm, where a training diverges", POSITIVE)
    monitor: str = setting("accuracy", "what decides which epoch is best, a scalar of Trainer.evaluate")
    patience: int | None = setting(None, "stop after so many epochs without a better one, or never", 1)
    load_best: bool = setting(True, "put the best epoch's weights into the model at the end")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, legal = getattr(self, entry.name), entry.metadata
            if isinstance(value, (int, float)) and not legal["least"] <= value <= legal["most"]:
                low = "positive" if legal["least"] == POSITIVE else f"at least {legal['least']}"
                wanted = f"at most {legal['most']}" if legal["most"] < value < math.inf else f"finite and {low}"
                raise ValueError(f"{entry.name}={told(value)}: must be {wanted}")
        weights = self.class_weights
        if isinstance(weights, str) and weights != "balanced":
            raise ValueError(f"class_weights={told(weights)}: legal are None, 'balanced', or numbers")
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
