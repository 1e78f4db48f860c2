"""One training as a LightningModule."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lrp_plugin.files import write_atomically
from lrp_plugin.images import IGNORED
from lrp_plugin.kinds import checked

from .checkpoints import CheckpointError, save_weights, write_whole
from .metrics import Scores
from .settings import History, TrainSettings


def unpack(batch: Any) -> tuple[Tensor, Tensor]:
    """Pictures and labels of a batch; TypeError for neither a dictionary with ``image`` and ``disease`` nor a pair."""
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
    """Cross entropy of a classifier under AdamW and one cycle; the loss is normalized over all processes.

    ``weights`` ``(K,)`` are the classes'; ``run`` is what must be the same for an exact resumption, kept in the checkpoint;
    ``best.safetensors`` and ``history.csv`` go into ``output``. The rest as in :class:`lrp_plugin.cxr.Trainer`.
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[str], metrics: Sequence[str] = (),
        settings: TrainSettings | None = None, weights: Tensor | None = None, output: Path | None = None,
        run: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.classes, self.metrics, self.output = model, tuple(classes), tuple(metrics), output
        self.settings = settings or TrainSettings()
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self.history, self.run = History(self.settings), run or {}
        self.sums = torch.zeros(2, dtype=torch.float64)  # Of the epoch's losses, and of the weights of its samples.
        self.result: dict[str, Any] = {}

    def configure_optimizers(self) -> Any:
        """AdamW, its rate a cycle over all steps: up for three tenths of them, then down to 0."""
        rate, steps = self.settings.learning_rate, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=self.settings.weight_decay)
        # Also stepped after the last one.
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean loss over all processes' samples.

        Raises:
            FloatingPointError: the loss became NaN or infinite, in any process.
        """
        images, labels = unpack(batch)
        losses = _losses(self.model(images), labels, self.weights)
        kept = labels != IGNORED
        mass = self.weights[labels[kept]].sum() if self.weights is not None else kept.sum()
        both = torch.stack([losses.detach().sum().double(), mass.double()])
        total: Tensor = self.trainer.strategy.reduce(both, reduce_op="sum").cpu()
        if not bool(torch.isfinite(total[0])):
            raise FloatingPointError(
                f"the loss became {float(total[0])} in epoch {self.current_epoch + 1}, batch {batch_idx + 1}: take a lower "
                f"rate than learning_rate={self.settings.learning_rate:g}, or max_grad_norm=1, or look at the data"
            )
        self.sums += total
        # DistributedDataParallel averages the gradients over processes; the mean wanted is over samples.
        return losses.sum() / max(float(total[1]), 1e-12) * self.trainer.world_size

    def on_validation_epoch_start(self) -> None:
        """Measured anew, and one model in all processes."""
        self._share_buffers()
        self.scores = Scores(self.classes, self.metrics, self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the scores."""
        labels, probabilities, losses = self.predict_step(batch, batch_idx)
        self.scores.update(probabilities, labels, losses)

    def on_validation_epoch_end(self) -> None:
        """The figures: all of them in ``result``, the scalar ones for Lightning's callbacks."""
        self.result = self.scores.compute()
        self.log_dict(self._scalars())

    def _scalars(self) -> dict[str, float]:
        return {f"val_{name}": value for name, value in self.result.items() if isinstance(value, float)}

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels ``(N,)``, probabilities ``(N, K)`` and losses ``(N,)`` of a batch."""
        images, labels = unpack(batch)
        logits = self.model(images).float()
        return labels, logits.softmax(1), _losses(logits, labels)

    def on_train_epoch_end(self) -> None:
        """Close the epoch: its row and the best weights; Lightning writes the checkpoint after that.

        In this order: a kill between the two repeats this epoch, and finds the same best.
        """
        self._share_buffers()
        row = {
            "epoch": self.current_epoch + 1,
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": float(self.sums[0] / self.sums[1].clamp(min=1e-12)),
            **self._scalars(),
        }
        self.sums.zero_()
        self.history.rows.append(row)
        # Not Lightning's callback: resumed, it would take an epoch more before it stops again.
        self.trainer.should_stop = self.history.stopped_early
        if self.trainer.is_global_zero and self.output is not None:
            if self.history.best_epoch == row["epoch"]:
                facts = {"classes": list(self.classes), "epoch": row["epoch"], "metrics": row}
                save_weights(self.output / "best.safetensors", self.model, facts)
            write_atomically(self.output / "history.csv", self.history.to_csv().encode())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is this run's own."""
        checkpoint.update(run=self.run, history=self.history.rows)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the epochs before; raises :class:`CheckpointError` where they are another run's."""
        old = checkpoint.get("run", {})
        changed = [f"{name} {old.get(name)!r} -> {new!r}" for name, new in self.run.items() if old.get(name) != new]
        if changed:
            raise CheckpointError(
                f"the run in {self.output} cannot be resumed exactly, it differs: {'; '.join(changed)}. Use the same "
                "settings, data and processes, or start in another output folder"
            )
        own, stored = self.state_dict(), checkpoint["state_dict"]
        if {name: own[name].shape for name in own} != {name: stored[name].shape for name in stored}:
            raise CheckpointError(f"the weights in {self.output} belong to another model: names or shapes differ")
        self.history.rows = list(checkpoint["history"])
        self.trainer.should_stop = self.history.stopped_early

    def _share_buffers(self) -> None:
        """Give every process rank 0's running statistics, so that all evaluate the same model."""
        for buffer in self.model.buffers() if self.trainer.world_size > 1 else ():
            distributed.broadcast(buffer, src=0)


def _losses(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    return F.cross_entropy(logits.float(), labels, weight=weights, reduction="none", ignore_index=IGNORED)


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all and read as plain data.

    Its own come from the folder for temporary files: to another file system that is a copy, which a full disk cuts short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises :class:`CheckpointError` where the disk is full; the earlier checkpoint is intact."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Executes nothing in the file; :class:`CheckpointError` where it is missing, broken, or more than plain data."""
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"no checkpoint at {path}: nothing to resume; train first") from None
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is no training state of this package: {error}") from error
        return state


class SeededEpochs:
    """A training loader whose every epoch begins from the epoch's own seed: order, transforms, dropout.

    So an epoch is the same whether the run came to it or was resumed there, and a checkpoint needs no generator's state.
    (Not a hook of Lightning's: it asks for the batches before or after each of them, as it comes to an epoch.)
    """

    def __init__(self, loader: DataLoader[Any], module: Classification, seed: int) -> None:
        self.loader, self.module, self.seed = loader, module, seed
        self.sampler = loader.sampler  # Lightning tells it the epoch.

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        seed_everything(self.seed + 1000 * self.module.current_epoch)
        yield from self.loader


@checked
def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (Lightning's own, in silence)."""
    pl.seed_everything(seed % 2**32, verbose=False)
