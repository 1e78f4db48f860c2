"""Train, evaluate and apply a classifier of radiographs: one process or several, resumable to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lrp_plugin.pyhealth.shapes import IGNORED
from lrp_plugin.synthetic import CLASSES

from .loaders import EpochSampler
from .metrics import DEFAULT_METRICS, Scores, check_metrics
from .processes import gather, join_processes, own_device, rank_and_world
from .settings import History, TrainSettings

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer:
    """Train and evaluate one model.

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
        from .run import TrainingRun

        run = TrainingRun(self, train_loader, val_loader, TrainSettings(**settings))
        run.begin(resume)
        return run.finish()

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
        for labels, probabilities, losses in self._predictions(loader, "Evaluation"):
            scores.update(probabilities, labels, losses)
        return scores.compute()

    def inference(self, loader: DataLoader[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """Predict.

        Args:
            loader: as for :meth:`train`.

        Returns:
            True labels ``(M,)``, probabilities ``(M, K)`` and mean loss, in the loader's order, every
            process's share put together; M leaves out unreadable pictures.
        """
        batches = list(self._predictions(loader, "Inference"))
        own = [torch.cat(column).cpu() for column in zip(*batches, strict=True)]
        sharded = isinstance(loader.sampler, EpochSampler) and loader.sampler.world > 1
        shares = gather(own) if sharded else [own]
        columns = [_interleave([share[k] for share in shares]) for k in range(3)]
        kept = columns[0] != IGNORED
        labels, probabilities, losses = (column[kept] for column in columns)
        return labels.numpy(), probabilities.float().numpy(), float(losses.double().mean())

    def batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Pictures and labels of a batch, on the device.

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
        image, label = image.as_subclass(Tensor), label.as_subclass(Tensor)
        return image.to(self.device, non_blocking=True), label.to(self.device, non_blocking=True)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        dtype = _PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def bar(self, batches: Any, what: str, total: int | None = None) -> Any:
        """Wrap an iterable in a progress bar, if wanted."""
        return tqdm(batches, desc=what, total=total, disable=not self.progress, leave=False)

    def _predictions(self, loader: DataLoader[Any], what: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self.check_share(loader)
        if len(loader) == 0:
            raise ValueError("the loader has no batches: nothing to measure")
        if isinstance(loader.sampler, EpochSampler):
            loader.sampler.set_position(0)  # Training may have left it in the middle of an epoch.
        training = self.model.training
        self.model.eval()
        try:
            for batch in self.bar(loader, what):
                # Not around the loop: a suspended generator would leave its contexts on in the caller.
                with torch.no_grad(), self.autocast():
                    images, labels = self.batch(batch)
                    logits = self.model(images).float()
                    losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
                yield labels, logits.softmax(1), losses
        finally:
            self.model.train(training)

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
