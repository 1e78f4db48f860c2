"""Lightning's trainer as a library uses it: no remarks, bars on standard error, Ctrl-C as everywhere."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.warnings import PossibleUserWarning


class QuietTrainer(pl.Trainer):
    """Lightning's trainer without its remarks on machine and workers; Ctrl-C is Ctrl-C."""

    def __init__(self, **options: Any) -> None:
        with _quiet():
            super().__init__(**options)

    def fit(self, *arguments: Any, **options: Any) -> None:
        """As Lightning's."""
        with _quiet():
            super().fit(*arguments, **options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As Lightning's."""
        with _quiet():
            return super().predict(*arguments, **options)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    handler = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*(resuming from a checkpoint|eval mode|LeafSpec).*")
        try:
            handler = signal.getsignal(signal.SIGINT)
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        except SystemExit as error:
            # Lightning turns Ctrl-C into exit status 1 and lets the process ignore further ones.
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            if handler is not None:
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


class StderrBar(TQDMProgressBar):
    """Lightning's bars on standard error, gone when done."""

    def init_train_tqdm(self) -> Tqdm:
        """The bar of an epoch."""
        return Tqdm(leave=False, dynamic_ncols=True, file=sys.stderr)

    def init_validation_tqdm(self) -> Tqdm:
        """No bar of its own."""
        return Tqdm(disable=True, file=sys.stderr)

    def init_predict_tqdm(self) -> Tqdm:
        """The bar of an evaluation."""
        return Tqdm(desc="Evaluation", leave=False, dynamic_ncols=True, file=sys.stderr)

    def on_train_epoch_start(self, trainer: Any, *rest: Any) -> None:
        """Say which of how many."""
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1} / {trainer.max_epochs}")
