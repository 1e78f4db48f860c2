"""The benchmarks' tasks of tokens: what is called the answer decides, nothing else does, and no place gives it away."""

from __future__ import annotations

import pytest
import torch

from benchmarks.evaluation.tokens import (
    KEYS,
    MASK,
    NEGATORS,
    NEUTRAL,
    PAIRS,
    VALUES,
    WORDS,
    meaning,
    pairs,
    sentences,
)

COUNT = 6000


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_deciding_words_decide_a_sentence_and_no_others(generator: torch.Generator) -> None:
    ids, deciding = sentences(COUNT, generator)
    assert torch.equal(meaning(ids.masked_fill(~deciding, MASK)), meaning(ids))
    assert torch.equal(deciding.any(1), meaning(ids) != NEUTRAL)
    for place in range(ids.shape[1]):
        changed = meaning(ids.index_fill(1, torch.tensor(place), MASK)) != meaning(ids)
        assert torch.equal(changed, deciding[:, place])


def test_neither_a_place_nor_a_single_word_tells_the_class(generator: torch.Generator) -> None:
    ids, deciding = sentences(COUNT, generator)
    classes = meaning(ids)
    # Five standard deviations of a share p of n sentences: 5 sqrt(p (1 - p) / n).
    for label in range(3):
        share, n = float((classes == label).double().mean()), int((classes == label).sum())
        assert abs(share - 1 / 3) < 5 * (2 / 9 / COUNT) ** 0.5
        has = torch.isin(ids[classes == label], torch.tensor(tuple(NEGATORS))).any(1).double().mean()
        everywhere = torch.isin(ids, torch.tensor(tuple(NEGATORS))).any(1).double().mean()
        assert abs(float(has - everywhere)) < 5 * (0.25 / n) ** 0.5
    last = deciding.long().flip(1).argmax(1)  # of the good or bad word, from the end
    shares = torch.bincount(last[deciding.any(1)], minlength=WORDS + 2).double() / deciding.any(1).sum()
    assert (shares[1:WORDS] - 1 / (WORDS - 1)).abs().max() < 5 * (1 / (WORDS - 1) / (COUNT / 2)) ** 0.5
    assert not shares[[0, WORDS, WORDS + 1]].any()


def test_the_next_token_is_the_asked_key_s_value_alone(generator: torch.Generator) -> None:
    ids, answers, deciding = pairs(COUNT, generator)
    listed = ids[:, :-1].view(COUNT, PAIRS, 2)
    assert torch.isin(listed[..., 0], torch.tensor(tuple(KEYS))).all()
    assert torch.isin(listed[..., 1], torch.tensor(tuple(VALUES))).all()
    found = listed[..., 0] == ids[:, -1:]
    assert (found.sum(1) == 1).all() and torch.equal(listed[..., 1][found], answers)
    assert ((listed[..., 1] == answers[:, None]).sum(1) == 1).all()
    assert torch.equal(deciding, torch.nn.functional.pad(found.repeat_interleave(2, 1), (0, 1)))
    # Five standard deviations, as above.
    assert (found.double().mean(0) - 1 / PAIRS).abs().max() < 5 * (1 / PAIRS / COUNT) ** 0.5
