"""g2p-en's encoder and decoder of spelling to sound (PyPI g2p-en 2.1.0) as a plain torch module, and known answers.

The answers were written down before the first map was seen: for each word the letters that each of its phonemes is spelled
by. Words were chosen for a spelling in which nearly every phoneme has a letter of its own. Where the network finds another
number of phonemes the word is left out.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

SPELLED: dict[str, tuple[tuple[int, ...], ...]] = {
    "pixel": ((0,), (1,), (2,), (2,), (3,), (4,)), "basket": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "dentist": ((0,), (1,), (2,), (3,), (4,), (5,), (6,)), "magnet": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "picnic": ((0,), (1,), (2,), (3,), (4,), (5,)), "velvet": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "goblin": ((0,), (1,), (2,), (3,), (4,), (5,)), "robot": ((0,), (1,), (2,), (3,), (4,)),
    "hamster": ((0,), (1,), (2,), (3,), (4,), (5, 6)), "banana": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "tomato": ((0,), (1,), (2,), (3,), (4,), (5,)), "napkin": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "problem": ((0,), (1,), (2,), (3,), (4,), (5,), (6,)), "sandal": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "lipstick": ((0,), (1,), (2,), (3,), (4,), (5,), (6, 7)), "fabric": ((0,), (1,), (2,), (3,), (4,), (5,)),
}  # fmt: skip
"""Word -> for each phoneme, in order, the places of the letters that spell it."""

_BEGIN, _END, _LETTERS = 2, 3, 3  # <s> and </s> of the phonemes; letters come behind <pad>, <unk>, </s>
_END_OF_WORD = 2


class Speller(nn.Module):
    """Logits of the next phoneme (N, 74) from letters' embeddings (N, letters + 1, 256) and the phonemes said so far."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.letters = nn.Embedding.from_pretrained(torch.from_numpy(weights["enc_emb"]))
        self.sounds = nn.Embedding.from_pretrained(torch.from_numpy(weights["dec_emb"]))
        self.encoder, self.decoder = (nn.GRU(256, 256, batch_first=True) for _ in range(2))
        self.head = nn.Linear(256, 74)
        for module, part in ((self.encoder, "enc"), (self.decoder, "dec")):
            for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
                kind = "weight" if name[0] == "w" else "bias"
                getattr(module, f"{kind}_{name[2:]}_l0").data = torch.from_numpy(weights[f"{part}_{name}"])
        self.head.weight.data, self.head.bias.data = (
            torch.from_numpy(weights["fc_w"]),
            torch.from_numpy(weights["fc_b"]),
        )
        self.said: list[int] = []
        self.eval()

    def forward(self, spelled: Tensor) -> Tensor:
        """Logits (N, 74) of the phoneme that follows `said`."""
        _, state = self.encoder(spelled)
        before = self.sounds(torch.tensor([[_BEGIN, *self.said]])).expand(len(spelled), -1, -1).to(spelled.dtype)
        return self.head(self.decoder(before, state)[0][:, -1])

    def spelled(self, word: str) -> Tensor:
        """A word's embedded letters (1, letters + 1, 256)."""
        ids = [ord(letter) - ord("a") + _LETTERS for letter in word]
        return self.letters(torch.tensor([[*ids, _END_OF_WORD]]))

    def pronounced(self, word: str) -> list[int]:
        """The phonemes' numbers, as the network says them."""
        self.said = []
        with torch.no_grad():
            while len(self.said) < 20 and (best := int(self(self.spelled(word)).argmax())) != _END:
                self.said = [*self.said, best]
        return self.said


def speller() -> Speller:
    """The network with its trained weights, float64; skips where g2p-en is not installed."""
    found = importlib.util.find_spec("g2p_en")
    if found is None or not found.submodule_search_locations:
        pytest.skip("g2p-en is not installed (extra real; pip install --no-deps g2p-en)")
    with np.load(Path(found.submodule_search_locations[0]) / "checkpoint20.npz") as stored:
        return Speller({name: stored[name] for name in stored.files}).double()
