from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from lrp_plugin.cxr import EpochSampler, InMemory, SyntheticCXR, get_dataloader


class Noisy(Dataset):
    """Each sample is its index and a random number: what an augmentation would draw."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.rand(())


def read(loader: Any) -> list[tuple[int, float]]:
    return [(int(i), float(r)) for index, random in loader for i, r in zip(index, random, strict=True)]


def test_augmentation_and_order_do_not_depend_on_workers() -> None:
    alone = read(get_dataloader(Noisy(23), 4, True, seed=1))
    helped = read(get_dataloader(Noisy(23), 4, True, seed=1, num_workers=2))
    assert alone == helped
    assert sorted(i for i, _ in alone) == list(range(23))


def test_epochs_differ_and_return() -> None:
    loader = get_dataloader(Noisy(16), 4, True)
    first = read(loader)
    loader.sampler.set_epoch(1)
    second = read(loader)
    loader.sampler.set_epoch(0)
    assert first == read(loader)
    assert [i for i, _ in first] != [i for i, _ in second]
    assert {r for _, r in first}.isdisjoint(r for _, r in second)


def test_reading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read(get_dataloader(Noisy(9), 2, True))
    assert torch.equal(torch.get_rng_state(), before)


@given(
    n=st.integers(1, 50),
    batch=st.integers(1, 7),
    world=st.integers(1, 4),
)
def test_processes_share_each_global_batch(n: int, batch: int, world: int) -> None:
    def sampler(rank: int, of: int) -> EpochSampler:
        made = EpochSampler(range(n), shuffle=True, seed=2, rank=rank, world=of)
        made.set_epoch(3)
        return made

    one = [index for _, index in sampler(0, 1)]
    many = [sampler(rank, world) for rank in range(world)]
    shares = [[index for _, index in each] for each in many]
    assert [len(each) for each in many] == [len(share) for share in shares]
    counts = {-(-len(share) // batch) for share in shares}
    assert len(counts) == 1, "every process makes equally many batches"
    for k in range(counts.pop() if counts else 0):
        together = [index for share in shares for index in share[k * batch : (k + 1) * batch]]
        assert set(together) <= set(one[k * batch * world : (k + 1) * batch * world])
    lost = len(one) - sum(map(len, shares))
    assert 0 <= lost < world


def test_evaluation_loses_nothing_in_several_processes() -> None:
    shares = [[i for _, i in EpochSampler(range(11), shuffle=False, rank=r, world=3)] for r in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(11))


def test_pictures_of_different_sizes_name_the_remedy() -> None:
    class Mixed(Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict:
            return {"image": torch.zeros(1, 8 + index, 8)}

    with pytest.raises(ValueError, match=r"one size.*\(1, 8, 8\).*size="):
        next(iter(get_dataloader(Mixed(), 2)))


def test_empty_dataset_and_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        get_dataloader(Noisy(0))
    with pytest.raises(ValueError, match="batch_size=0"):
        get_dataloader(Noisy(3), 0)


def test_in_memory_reads_once() -> None:
    class Counting(SyntheticCXR):
        reads = 0

        def __getitem__(self, index: int) -> dict:
            Counting.reads += 1
            return super().__getitem__(index)

    kept = InMemory(Counting(4, size=32))
    assert Counting.reads == 4
    assert torch.equal(kept[1]["image"], SyntheticCXR(4, size=32)[1]["image"])
    assert Counting.reads == 4
    assert kept.labels == [0, 1, 2, 3]
    assert kept.patients == ["0", "1", "2", "3"]
