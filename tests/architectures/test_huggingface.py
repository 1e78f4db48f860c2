"""Hugging Face transformers, eager and fused attention: the ledger closes, both spellings give one relevance.

Needs the extra ``peers`` (transformers); run with ``-m architectures_extra``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from huggingface import MODELS, randomized, steps_in_double

from lrp_plugin import UnifiedLRP

pytestmark = pytest.mark.architectures_extra


@pytest.fixture
def in_double() -> Iterator[None]:
    """The models' own float32 steps in float64."""
    pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    with steps_in_double():
        yield


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


def test_token_ids_that_t5_shifts_in_place_keep_their_relevance() -> None:
    """T5 makes its decoder's ids from the labels by an in-place shift: the same relevance, one place further left."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    config = transformers.T5Config(
        vocab_size=40, pad_token_id=0, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model, (ids,) = randomized(transformers.T5ForConditionalGeneration(config)), MODELS["t5"][1]()
    lrp = UnifiedLRP(model, output="logits")
    shifted = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
    given = lrp.attribute({"input_ids": ids, "decoder_input_ids": shifted}, target=(3, 5))
    found = lrp.attribute({"input_ids": ids, "labels": ids}, target=(3, 5))
    torch.testing.assert_close(found["input_ids"], given["input_ids"])
    torch.testing.assert_close(found["labels"][:, :-1], given["decoder_input_ids"][:, 1:])
    assert found["labels"][:, :3].abs().min() > 0 and found["labels"][:, 3:].abs().max() == 0


def test_keyword_inputs_and_named_outputs() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    model, (ids,) = randomized(transformers.BertModel(config)), MODELS["bert"][1]()
    encoded = transformers.BatchEncoding({"input_ids": ids})
    further = {"attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids), "return_dict": True}
    lrp = UnifiedLRP(model, output="pooler_output", strict=True)
    relevance = lrp.attribute(encoded, target=2, forward_kwargs=further)["input_ids"]
    assert relevance.shape == ids.shape and relevance[1, 5:].abs().max() == 0 and relevance[0].abs().min() > 0
    by_place = UnifiedLRP(lambda tokens: model(tokens, **further).pooler_output).attribute(ids, target=2)
    torch.testing.assert_close(relevance, by_place)
    assert lrp.ledger(encoded, target=2, forward_kwargs=further).gap.abs().max() < 1e-9
