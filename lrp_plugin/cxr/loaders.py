"""Batches in an order that depends on seed and epoch alone: the ground of exact resumption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lrp_plugin.kinds import checked

_PRIME = 1_000_003


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield ``(epoch, index)`` in the order of the epoch, from any batch on, for one process of several.

    The global order is cut into global batches and each of those is dealt out to the processes, so two
    processes with half the batch size see what one sees with the whole.

    Args:
        n: samples in the dataset.
        batch_size: samples in a batch of one process.
        shuffle: a new order each epoch, from ``seed`` and epoch; else ascending.
        seed: of the shuffling.
        drop_last: leave out the last, smaller global batch.
        rank, world: which process of how many.
        keep_in_step: all processes must make equally many batches (training). Then a last global batch of
            fewer samples than processes is left out.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        keep_in_step: bool = False,
    ) -> None:
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start_batch = 0
        tail = n % (batch_size * world)
        self._used = n - tail if drop_last or (keep_in_step and tail < world) else n

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Continue at ``batch`` (in this process's batches) of ``epoch`` when next iterated."""
        self.epoch, self.start_batch = epoch, batch

    def order(self) -> list[int]:
        """Indices this process reads in the current epoch, from its first batch on."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * _PRIME + self.epoch)
            indices = torch.randperm(self.n, generator=generator).tolist()
        else:
            indices = list(range(self.n))
        return indices[: self._used][self.rank :: self.world]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(epoch, index)``."""
        return iter([(self.epoch, index) for index in self.order()[self.start_batch * self.batch_size :]])

    def __len__(self) -> int:
        """Samples from the start position on."""
        whole = len(range(self.rank, self._used, self.world))
        return max(0, whole - self.start_batch * self.batch_size)


class SeededSamples(Dataset[Any]):
    """A dataset whose random transforms depend on (seed, epoch, index), not on workers or history.

    Args:
        dataset: what to read.
        seed: of the transforms.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Read the sample ``(epoch, index)``."""
        epoch, index = key
        # Not torch.manual_seed: without a CUDA device each call queues another one for later, 2 ms a time.
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(((self.seed * _PRIME + epoch) * _PRIME + index) % 2**63)
        try:
            return self.dataset[index]
        finally:
            generator.set_state(before)


@checked
def get_dataloader(
    dataset: Dataset[Any],
    batch_size: int = 32,
    shuffle: bool = False,
    *,
    num_workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool | None = None,
) -> DataLoader[Any]:
    """Make a loader whose batches depend on seed and epoch alone, whatever ``num_workers``.

    Under ``torch.distributed`` each process reads its share, and ``batch_size`` is each process's.

    Args:
        dataset: samples that ``default_collate`` can stack.
        batch_size: samples a batch.
        shuffle: a new order each epoch; marks the loader as one for training.
        num_workers: processes that read ahead; 0 reads in this one.
        seed: of order and random transforms.
        drop_last: leave out the last, smaller batch.
        pin_memory: page-locked batches; None where there is a CUDA device.

    Returns:
        A loader; its ``sampler`` is an :class:`EpochSampler`.

    Raises:
        ValueError: the dataset is empty or ``batch_size`` below 1; while iterating: pictures differ in size.
    """
    length = len(dataset)  # type: ignore[arg-type]
    if length == 0:
        raise ValueError("the dataset is empty: nothing to load (a split with too small a ratio?)")
    if batch_size < 1:
        raise ValueError(f"get_dataloader(batch_size={batch_size}): must be at least 1")
    parallel = distributed.is_available() and distributed.is_initialized()
    sampler = EpochSampler(
        length,
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        rank=distributed.get_rank() if parallel else 0,
        world=distributed.get_world_size() if parallel else 1,
        keep_in_step=shuffle,
    )
    return DataLoader(
        SeededSamples(dataset, seed),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        persistent_workers=num_workers > 0,
        # A generator of its own: making an iterator must not draw from the global one, whose state is
        # part of a checkpoint.
        generator=torch.Generator().manual_seed(seed),
    )


def _collate(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        shapes = {tuple(sample["image"].shape) for sample in samples}
        if len(shapes) > 1:
            raise ValueError(f"a batch needs pictures of one size, got {sorted(shapes)}; give the dataset a size=")
    return default_collate(samples)
