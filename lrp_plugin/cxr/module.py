"""One training as a LightningModule, and what a run folder keeps of it as a callback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lrp_plugin.files import write_atomically
from lrp_plugin.images import IGNORED

from .checkpoints import load_state, restore_rng_state, rng_state, save_state, save_weights
from .loaders import EpochSampler
from .metrics import Scores
from .processes import gather, rank_and_world, share_buffers, sum_over_processes
from .settings import History, TrainSettings


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Pictures and labels of a batch.

    Raises:
        TypeError: the batch is neither a dictionary with ``image`` and ``disease`` nor a pair.
    """
    if isinstance(batch, dict) and "image" in batch and "disease" in batch:
        image, label = batch["image"], batch["disease"]
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        image, label = batch
    else:
        what = f"keys {sorted(batch)}" if isinstance(batch, dict) else type(batch).__name__
        raise TypeError(f"a batch needs 'image' and 'disease', or to be a pair (images, labels); got {what}")
    # Plain tensors: a tv_tensors subclass would ride through every operation of the model.
    return image.as_subclass(Tensor), label.as_subclass(Tensor)


class Classification(pl.LightningModule):
    """Cross entropy of a classifier under AdamW; the loss is normalized over all processes.

    Optimization is manual, since Lightning's own clips inside the optimizer's closure and averages the loss over
    processes instead of over samples.

    Args:
        model: pictures ``(N, C, H, W)`` to logits ``(N, K)``.
        classes: K class names.
        metrics: keys of :data:`lrp_plugin.cxr.METRICS`, measured on the validation pictures.
        settings: how to train.
        weights: of the classes ``(K,)``, or None.
        batches: training batches an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        metrics: Sequence[str] = (),
        settings: TrainSettings | None = None,
        weights: Tensor | None = None,
        batches: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.classes, self.metrics = model, tuple(classes), tuple(metrics)
        self.settings, self.batches = settings or TrainSettings(), batches
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.sums = [0.0, 0.0]  # Of the epoch's losses, and of the weights of its samples.
        self.figures: dict[str, float] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; `training_step` sets its rate."""
        settings = self.settings
        return torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of AdamW on a batch.

        Raises:
            FloatingPointError: the loss became NaN or infinite, in any process.
        """
        images, labels = unpack(batch)
        losses = self._losses(self.model(images), labels, self.weights)
        kept = labels != IGNORED
        mass = self.weights[labels[kept]].sum() if self.weights is not None else kept.sum().float()
        total = sum_over_processes(mass.detach()).clamp(min=1e-12)
        everyone = sum_over_processes(losses.detach().sum().double())
        if not bool(torch.isfinite(everyone)):
            raise FloatingPointError(
                f"the loss became {float(everyone)} in epoch {self.current_epoch + 1}, batch {batch_idx + 1}: lower "
                f"learning_rate (now {self.settings.learning_rate:g}), set max_grad_norm, or look at the data"
            )
        self.sums = [self.sums[0] + float(everyone), self.sums[1] + float(total)]
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.settings.rate(
                self.current_epoch * self.batches + batch_idx, self.batches * self.settings.epochs
            )
        optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages the gradients over processes; the mean wanted is over samples.
        self.manual_backward(losses.sum() / total * rank_and_world()[1])
        if self.settings.max_grad_norm is not None:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            scale = 1.0 if scaler is None else scaler.get_scale()  # Gradients in half precision are still scaled.
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm * scale)
        optimizer.step()

    def on_validation_start(self) -> None:
        """One model for all processes, measured anew."""
        share_buffers(self.model)
        self.scores = Scores(self.classes, self.metrics, self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the scores."""
        labels, probabilities, losses = self.predict_step(batch, batch_idx)
        self.scores.update(probabilities, labels, losses)

    def on_validation_epoch_end(self) -> None:
        """The scalar figures, for the callbacks."""
        self.figures = {
            f"val_{name}": value for name, value in self.scores.compute().items() if isinstance(value, float)
        }
        self.log_dict(self.figures)

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels ``(N,)``, probabilities ``(N, K)`` and losses ``(N,)`` of a batch."""
        images, labels = unpack(batch)
        logits = self.model(images).float()
        return labels, logits.softmax(1), self._losses(logits, labels, None)

    @staticmethod
    def _losses(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        return F.cross_entropy(logits.float(), labels, weight=weights, reduction="none", ignore_index=IGNORED)


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all and read as plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises :class:`CheckpointError` where the disk is full; the earlier checkpoint is intact."""
        save_state(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Nothing in the file is executed."""
        return load_state(Path(path))


class Resumable:
    """A training loader that begins where a checkpoint was made, with the generators as they were.

    Args:
        loader: of :func:`get_dataloader`, or one whose order follows the global torch generator.
        module: says which epoch it is.
        batch: batches of the first epoch that are left out.
        rng: the generators' states when that epoch began and where the run continues, or None.
    """

    def __init__(self, loader: DataLoader[Any], module: Classification, batch: int, rng: Any) -> None:
        self.loader, self.module, self.batch, self.rng = loader, module, batch, rng
        self.epoch_rng: dict[str, Any] = {}

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.module.batches

    def __iter__(self) -> Iterator[Any]:
        """The batches of the present epoch that are left."""
        skipped, rng, self.batch, self.rng = self.batch, self.rng, 0, None
        if rng is not None:
            restore_rng_state(rng[0] if skipped else rng[1])
        self.epoch_rng = rng_state()
        sampler: Any = self.loader.sampler
        own = isinstance(sampler, EpochSampler)
        if own:
            sampler.set_position(self.module.current_epoch, skipped)
        batches = iter(self.loader)
        for _ in range(0 if own else skipped):
            next(batches)
        if rng is not None:
            restore_rng_state(rng[1])
        first = next(batches)
        if own:
            sampler.set_position(0)  # It may be the validation's too, and its order is drawn by now.
        yield first
        yield from batches


class RunFiles(pl.Callback):
    """The history of a run, its best weights and its checkpoints.

    Args:
        output: ``last.ckpt``, ``best.safetensors`` and ``history.csv`` go there; None keeps the best weights in memory.
        loader: the training loader.
        seed_facts: what must be the same for an exact resumption.
        history: of the epochs before, when resumed.
    """

    def __init__(self, output: Path | None, loader: Resumable, seed_facts: dict[str, Any], history: History) -> None:
        self.output, self.loader, self.seed_facts, self.history = output, loader, seed_facts, history
        self.best_weights: dict[str, Tensor] | None = None
        self.batch = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save between epochs, where asked."""
        every, done = module.settings.checkpoint_every, batch_idx + 1
        if every and (module.current_epoch * module.batches + done) % every == 0 and done < module.batches:
            self._save(trainer, done)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Close the epoch: its row, the best weights, and then the checkpoint.

        In this order: a kill between the two repeats this epoch, and finds the same best.
        """
        share_buffers(module.model)
        settings, history, epoch = module.settings, self.history, module.current_epoch + 1
        row = {
            "epoch": epoch,
            "learning_rate": module.optimizers().param_groups[0]["lr"],
            "train_loss": module.sums[0] / max(module.sums[1], 1e-12),
            **module.figures,
        }
        history.rows.append(row)
        module.sums = [0.0, 0.0]
        score = module.figures.get(f"val_{settings.monitor}")
        if score is not None and settings.better(score, history.best_score):
            history.best_epoch, history.best_score = epoch, score
            self._save_best(module, row)
        if score is not None and settings.patience is not None:
            history.stopped_early = history.epochs_since_best >= settings.patience
            trainer.should_stop = trainer.should_stop or history.stopped_early
        if self.output is not None and trainer.is_global_zero:
            write_atomically(self.output / "history.csv", history.to_csv().encode())
        self._save(trainer, 0)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what an exact resumption needs to Lightning's state."""
        now = rng_state()
        checkpoint["run"] = {
            **self.seed_facts,
            "batch": self.batch,
            "sums": list(module.sums),
            "history": asdict(self.history),
            "rng": gather((self.loader.epoch_rng if self.batch else now, now)),
        }

    def _save(self, trainer: Any, batch: int) -> None:
        self.batch = batch
        if self.output is not None:
            trainer.save_checkpoint(self.output / "last.ckpt")

    def _save_best(self, module: Classification, row: dict[str, float]) -> None:
        if self.output is None:
            self.best_weights = {name: value.detach().clone() for name, value in module.model.state_dict().items()}
        elif rank_and_world()[0] == 0:
            facts = {"classes": list(module.classes), "epoch": int(row["epoch"]), "metrics": row}
            save_weights(self.output / "best.safetensors", module.model, facts)
