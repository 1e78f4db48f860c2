"""Accepted end to end by Captum's language-model attribution and by its visualizations.

The language models need the extra ``peers`` (transformers); they are built from their configurations, with a tokenizer
of twelve words made in memory: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import LLMGradientAttribution, TextTokenInput, visualization
from huggingface import randomized
from torch import Tensor, nn

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP

WORDS = ("<unk>", "<end>", "the", "heart", "lung", "is", "large", "small", "clear", "left", "right", "and")


@pytest.fixture(autouse=True)
def headless() -> Iterator[None]:
    """Figures go nowhere."""
    plt.switch_backend("agg")
    yield
    plt.close("all")


def tokenizer() -> Any:
    """Words at blanks, from ``WORDS``."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>")


def language_model(kind: str) -> tuple[nn.Module, nn.Module]:
    """A tiny model in float64, and its embedding."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'peers' (transformers)")
    named = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 1}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=20, **named)
    else:
        config = transformers.LlamaConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
            max_position_embeddings=20, **named,
        )  # fmt: skip
    model = randomized(transformers.AutoModelForCausalLM.from_config(config))
    return model, model.get_input_embeddings()


@pytest.mark.architectures_extra
@pytest.mark.filterwarnings("error:.*training mode")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
def test_captum_explains_a_language_model_with_it(kind: str, rule: str) -> None:
    model, embedding = language_model(kind)
    words = tokenizer()
    method = LLMGradientAttribution(LayerUnifiedLRP(model, embedding, rule=rule), words)
    text = TextTokenInput("the left lung is", words, skip_tokens=[WORDS.index("is")])
    found = method.attribute(text, target="large and clear")
    assert found.token_attr.shape == (3, 3) and found.input_tokens == ["the", "left", "lung"]
    assert found.token_attr.abs().min() > 0 and torch.isfinite(found.token_attr).all()
    torch.testing.assert_close(found.seq_attr, found.token_attr.sum(0))
    assert found.plot_token_attr(show=False) is not None and found.plot_seq_attr(show=False) is not None

    # The second word's log probability, explained directly: the same relevance of the same tokens.
    ids = torch.tensor([[WORDS.index(word) for word in ("the", "left", "lung", "is", "large")]])

    def log_probability(tokens: Tensor) -> Tensor:
        return torch.log_softmax(model(tokens).logits[:, -1], 1)[:, WORDS.index("and")]

    direct = UnifiedLRP(log_probability, rule=rule).attribute(ids)
    torch.testing.assert_close(found.token_attr[1], direct[0, :3].to(found.token_attr))


@pytest.mark.architectures_extra
def test_captum_draws_relevance_of_words() -> None:
    model, embedding = language_model("gpt2")
    ids = torch.tensor([[2, 9, 4, 5]])
    relevance = LayerUnifiedLRP(model, embedding).attribute(ids, (3, 6)).sum(-1)[0]
    record = visualization.VisualizationDataRecord(
        relevance / relevance.abs().max(), 0.8, "large", "large", "large", float(relevance.sum()),
        [WORDS[place] for place in ids[0]], 0.0,
    )  # fmt: skip
    page = visualization.visualize_text([record]).data
    assert all(WORDS[place] in page for place in ids[0])


def test_captum_draws_heatmaps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)).eval()
    x = torch.rand(1, 3, 8, 8)
    picture = x[0].permute(1, 2, 0).numpy()
    for relevance in (UnifiedLRP(model).attribute(x, 1), LayerUnifiedLRP(model, model[0]).attribute(x, 1)):
        channels = relevance[0].permute(1, 2, 0).numpy()
        figure, axes = visualization.visualize_image_attr(channels, picture, "heat_map", sign="all", use_pyplot=False)
        drawn = np.asarray(axes.images[0].get_array())
        assert drawn.shape == (8, 8) and np.abs(drawn).max() > 0
        assert np.sign(drawn[np.abs(drawn) > 0.1]).tolist() == np.sign(channels.sum(2)[np.abs(drawn) > 0.1]).tolist()


def test_a_layer_that_no_input_reaches_has_relevance() -> None:
    class Queried(nn.Module):
        """Queries that are learned beside an input."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.queries, self.map, self.head = nn.Embedding(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            """Scores (N, 2) of ``x`` (N, 5)."""
            asked = self.queries(torch.arange(3))
            return self.head(torch.relu(self.map(x) + asked.sum(0)))

    model, x = Queried(), torch.randn(2, 5).double()
    for inside in (False, True):
        found = LayerUnifiedLRP(model, model.queries, rule="zero").attribute(x, 1, attribute_to_layer_input=inside)
        with torch.no_grad():
            gate = (model.map(x) + model.queries.weight.sum(0) > 0) * model.head.weight[1]
        expected = model.queries.weight.detach() * gate.sum(0)
        torch.testing.assert_close(found, expected.sum(1) if inside else expected)
    assert LayerUnifiedLRP(model, model.map).attribute(x, 1).shape == (2, 4)
