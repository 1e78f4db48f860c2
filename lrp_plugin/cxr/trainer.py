"""Train, evaluate and apply a classifier of radiographs: one process or several, resumable to the bit."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader

from lrp_plugin.images import IGNORED
from lrp_plugin.images.loaders import EpochSampler, join_processes, rank_and_world
from lrp_plugin.images.splits import known
from lrp_plugin.synthetic import CLASSES

from .checkpoints import load_weights
from .metrics import DEFAULT_METRICS, Scores
from .module import Classification, SeededEpochs, WholeFiles
from .settings import History, TrainSettings

_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


class Trainer:
    """Train and evaluate one model, through Lightning.

    Nothing is written unless ``output`` is given; then it holds ``last.ckpt`` (everything, to resume from the last whole
    epoch), ``best.safetensors`` (weights of the best epoch) and ``history.csv``.

    Under ``torchrun`` call :func:`lrp_plugin.cxr.join_processes` first, then make loaders and trainer in
    every process. The loss is normalized over all processes and torchmetrics gathers its states, so a model
    without BatchNorm trains as in one process up to rounding; BatchNorm uses each process's own batch on
    CPUs, all processes' on CUDA.

    Args:
        model: maps pictures ``(N, C, H, W)`` to logits ``(N, K)``; it is moved to ``device``.
        classes: K class names, for the figures that are per class.
        device: None takes this process's CUDA device where there is one, else the CPU.
        output: folder for checkpoints and log, or None.
        seed: of each epoch's dropout and of loaders without a seed of their own.
        precision: "float32", "bfloat16" or (CUDA only) "float16": autocast of the forward pass.
        metrics: keys of :data:`lrp_plugin.cxr.METRICS`.
        progress: show bars (on stderr, first process only).

    Raises:
        ValueError: unknown precision or metric, or float16 without CUDA.
    """

    def __init__(
        self, model: nn.Module, classes: Sequence[str] = CLASSES, *, device: torch.device | str | None = None,
        output: str | Path | None = None, seed: int = 0, precision: str = "float32",
        metrics: Sequence[str] = DEFAULT_METRICS, progress: bool = True,
    ) -> None:  # fmt: skip
        self.rank, self.world = join_processes()
        if device is None:
            own_card = torch.cuda.is_available() and (self.world == 1 or distributed.get_backend() == "nccl")
            device = torch.device("cuda", torch.cuda.current_device()) if own_card else "cpu"
        self.device = torch.device(device)
        if precision not in _PRECISIONS:
            raise ValueError(f"Trainer(precision={precision!r}): legal are {', '.join(_PRECISIONS)}")
        if precision == "float16" and self.device.type != "cuda":
            raise ValueError("Trainer(precision='float16') needs CUDA; on this device use 'bfloat16'")
        Scores(classes, metrics)  # refuses unknown names
        self.model = model.to(self.device)
        self.classes, self.metrics = tuple(classes), tuple(metrics)
        self.output = None if output is None else Path(output)
        self.seed, self.precision, self.progress = seed, precision, progress

    def train(
        self, train_loader: DataLoader[Any], val_loader: DataLoader[Any] | None = None, *,
        resume: bool | Literal["auto"] = False, **settings: Any,
    ) -> History:  # fmt: skip
        """Train.

        Args:
            train_loader: batches with ``image`` ``(N, C, H, W)`` and ``disease`` ``(N,)``, or such pairs.
            val_loader: evaluated after each epoch; decides the best epoch and early stopping.
            resume: True continues from ``output/last.ckpt``; "auto" does so where that file exists and starts
                otherwise; False starts, and refuses to overwrite an earlier run.
            **settings: fields of :class:`TrainSettings`.

        Returns:
            What happened.

        Raises:
            ValueError: an illegal setting, class weights of another number than the classes, resume without output.
            FileExistsError: ``output`` holds a run and ``resume`` is False.
            CheckpointError: nothing to resume, a checkpoint of other settings, or a full disk.
            FloatingPointError: the loss became NaN or infinite, or the monitored figure was never a number.
        """
        chosen = TrainSettings(**settings)
        self._check(chosen, train_loader, val_loader)
        resumes = self._resumes(resume)
        weights = self._class_weights(chosen.class_weights, train_loader)
        run = {**asdict(chosen), "batches": len(train_loader), "processes": self.world}
        with nullcontext(self.output) if self.output is not None else tempfile.TemporaryDirectory() as folder:
            output = Path(folder)
            module = Classification(self.model, self.classes, self.metrics, chosen, weights, output, run)
            self._fit(module, train_loader, val_loader, output / "last.ckpt" if resumes else None)
            history = module.history
            if val_loader is not None and history.best_epoch is None:
                raise FloatingPointError(
                    f"the training diverged: {chosen.monitor} on the validation pictures was a number in none of "
                    f"{len(history.rows)} epochs, so there are no best weights. Train into another folder with a lower "
                    f"rate than learning_rate={chosen.learning_rate:g}, or with max_grad_norm=1"
                )
            if chosen.load_best and history.best_epoch is not None:
                if self.rank == 0:
                    load_weights(output / "best.safetensors", self.model)
                for tensor in self.model.state_dict().values() if self.world > 1 else ():
                    distributed.broadcast(tensor, src=0)
        self.model.eval()
        return history

    def evaluate(self, loader: DataLoader[Any], metrics: Sequence[str] | None = None) -> dict[str, Any]:
        """``loss`` (mean cross entropy, nats) and the metrics: see :meth:`lrp_plugin.cxr.metrics.Scores.compute`.

        Args:
            loader: as for :meth:`train`; under several processes each reads its share.
            metrics: keys of :data:`lrp_plugin.cxr.METRICS`; None takes the trainer's.
        """
        module = Classification(self.model, self.classes, self.metrics if metrics is None else metrics)
        self._apply("validate", module, loader, verbose=False)
        return module.result

    def inference(self, loader: DataLoader[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """True labels ``(M,)``, probabilities ``(M, K)`` and mean loss, in the loader's order.

        Every process's share is put together; M leaves out unreadable pictures.
        """
        found = self._apply("predict", Classification(self.model, self.classes), loader)
        own = [torch.cat(column).cpu() for column in zip(*found, strict=True)]
        shares: list[Any] = [own]
        if isinstance(loader.sampler, EpochSampler) and self.world > 1:
            shares = [None] * self.world
            distributed.all_gather_object(shares, own)
        # An EpochSampler deals out: process r has every world-th sample from r on.
        places = [rank + len(shares) * k for rank, share in enumerate(shares) for k in range(len(share[0]))]
        columns = [torch.cat(column)[np.argsort(places)] for column in zip(*shares, strict=True)]
        kept = columns[0] != IGNORED
        labels, probabilities, losses = (column[kept] for column in columns)
        return labels.numpy(), probabilities.float().numpy(), float(losses.double().mean())

    def _fit(self, module: Classification, loader: Any, val_loader: Any, last: Path | None) -> None:
        chosen = module.settings
        kept = ModelCheckpoint(module.output, "last", save_on_train_epoch_end=True, enable_version_counter=False)
        with self._lightning([kept], max_epochs=chosen.epochs, gradient_clip_val=chosen.max_grad_norm) as lightning:
            lightning.fit(module, SeededEpochs(loader, module, self.seed), val_loader, ckpt_path=last)
        self.model.to(self.device)

    def _apply(self, what: str, module: Classification, loader: DataLoader[Any], **options: Any) -> Any:
        self._check_loader(loader)
        modes = {part: part.training for part in self.model.modules()}
        try:
            with self._lightning() as lightning:
                return getattr(lightning, what)(module, loader, **options)
        finally:
            self.model.to(self.device)
            for part, training in modes.items():  # a frozen part's own, also where a batch could not be read
                part.training = training

    @contextmanager
    def _lightning(self, callbacks: Sequence[Callback] = (), **options: Any) -> Iterator[pl.Trainer]:
        """Lightning's trainer on this process's device, which writes and says nothing of its own."""
        cuda, alone = self.device.type == "cuda", self.world == 1
        devices: Any = [self.device.index or 0] if cuda else 1
        if not alone:
            devices = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        # On standard error, gone when done.
        bars = [RichProgressBar(leave=False, console_kwargs={"stderr": True})] if self.progress else []
        with _quiet():
            yield pl.Trainer(
                accelerator="gpu" if cuda else self.device.type,
                devices=devices,
                num_nodes=1 if alone else max(1, self.world // devices),
                strategy="auto" if alone else "ddp",
                sync_batchnorm=cuda and not alone,
                precision=_PRECISIONS[self.precision],
                callbacks=[*callbacks, *bars],
                plugins=[WholeFiles()],
                enable_progress_bar=self.progress,
                enable_model_summary=False,
                logger=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                inference_mode=False,
                enable_checkpointing=bool(callbacks),
                **options,
            )

    def _check_loader(self, loader: DataLoader[Any]) -> None:
        """Refuse an empty loader, and one made before the processes met: each would read everything."""
        if len(loader) == 0:
            raise ValueError("the loader has no batches (drop_last with too few pictures?): nothing to read")
        sampler, world = loader.sampler, rank_and_world()[1]
        if isinstance(sampler, EpochSampler) and sampler.num_replicas != world:
            raise ValueError(
                f"this loader was made for {sampler.num_replicas} process(es), there are {world}: "
                "call join_processes() before get_dataloader()"
            )

    def _check(self, settings: TrainSettings, loader: DataLoader[Any], val_loader: DataLoader[Any] | None) -> None:
        self._check_loader(loader)
        named = {"auroc": "auroc_macro"}
        scalar = ["loss", *(named.get(name, name) for name in self.metrics if name != "confusion_matrix")]
        if settings.monitor not in scalar:
            raise ValueError(f"monitor={settings.monitor!r} is not measured; legal are {', '.join(scalar)}")
        if settings.patience is not None and val_loader is None:
            raise ValueError(f"patience={settings.patience} needs a val_loader: nothing else can get worse")

    def _resumes(self, resume: bool | str) -> bool:
        """Whether the run in ``output`` goes on; refuses to write over it."""
        if self.output is None:
            if resume:
                raise ValueError(f"train(resume={resume!r}) needs Trainer(output=...): the folder of the earlier run")
            return False
        last = self.output / "last.ckpt"
        if last.exists() and not resume:
            raise FileExistsError(
                f"{last} is an earlier run's checkpoint: continue with resume=True, or choose another output"
            )
        return last.exists() if resume == "auto" else bool(resume)

    def _class_weights(self, wanted: Any, loader: DataLoader[Any]) -> Tensor | None:
        classes = self.classes
        if wanted == "balanced":
            labels = torch.tensor(known(getattr(loader.dataset, "dataset", loader.dataset), "labels"))
            counts = torch.bincount(labels[labels != IGNORED], minlength=len(classes)).float()
            # A class without samples weighs nothing, instead of infinitely much.
            wanted = torch.where(counts > 0, counts.sum() / (len(classes) * counts), 0.0)
        if wanted is not None and len(wanted) != len(classes):
            raise ValueError(f"{len(wanted)} class weights for the {len(classes)} classes {', '.join(classes)}")
        return None if wanted is None else torch.as_tensor(wanted, dtype=torch.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its remarks on machine and workers; Ctrl-C is Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in (logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        try:
            yield
        except SystemExit as error:
            # Lightning turns Ctrl-C into exit status 1 and lets the process ignore further ones.
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            if handler is not None:
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
