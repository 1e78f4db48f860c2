"""How to train, what was measured on the way, and the learning-rate schedules."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1.0 - progress


#: Name -> factor on the learning rate at a progress in [0, 1] (after warm-up). A pure function of the step
#: needs no state.
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": _constant, "cosine": _cosine, "linear": _linear}

# Figures of merit that are better when smaller.
_SMALLER_IS_BETTER = ("loss", "ece")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run.

    Attributes:
        epochs: passes over the training data.
        learning_rate: AdamW's, at the top of the schedule.
        weight_decay: AdamW's.
        schedule: key of :data:`SCHEDULES`.
        warmup: share of all steps over which the rate rises linearly from 0, in [0, 1).
        class_weights: None, "balanced" (N / (K n_c), of the training labels), or one positive number per
            class.
        max_grad_norm: clip the gradient's norm to this, or None.
        monitor: figure of merit that decides which epoch is best, a scalar of ``Trainer.evaluate``.
        patience: stop after so many epochs without a better one; None never stops early.
        checkpoint_every: steps between checkpoints; None saves after each epoch only.
        load_best: put the best epoch's weights into the model at the end.
    """

    epochs: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: float = 0.1
    class_weights: str | Sequence[float] | None = None
    max_grad_norm: float | None = None
    monitor: str = "accuracy"
    patience: int | None = None
    checkpoint_every: int | None = None
    load_best: bool = True

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "patience": 1, "checkpoint_every": 1}.items():
            value = getattr(self, name)
            if value is None and name != "epochs":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"TrainSettings({name}={value!r}): must be a whole number of at least {least}")
        for name, positive in {"learning_rate": True, "weight_decay": False, "max_grad_norm": True}.items():
            value = getattr(self, name)
            if value is None and name == "max_grad_norm":
                continue
            if not _is_number(value) or not math.isfinite(value) or value < 0 or (positive and value == 0):
                legal = "positive" if positive else "at least 0"
                raise ValueError(f"TrainSettings({name}={value!r}): must be finite and {legal}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"TrainSettings(schedule={self.schedule!r}): legal are {', '.join(SCHEDULES)}")
        if not _is_number(self.warmup) or not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"TrainSettings(warmup={self.warmup!r}): a share of all steps, in [0, 1)")
        weights = self.class_weights
        if isinstance(weights, str) and weights != "balanced":
            raise ValueError(f"TrainSettings(class_weights={weights!r}): legal are None, 'balanced', or numbers")
        if weights is not None and not isinstance(weights, str):
            if not all(_is_number(weight) and math.isfinite(weight) and weight > 0 for weight in weights):
                raise ValueError(
                    f"TrainSettings(class_weights={list(weights)}): every weight must be finite and positive"
                )
            object.__setattr__(self, "class_weights", [float(weight) for weight in weights])

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``."""
        warm = int(self.warmup * steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * SCHEDULES[self.schedule]((step - warm) / max(1, steps - warm))

    def better(self, score: float, best: float | None) -> bool:
        """Whether ``score`` of the monitored figure beats ``best`` (NaN never does)."""
        if math.isnan(score):
            return False
        if best is None:
            return True
        return score < best if self.monitor in _SMALLER_IS_BETTER else score > best


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass
class History:
    """What happened, epoch by epoch.

    Attributes:
        rows: for each epoch ``epoch`` (from 1), ``learning_rate`` (of its last step), ``train_loss`` and,
            with a validation loader, ``val_`` and each scalar figure of merit.
        best_epoch: epoch (from 1) with the best monitored figure, None without validation.
        best_score: that figure.
        stopped_early: patience ran out.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    best_score: float | None = None
    stopped_early: bool = False

    @property
    def epochs_since_best(self) -> int:
        """Epochs after the best one."""
        return len(self.rows) - (self.best_epoch or 0)

    def to_csv(self) -> str:
        """The rows as CSV with a header line."""
        buffer = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """Rebuild from :func:`dataclasses.asdict`'s output."""
        return cls(**state)
