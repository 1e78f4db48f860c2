"""A trained network that is recurrent throughout: g2p-en, spelling to sound (extra ``real``)."""

from __future__ import annotations

import pytest
import torch
from g2p import SPELLED, speller

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites import recurrent

pytestmark = pytest.mark.slow


def hits(name: str, epsilon: float) -> float:
    """Share of phonemes whose most relevant letter is one that spells them."""
    model = speller().requires_grad_(False)
    lrp = UnifiedLRP(model, composite=recurrent(name, epsilon))
    found = []
    for word, letters in SPELLED.items():
        said = model.pronounced(word)
        assert len(said) == len(letters), word
        for place, spelled in enumerate(letters):
            model.said = said[:place]
            relevance = lrp.attribute(model.spelled(word), target=said[place])[0, : len(word)].sum(1)
            found.append(int(relevance.argmax()) in spelled)
    return sum(found) / len(found)


def test_the_network_is_read_as_it_was_trained() -> None:
    """g2p-en's own example: pixel is P IH1 K S AH0 L; here by the phonemes' places in its list."""
    model = speller()
    assert model.pronounced("pixel") == [56, 39, 45, 58, 10, 46]
    assert torch.equal(model.spelled("ab")[0, 0], model.letters.weight[3])


def test_what_the_gates_get_decides() -> None:
    """98 phonemes, chance .165, gradient x input .745: .837 for uniform, .724 for signal, .520 for ratio at epsilon 0.001."""
    assert hits("uniform", 0.001) >= 0.8
    assert hits("signal", 0.001) < 0.78
    assert hits("gradient", 1.0) >= 0.87
