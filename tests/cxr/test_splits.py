from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from lrp_plugin.cxr import COVID19_COUNTS, SyntheticCXR, split_by_patient, split_by_sample


class Labelled(Dataset):
    def __init__(self, labels: list[int], patients: list[str] | None = None) -> None:
        self.labels = labels
        self.patients = patients or [str(i) for i in range(len(labels))]
        self.classes = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        return index


@pytest.fixture(scope="module")
def whole_database() -> Labelled:
    return Labelled([k for k, n in enumerate(COVID19_COUNTS.values()) for _ in range(n)])


def test_plain_split_has_the_seeds_counts(whole_database: Labelled) -> None:
    assert len(whole_database) == 21165
    assert [len(p) for p in split_by_sample(whole_database)] == [14815, 2116, 4234]
    assert [len(p) for p in split_by_sample(whole_database, [0.7, 0.2, 0.1])] == [14815, 4233, 2117]


def test_stratified_split_keeps_each_classs_share(whole_database: Labelled) -> None:
    parts = split_by_sample(whole_database, stratify=True)
    for part, ratio in zip(parts, (0.7, 0.1, 0.2), strict=True):
        for label, count in enumerate(COVID19_COUNTS.values()):
            assert abs(Counter(part.labels)[label] - ratio * count) < 1


def test_split_is_reproducible_and_seeded() -> None:
    dataset = SyntheticCXR(100)
    assert split_by_sample(dataset, seed=3)[0].indices == split_by_sample(dataset, seed=3)[0].indices
    assert split_by_sample(dataset, seed=3)[0].indices != split_by_sample(dataset, seed=4)[0].indices


@given(
    labels=st.lists(st.integers(0, 3), max_size=60).map(lambda drawn: drawn + 10 * [0, 1, 2, 3]),
    ratios=st.sampled_from([(0.7, 0.1, 0.2), (0.7, 0.2, 0.1), (0.6, 0.3, 0.1), (0.5, 0.5), (1.0,), (0.0, 1.0)]),
    seed=st.integers(0, 5),
    way=st.sampled_from(["plain", "stratified", "patient", "patient stratified"]),
    films=st.integers(1, 4),
)
def test_every_split_is_a_partition(
    labels: list[int], ratios: tuple[float, ...], seed: int, way: str, films: int
) -> None:
    dataset = Labelled(labels, [str(i // films) for i in range(len(labels))])
    split = split_by_patient if "patient" in way else split_by_sample
    parts = split(dataset, ratios, seed, stratify="stratified" in way)
    assert sorted(itertools.chain.from_iterable(p.indices for p in parts)) == list(range(len(labels)))
    if "patient" in way:
        for first, second in itertools.combinations(parts, 2):
            assert not set(first.patients) & set(second.patients)


def test_patient_split_is_near_the_ratios_with_uneven_patients() -> None:
    films = [1 + (i * 7) % 9 for i in range(200)]
    patients = [str(i) for i, n in enumerate(films) for _ in range(n)]
    dataset = Labelled([int(p) % 4 for p in patients], patients)
    for stratify in (False, True):
        parts = split_by_patient(dataset, stratify=stratify)
        for part, ratio in zip(parts, (0.7, 0.1, 0.2), strict=True):
            assert abs(len(part) / len(dataset) - ratio) < 0.01


def test_subset_of_a_subset_knows_its_labels() -> None:
    train, _ = split_by_sample(SyntheticCXR(40), [0.5, 0.5])
    inner, _ = split_by_sample(train, [0.5, 0.5])
    assert inner.labels == [int(sample["disease"]) for sample in (inner[i] for i in range(len(inner)))]
    assert inner.classes == SyntheticCXR(1).classes


@pytest.mark.parametrize("ratios", [[0.7, 0.1], [1.2, -0.2], []])
def test_illegal_ratios_are_shown(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_sample(SyntheticCXR(8), ratios)


def test_missing_labels_and_patients_name_the_remedy() -> None:
    class Bare(Dataset):
        def __len__(self) -> int:
            return 3

    with pytest.raises(TypeError, match="labels"):
        split_by_sample(Bare(), stratify=True)
    with pytest.raises(TypeError, match="patients"):
        split_by_patient(Bare())
