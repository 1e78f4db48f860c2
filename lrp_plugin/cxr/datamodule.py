"""A run's pictures as a LightningDataModule."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from .loaders import get_dataloader


class RadiographData(pl.LightningDataModule):
    """Three parts and how they are read; in batches that depend on seed and epoch alone.

    Args:
        train, val, test: samples.
        batch_size: samples a batch, of each process.
        workers: processes that read ahead.
        seed: of order and random transforms.
    """

    def __init__(
        self,
        train: Dataset[Any],
        val: Dataset[Any],
        test: Dataset[Any],
        *,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.batch_size = batch_size
        self.options: dict[str, Any] = {"num_workers": workers, "seed": seed}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, anew each epoch."""
        return get_dataloader(self.train, self.batch_size, True, **self.options)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return get_dataloader(self.val, self.batch_size, **self.options)

    def test_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return get_dataloader(self.test, self.batch_size, **self.options)
