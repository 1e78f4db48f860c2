"""Train, evaluate and apply a classifier of radiographs: one process or several, resumable to the bit."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lrp_plugin.images import IGNORED
from lrp_plugin.kinds import checked
from lrp_plugin.synthetic import CLASSES

from .checkpoints import CheckpointError, load_state, load_weights
from .loaders import EpochSampler
from .metrics import DEFAULT_METRICS, Scores, check_metrics
from .module import Classification, Resumable, RunFiles, WholeFiles
from .processes import gather, join_processes, own_device, rank_and_world
from .quiet_trainer import QuietTrainer, StderrBar
from .settings import History, TrainSettings
from .splits import known

_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


class Trainer:
    """Train and evaluate one model, through Lightning.

    Nothing is written unless ``output`` is given; then it holds ``last.ckpt`` (everything, to resume),
    ``best.safetensors`` (weights of the best epoch) and ``history.csv``.

    Under ``torchrun`` call :func:`lrp_plugin.cxr.join_processes` first, then make loaders and trainer in
    every process. The loss is normalized over all processes and torchmetrics gathers its states, so a model
    without BatchNorm trains as in one process up to rounding; BatchNorm uses each process's own batch on
    CPUs, all processes' on CUDA.

    Args:
        model: maps pictures ``(N, C, H, W)`` to logits ``(N, K)``; it is moved to ``device``.
        classes: K class names, for the figures that are per class.
        device: None takes this process's CUDA device where there is one, else the CPU.
        output: folder for checkpoints and log, or None.
        seed: of the global generators (dropout) when training starts; loaders have seeds of their own.
        precision: "float32", "bfloat16" or (CUDA only) "float16": autocast of the forward pass.
        metrics: keys of :data:`lrp_plugin.cxr.METRICS`.
        progress: show bars (on stderr, first process only).

    Raises:
        ValueError: unknown precision or metric, or float16 without CUDA.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str] = CLASSES,
        *,
        device: torch.device | str | None = None,
        output: str | Path | None = None,
        seed: int = 0,
        precision: str = "float32",
        metrics: Sequence[str] = DEFAULT_METRICS,
        progress: bool = True,
    ) -> None:
        self.rank, self.world = join_processes()
        self.device = own_device() if device is None else torch.device(device)
        if precision not in _PRECISIONS:
            raise ValueError(f"Trainer(precision={precision!r}): legal are {', '.join(_PRECISIONS)}")
        if precision == "float16" and self.device.type != "cuda":
            raise ValueError(f"precision='float16' needs CUDA, this is {self.device}; use 'bfloat16' or 'float32'")
        check_metrics(metrics)
        self.model = model.to(self.device)
        self.classes, self.metrics = tuple(classes), tuple(metrics)
        self.output = None if output is None else Path(output)
        self.seed, self.precision = seed, precision
        self.progress = progress and self.rank == 0

    def train(
        self,
        train_loader: DataLoader[Any],
        val_loader: DataLoader[Any] | None = None,
        *,
        resume: bool | Literal["auto"] = False,
        **settings: Any,
    ) -> History:
        """Train with AdamW.

        Args:
            train_loader: batches with ``image`` ``(N, C, H, W)`` and ``disease`` ``(N,)``, or such pairs.
                Exact resumption within an epoch takes a loader of :func:`get_dataloader`, or one whose
                order follows the global torch generator.
            val_loader: evaluated after each epoch; decides the best epoch and early stopping.
            resume: True continues from ``output/last.ckpt``; "auto" does so where that file exists and starts
                otherwise; False starts, and refuses to overwrite an earlier run.
            **settings: fields of :class:`TrainSettings`.

        Returns:
            What happened.

        Raises:
            ValueError: an illegal setting, class weights of another number than the classes, resume without
                output.
            FileExistsError: ``output`` holds a run and ``resume`` is False.
            CheckpointError: nothing to resume, a checkpoint of other settings, or the disk is full while
                saving.
            FloatingPointError: the loss became NaN or infinite.
        """
        chosen = TrainSettings(**settings)
        self._check(chosen, train_loader, val_loader)
        state = self._state_to_resume(resume)
        module = Classification(
            self.model,
            self.classes,
            self.metrics,
            chosen,
            self._class_weights(chosen, train_loader),
            len(train_loader),
        )
        facts = {"settings": asdict(chosen), "batches": len(train_loader), "processes": self.world}
        run: dict[str, Any] = {} if state is None else self._checked(state, facts)
        history = History.from_state(run["history"]) if run else History()
        rng = run["rng"][self.rank] if run else None
        batches = Resumable(train_loader, module, run.get("batch", 0), rng)
        module.sums = list(run.get("sums", module.sums))
        files = RunFiles(self.output, batches, facts, history)
        if not run:
            seed_everything(self.seed)
        if len(history.rows) < chosen.epochs and not history.stopped_early:
            last = self.output / "last.ckpt" if self.output is not None and run else None
            self._lightning([files], max_epochs=chosen.epochs).fit(module, batches, val_loader, ckpt_path=last)
            self.model.to(self.device)
        elif state is not None:
            self.model.load_state_dict(_own(state["state_dict"]))
        self._load_best(chosen, history, files, val_loader)
        self.model.eval()
        return history

    def evaluate(self, loader: DataLoader[Any], metrics: Sequence[str] | None = None) -> dict[str, Any]:
        """Measure the model.

        Args:
            loader: as for :meth:`train`; under several processes each reads its share.
            metrics: keys of :data:`lrp_plugin.cxr.METRICS`; None takes the trainer's.

        Returns:
            ``loss`` (mean cross entropy, nats) and the metrics, see
            :meth:`lrp_plugin.cxr.metrics.Scores.compute`.
        """
        scores = Scores(self.classes, self.metrics if metrics is None else metrics, self.device)
        for labels, probabilities, losses in self._predict(loader):
            scores.update(probabilities.to(self.device), labels.to(self.device), losses.to(self.device))
        return scores.compute()

    def inference(self, loader: DataLoader[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """Predict.

        Args:
            loader: as for :meth:`train`.

        Returns:
            True labels ``(M,)``, probabilities ``(M, K)`` and mean loss, in the loader's order, every
            process's share put together; M leaves out unreadable pictures.
        """
        own = [torch.cat(column).cpu() for column in zip(*self._predict(loader), strict=True)]
        sharded = isinstance(loader.sampler, EpochSampler) and loader.sampler.world > 1
        shares = gather(own) if sharded else [own]
        columns = [_interleave([share[k] for share in shares]) for k in range(3)]
        kept = columns[0] != IGNORED
        labels, probabilities, losses = (column[kept] for column in columns)
        return labels.numpy(), probabilities.float().numpy(), float(losses.double().mean())

    def check_share(self, loader: DataLoader[Any]) -> None:
        """Refuse a loader made before the processes met: each would read everything.

        Raises:
            ValueError: the loader's number of processes is not the present one.
        """
        sampler = loader.sampler
        if isinstance(sampler, EpochSampler) and sampler.world != rank_and_world()[1]:
            raise ValueError(
                f"this loader was made for {sampler.world} process(es), there are {rank_and_world()[1]}: "
                "call join_processes() before get_dataloader()"
            )

    # ---- inside -------------------------------------------------------------------------------------------

    def _lightning(self, callbacks: Sequence[pl.Callback] = (), **options: Any) -> QuietTrainer:
        """Lightning's trainer on this process's device, which writes and says nothing of its own."""
        cuda = self.device.type == "cuda"
        strategy: Any = "auto" if self.world == 1 else DDPStrategy(process_group_backend="nccl" if cuda else "gloo")
        devices: Any = [self.device.index or 0] if cuda and self.world == 1 else 1
        if self.world > 1:
            devices = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        return QuietTrainer(
            accelerator="gpu" if cuda else self.device.type,
            devices=devices,
            num_nodes=max(1, self.world // devices) if self.world > 1 else 1,
            strategy=strategy,
            sync_batchnorm=cuda and self.world > 1,
            precision=_PRECISIONS[self.precision],
            callbacks=[*callbacks, *([StderrBar()] if self.progress else [])],
            plugins=[WholeFiles()],
            enable_progress_bar=self.progress,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            **options,
        )

    def _predict(self, loader: DataLoader[Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
        self.check_share(loader)
        if len(loader) == 0:
            raise ValueError("the loader has no batches: nothing to measure")
        if isinstance(loader.sampler, EpochSampler):
            loader.sampler.set_position(0)  # Training may have left it in the middle of an epoch.
        training = self.model.training
        try:
            found: Any = self._lightning().predict(Classification(self.model, self.classes), loader)
        finally:
            self.model.to(self.device).train(training)
        return [tuple(column.cpu() for column in batch) for batch in found]

    def _check(self, settings: TrainSettings, loader: DataLoader[Any], val_loader: DataLoader[Any] | None) -> None:
        self.check_share(loader)
        if len(loader) == 0:
            raise ValueError("the train_loader has no batches (drop_last with too few pictures?): nothing to train on")
        measured = ["loss", *self.metrics, *(["auroc_macro"] if "auroc" in self.metrics else [])]
        scalar = [name for name in measured if name not in ("auroc", "confusion_matrix")]
        if settings.monitor not in scalar:
            raise ValueError(f"monitor={settings.monitor!r} is not measured; legal are {', '.join(scalar)}")
        if settings.patience is not None and val_loader is None:
            raise ValueError(f"patience={settings.patience} needs a val_loader: nothing else can get worse")
        if settings.checkpoint_every is not None and self.output is None:
            raise ValueError(f"checkpoint_every={settings.checkpoint_every} needs Trainer(output=...)")

    def _state_to_resume(self, resume: bool | str) -> dict[str, Any] | None:
        """The last checkpoint, where the run goes on from it."""
        if self.output is None:
            if resume:
                raise ValueError(f"train(resume={resume!r}) needs Trainer(output=...): the folder of the earlier run")
            return None
        last = self.output / "last.ckpt"
        if resume is True or (resume == "auto" and last.exists()):
            return load_state(last)
        if last.exists():
            raise FileExistsError(
                f"{last} is an earlier run's checkpoint: continue with resume=True, or choose another output"
            )
        return None

    def _checked(self, state: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
        """What the checkpoint says of its run, if that is this run."""
        where = f"{self.output}/last.ckpt"
        run: dict[str, Any] = state.get("run") or {}
        if not {"settings", "history", "rng"} <= set(run):
            raise CheckpointError(f"{where} is no checkpoint of this version: it does not say how it was trained")
        new = {**now["settings"], "batches": now["batches"], "processes": now["processes"]}
        old = {**run["settings"], "batches": run["batches"], "processes": run["processes"]}
        changed = [f"{name} {old.get(name)!r} -> {new[name]!r}" for name in new if old.get(name) != new[name]]
        if changed:
            raise CheckpointError(
                f"{where} cannot be resumed exactly, the run differs: {'; '.join(changed)}. Use the same "
                "settings, data and processes, or start in another output folder"
            )
        mine, theirs = self.model.state_dict(), _own(state["state_dict"])
        if {n: v.shape for n, v in mine.items()} != {n: v.shape for n, v in theirs.items()}:
            raise CheckpointError(f"the weights in {where} belong to another model: names or shapes differ")
        return run

    def _load_best(self, settings: TrainSettings, history: History, files: RunFiles, validated: Any) -> None:
        if validated is not None and history.best_epoch is None:
            raise FloatingPointError(
                f"the training diverged: {settings.monitor} on the validation pictures was a number in none of "
                f"{len(history.rows)} epochs, so there are no best weights. Lower learning_rate "
                f"(now {settings.learning_rate:g}), or set max_grad_norm"
            )
        if not settings.load_best or history.best_epoch is None:
            return
        if self.output is not None:
            load_weights(self.output / "best.safetensors", self.model)
        elif files.best_weights is not None:
            self.model.load_state_dict(files.best_weights)

    def _class_weights(self, settings: TrainSettings, loader: DataLoader[Any]) -> Tensor | None:
        wanted, classes = settings.class_weights, self.classes
        if wanted is None:
            return None
        if wanted == "balanced":
            labels = torch.tensor(known(getattr(loader.dataset, "dataset", loader.dataset), "labels"))
            counts = torch.bincount(labels[labels != IGNORED], minlength=len(classes)).float()
            # A class without samples weighs nothing, instead of infinitely much.
            weights = torch.where(counts > 0, counts.sum() / (len(classes) * counts), 0.0)
        else:
            weights = torch.tensor(wanted, dtype=torch.float32)
        if len(weights) != len(classes):
            raise ValueError(f"{len(weights)} class weights for the {len(classes)} classes {', '.join(classes)}")
        return weights.to(self.device)


def _own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's part of a LightningModule's state."""
    return {name.removeprefix("model."): value for name, value in state.items()}


@checked
def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _interleave(shares: list[Tensor]) -> Tensor:
    """Undo the dealing out of an :class:`EpochSampler`: process r had every world-th sample from r on."""
    whole = shares[0].new_empty((sum(len(share) for share in shares), *shares[0].shape[1:]))
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
