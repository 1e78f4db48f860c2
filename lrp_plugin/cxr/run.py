"""One training run: the loop, its checkpoints, and the way back from one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lrp_plugin.files import write_atomically
from lrp_plugin.pyhealth.shapes import IGNORED

from .checkpoints import (
    CheckpointError,
    load_state,
    load_weights,
    restore_rng_state,
    rng_state,
    save_state,
    save_weights,
)
from .loaders import EpochSampler
from .processes import all_succeeded, gather, share_buffers, sum_over_processes
from .settings import History, TrainSettings
from .splits import labels_of

if TYPE_CHECKING:
    from .trainer import Trainer

_FORMAT = 1


class TrainingRun:
    """State of a run: model, optimizer, position, history.

    Args:
        trainer: model, device, output, seed.
        train_loader: training batches.
        val_loader: validation batches, or None.
        settings: how to train.
    """

    def __init__(
        self,
        trainer: Trainer,
        train_loader: DataLoader[Any],
        val_loader: DataLoader[Any] | None,
        settings: TrainSettings,
    ) -> None:
        trainer.check_share(train_loader)
        self.trainer, self.loader, self.val_loader, self.settings = (
            trainer,
            train_loader,
            val_loader,
            settings,
        )
        self._check_settings()
        self.model = trainer.model
        self.weights = self._class_weights()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(trainer.device.type, enabled=trainer.precision == "float16")
        self.history = History()
        self.epoch = self.batch = 0
        self.loss_sum = self.loss_count = 0.0
        self.best_weights: dict[str, Tensor] | None = None
        sampler = train_loader.sampler
        if isinstance(sampler, EpochSampler):
            sampler.set_position(0)
        self.batches = len(train_loader)
        if self.batches == 0:
            raise ValueError("the train_loader has no batches (drop_last with too few pictures?): nothing to train on")
        self.epoch_rng: dict[str, Any] = {}

    def _check_settings(self) -> None:
        settings = self.settings
        measured = ["loss", *self.trainer.metrics]
        if "auroc" in measured:
            measured.append("auroc_macro")
        scalar = [name for name in measured if name not in ("auroc", "confusion_matrix")]
        if settings.monitor not in scalar:
            raise ValueError(f"monitor={settings.monitor!r} is not measured; legal are {', '.join(scalar)}")
        if settings.patience is not None and self.val_loader is None:
            raise ValueError(f"patience={settings.patience} needs a val_loader: nothing else can get worse")
        if settings.checkpoint_every is not None and self.trainer.output is None:
            raise ValueError(f"checkpoint_every={settings.checkpoint_every} needs Trainer(output=...)")

    # ---- the way in and out -------------------------------------------------------------------------------

    def begin(self, resume: bool | str) -> None:
        """Start anew or continue from the last checkpoint."""
        from .trainer import seed_everything

        output = self.trainer.output
        if resume and output is None:
            raise ValueError(f"train(resume={resume!r}) needs Trainer(output=...): the folder of the earlier run")
        last = None if output is None else output / "last.ckpt"
        if last is not None and last.exists() and not resume:
            raise FileExistsError(
                f"{last} is an earlier run's checkpoint: continue with resume=True, or choose another output"
            )
        if last is not None and (resume is True or (resume == "auto" and last.exists())):
            self._restore(load_state(last))
        else:
            seed_everything(self.trainer.seed)
            self.epoch_rng = rng_state()

    def finish(self) -> History:
        """Train to the end, or from where the run stands."""
        net = self._parallel()
        while self.epoch < self.settings.epochs and not self.history.stopped_early:
            self._train_epoch(net)
            share_buffers(self.model)
            self._close_epoch()
        if self.val_loader is not None and self.history.best_epoch is None:
            raise FloatingPointError(
                f"the training diverged: {self.settings.monitor} on the validation pictures was a number in none of "
                f"{self.epoch} epochs, so there are no best weights. Lower learning_rate "
                f"(now {self.settings.learning_rate:g}), or set max_grad_norm"
            )
        self._load_best()
        self.model.eval()
        return self.history

    # ---- one epoch ----------------------------------------------------------------------------------------

    def _train_epoch(self, net: nn.Module) -> None:
        self.model.train()
        steps = self.batches * self.settings.epochs
        title = f"Epoch {self.epoch + 1} / {self.settings.epochs}"
        for batch in self.trainer.bar(self._remaining_batches(), title, self.batches - self.batch):
            rate = self.settings.rate(self.epoch * self.batches + self.batch, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._step(net, *self.trainer.batch(batch))
            self.batch += 1
            every = self.settings.checkpoint_every
            if every and (self.epoch * self.batches + self.batch) % every == 0 and self.batch < self.batches:
                self._save_last()

    def _remaining_batches(self) -> Iterator[Any]:
        """Batches of this epoch from ``self.batch`` on."""
        sampler = self.loader.sampler
        if isinstance(sampler, EpochSampler):
            sampler.set_position(self.epoch, self.batch)
            yield from self.loader
            return
        # Another loader's order follows the global generator: replay the epoch's beginning, then skip.
        now = rng_state()
        if self.batch:
            restore_rng_state(self.epoch_rng)
        batches = iter(self.loader)
        for _ in range(self.batch):
            next(batches)
        if self.batch:
            restore_rng_state(now)
        yield from batches

    def _step(self, net: nn.Module, images: Tensor, labels: Tensor) -> None:
        with self.trainer.autocast():
            logits = net(images)
        losses = F.cross_entropy(logits.float(), labels, weight=self.weights, reduction="none", ignore_index=IGNORED)
        kept = labels != IGNORED
        mass = self.weights[labels[kept]].sum() if self.weights is not None else kept.sum().float()
        total = sum_over_processes(mass.detach()).clamp(min=1e-12)
        # DistributedDataParallel averages the gradients over processes; the mean wanted is over samples.
        loss = losses.sum() / total * self.trainer.world
        everyone = sum_over_processes(losses.detach().sum().double())
        if not bool(torch.isfinite(everyone)):
            raise FloatingPointError(
                f"the loss became {float(everyone)} in epoch {self.epoch + 1}, batch {self.batch + 1}: lower "
                f"learning_rate (now {self.settings.learning_rate:g}), set max_grad_norm, or look at the data"
            )
        self.loss_sum += float(everyone)
        self.loss_count += float(total)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.settings.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _close_epoch(self) -> None:
        history, settings = self.history, self.settings
        row = {
            "epoch": self.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": self.loss_sum / max(self.loss_count, 1e-12),
        }
        improved = False
        if self.val_loader is not None:
            figures = self.trainer.evaluate(self.val_loader)
            scalars = {name: value for name, value in figures.items() if isinstance(value, float)}
            row |= {f"val_{name}": value for name, value in scalars.items()}
            improved = settings.better(scalars[settings.monitor], history.best_score)
            if improved:
                history.best_epoch, history.best_score = self.epoch + 1, scalars[settings.monitor]
        history.rows.append(row)
        if self.val_loader is not None and settings.patience is not None:
            history.stopped_early = history.epochs_since_best >= settings.patience
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum = self.loss_count = 0.0
        self.epoch_rng = rng_state()
        if improved:
            self._save_best(row)
        # After the best weights: a kill between the two repeats this epoch, and finds the same best.
        self._save_last()

    # ---- checkpoints --------------------------------------------------------------------------------------

    def _save_best(self, row: dict[str, float]) -> None:
        output = self.trainer.output
        if output is None:
            weights = self.model.state_dict().items()
            self.best_weights = {name: value.detach().clone() for name, value in weights}
            return
        facts = {"classes": list(self.trainer.classes), "epoch": self.epoch, "metrics": row}
        self._in_first_process(lambda: save_weights(output / "best.safetensors", self.model, facts))

    def _save_last(self) -> None:
        output = self.trainer.output
        if output is None:
            return
        state = {
            "format": _FORMAT,
            "settings": asdict(self.settings),
            "batches": self.batches,
            "world": self.trainer.world,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "history": asdict(self.history),
            "rng": gather(rng_state()),
            "epoch_rng": gather(self.epoch_rng),
        }

        def write() -> None:
            save_state(output / "last.ckpt", state)
            if self.history.rows:
                write_atomically(output / "history.csv", self.history.to_csv().encode())

        self._in_first_process(write)

    def _in_first_process(self, write: Any) -> None:
        error: Exception | None = None
        if self.trainer.rank == 0:
            try:
                write()
            except (CheckpointError, OSError) as caught:
                error = caught
        all_succeeded(error)

    def _restore(self, state: dict[str, Any]) -> None:
        where = f"{self.trainer.output}/last.ckpt"
        if state.get("format") != _FORMAT:
            raise CheckpointError(f"{where} has format {state.get('format')!r}; this version reads {_FORMAT}")
        now = {**asdict(self.settings), "batches": self.batches, "processes": self.trainer.world}
        then = {**state["settings"], "batches": state["batches"], "processes": state["world"]}
        changed = [f"{name} {then.get(name)!r} -> {now[name]!r}" for name in now if then.get(name) != now[name]]
        if changed:
            raise CheckpointError(
                f"{where} cannot be resumed exactly, the run differs: {'; '.join(changed)}. Use the same "
                "settings, data and processes, or start in another output folder"
            )
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise CheckpointError(f"the weights in {where} belong to another model: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]
        self.history = History.from_state(state["history"])
        self.epoch_rng = state["epoch_rng"][self.trainer.rank]
        restore_rng_state(state["rng"][self.trainer.rank])

    def _load_best(self) -> None:
        if not self.settings.load_best or self.history.best_epoch is None:
            return
        if self.trainer.output is not None:
            load_weights(self.trainer.output / "best.safetensors", self.model)
        elif self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)

    # ---- set-up -------------------------------------------------------------------------------------------

    def _parallel(self) -> nn.Module:
        if self.trainer.world == 1:
            return self.model
        if self.trainer.device.type == "cuda":
            self.model = self.trainer.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
            return DistributedDataParallel(self.model, device_ids=[self.trainer.device.index])
        return DistributedDataParallel(self.model)

    def _class_weights(self) -> Tensor | None:
        wanted, classes = self.settings.class_weights, self.trainer.classes
        if wanted is None:
            return None
        if wanted == "balanced":
            dataset = getattr(self.loader.dataset, "dataset", self.loader.dataset)
            labels = torch.tensor(labels_of(dataset))
            counts = torch.bincount(labels[labels != IGNORED], minlength=len(classes)).float()
            # A class without samples weighs nothing, instead of infinitely much.
            weights = torch.where(counts > 0, counts.sum() / (len(classes) * counts), 0.0)
        else:
            weights = torch.tensor(wanted, dtype=torch.float32)
        if len(weights) != len(classes):
            raise ValueError(f"{len(weights)} class weights for the {len(classes)} classes {', '.join(classes)}")
        return weights.to(self.trainer.device)
