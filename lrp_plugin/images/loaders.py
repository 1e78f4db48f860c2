"""Batches whose order depends on seed and epoch alone, in one process or several: the ground of exact resumption."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from lrp_plugin.images.splits import known
from lrp_plugin.kinds import checked

_PRIME = 1_000_003


def join_processes() -> tuple[int, int]:
    """Join the process group that ``torchrun`` announces in the environment; alone, do nothing.

    Call it before making loaders, so that each process reads its share. Backend: NCCL where each process
    has a CUDA device, else gloo.

    Returns:
        This process's rank and the number of processes, (0, 1) alone.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if announced and distributed.is_available() and not distributed.is_initialized():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        has_device = local < torch.cuda.device_count()
        if has_device:
            torch.cuda.set_device(local)
        distributed.init_process_group("nccl" if has_device else "gloo")
    return rank_and_world()


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class EpochSampler(DistributedSampler[Any]):
    """torch's sampler, in one process too, that says which epoch an index is read for: yields ``(epoch, index)``.

    Two processes with half the batch size see the global batches that one sees with the whole.

    Args:
        dataset: what is read.
        shuffle: a new order each epoch, for training: all processes read equally many samples, a global tail of fewer
            samples than processes is left out. Else ascending, for evaluation: every sample is read once.
        seed: of the shuffling.
        rank, world: which process of how many.
    """

    @checked
    def __init__(self, dataset: Sized, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"EpochSampler(rank={rank}, world={world}): legal ranks are 0 to world - 1")
        super().__init__(cast("Dataset[Any]", dataset), world, rank, shuffle=shuffle, seed=seed, drop_last=shuffle)
        if not shuffle:  # torch would repeat samples until the shares are equal.
            self.total_size = len(dataset)
            self.num_samples = len(range(rank, self.total_size, world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(epoch, index)``."""
        return iter([(self.epoch, index) for index in super().__iter__()])


class _SeededSamples(Dataset[Any]):
    """Samples ``(epoch, index)`` whose random transforms depend on (seed, epoch, index), not on workers or history."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        # Not torch.manual_seed: without a CUDA device each call queues another one for later, 2 ms a time.
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(((self.seed * _PRIME + epoch) * _PRIME + index) % 2**63)
        try:
            return self.dataset[index]
        finally:
            generator.set_state(before)


class InMemory(Dataset[dict[str, Any]]):
    """Samples of ``dataset`` read once, at construction, where drawing or decoding them anew costs more than training.

    A grey picture of 128 x 128 pixels with three masks takes 0.11 MiB. Samples are new dictionaries of shared tensors.
    """

    @checked
    def __init__(self, dataset: Any) -> None:
        self.classes: tuple[str, ...] = tuple(known(dataset, "classes"))
        self.labels, self.patients = known(dataset, "labels"), known(dataset, "patients")
        self._samples = [dataset[index] for index in range(len(dataset))]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample at ``index``."""
        return dict(self._samples[index])


@checked
def get_dataloader(
    dataset: Dataset[Any], batch_size: int = 32, shuffle: bool = False, *, num_workers: int = 0, seed: int = 0,
    drop_last: bool = False,
) -> DataLoader[Any]:  # fmt: skip
    """Make a loader whose batches depend on seed and epoch alone, whatever ``num_workers``.

    Under ``torch.distributed`` each process reads its share, and ``batch_size`` is each process's.

    Args:
        dataset: samples that ``default_collate`` can stack.
        batch_size: samples a batch.
        shuffle: a new order each epoch; marks the loader as one for training.
        num_workers: processes that read ahead; 0 reads in this one.
        seed: of order and random transforms.
        drop_last: leave out the last, smaller batch.

    Returns:
        A loader; its ``sampler`` is an :class:`EpochSampler`.

    Raises:
        ValueError: the dataset is empty or ``batch_size`` below 1; while iterating: pictures differ in size.
    """
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError("the dataset is empty: nothing to load (a split with too small a ratio?)")
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"get_dataloader({name}={value}): must be at least {least}")
    rank, world = rank_and_world()
    return DataLoader(
        _SeededSamples(dataset, seed),
        batch_size=batch_size,
        sampler=EpochSampler(cast(Sized, dataset), shuffle=shuffle, seed=seed, rank=rank, world=world),
        num_workers=num_workers,
        drop_last=drop_last,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(seed),  # Its own: reading must not draw from the global one.
    )


def _collate(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        shapes = {tuple(sample["image"].shape) for sample in samples}
        if len(shapes) > 1:
            raise ValueError(f"a batch needs pictures of one size, got {sorted(shapes)}; give the dataset a size=")
    return default_collate(samples)
