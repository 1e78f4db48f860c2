"""Hugging Face transformers, eager and fused attention: the ledger closes, both spellings give one relevance.

Needs the extra ``peers`` (transformers); run with ``-m architectures_extra``.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from huggingface import MODELS, randomized

from lrp_plugin import UnifiedLRP

pytestmark = pytest.mark.architectures_extra
FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit", "deit", "swin", "whisper")


class Doubled:
    """torch, except that its float32 is float64: several of the models compute a softmax or a norm in float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models' own float32 steps in float64."""
    pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    for family in FAMILIES:
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        monkeypatch.setattr(module, "torch", Doubled())


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("name", MODELS)
def test_ledger_closes_and_fused_equals_eager_attention(name: str) -> None:
    make, inputs, target = MODELS[name]
    found = {}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        model, given = randomized(make(attention)), inputs()
        assert UnifiedLRP(model, strict=True).ledger(given, target=target).gap.abs().max() < 1e-9
        (found[attention],) = UnifiedLRP(model, rule="zero").attribute(given, target=target)
    torch.testing.assert_close(found["sdpa"], found["eager"], rtol=1e-8, atol=1e-8)
    assert found["sdpa"].abs().sum() > 0


def test_embeddings_given_directly_carry_the_tokens_relevance() -> None:
    pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    make, inputs, target = MODELS["bert"]
    model, (ids,) = randomized(make("sdpa")), inputs()
    mask = (ids != 0).long()
    by_token = UnifiedLRP(lambda tokens: model(input_ids=tokens, attention_mask=mask)).attribute(ids, target=target)
    vectors = model.get_input_embeddings()(ids).detach()
    by_entry = UnifiedLRP(lambda given: model(inputs_embeds=given, attention_mask=mask)).attribute(
        vectors, target=target
    )
    real = ids != 0
    torch.testing.assert_close(by_token[real], by_entry.sum(-1)[real], rtol=1e-8, atol=1e-8)
    assert by_token[~real].abs().max() == 0
