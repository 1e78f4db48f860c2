"""Relevance inside the network: every layer of a chain holds what the next one received."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradientXActivation
from captum.attr._core.llm_attr import LLMGradientAttribution
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.attribution.layers import LayerUnifiedLRP, NeuronUnifiedLRP


def network() -> nn.Sequential:
    """Convolutions with BatchNorm, an in-place ReLU, pooling; no bias but BatchNorm's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3, bias=False),
    )  # fmt: skip
    model[1].running_mean.normal_()
    return model.double().eval()


X = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def test_layers_hold_gradient_times_activation_at_lrp_0() -> None:
    model = network()
    for layer in (model[0], model[3], model[4]):
        mine = LayerUnifiedLRP(model, layer, rule="zero").attribute(X, target=1)
        theirs = LayerGradientXActivation(model, layer).attribute(X, target=1)
        torch.testing.assert_close(mine, theirs)
        assert mine.abs().sum() > 0


@pytest.mark.parametrize("rule", ["zero", "epsilon", "zplus", "gamma", "alphabeta"])
def test_layer_input_equals_the_layer_before_and_the_explained_input(rule: str) -> None:
    model = network()
    lrp = LayerUnifiedLRP(model, [model[0], model[4]], rule=rule)
    found = lrp.attribute(X, target=1, attribute_to_layer_input=True)
    torch.testing.assert_close(found[0], UnifiedLRP(model, rule=rule).attribute(X, target=1))
    pooled = LayerUnifiedLRP(model, model[3], rule=rule).attribute(X, target=1)
    torch.testing.assert_close(found[1], pooled)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("rule", ["zplus", "gamma"])
def test_a_convolution_before_a_batch_norm_can_be_asked_for(rule: str) -> None:
    model = network()
    relevance = LayerUnifiedLRP(model, model[0], rule=rule).attribute(X, target=1)
    assert relevance.shape == model[0](X).shape and relevance.abs().sum() > 0


def test_tokens_and_modules_with_several_outputs() -> None:
    torch.manual_seed(0)

    class Tagger(nn.Module):
        """An embedding and an LSTM."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.head = nn.Embedding(9, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            """Scores (N, 2)."""
            return self.head(self.lstm(self.embed(ids))[0][:, -1])

    model = Tagger().double().eval()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    lrp = LayerUnifiedLRP(model, [model.embed, model.lstm])
    embedded, recurrent = lrp.attribute(ids, target=1)
    tokens = UnifiedLRP(model).attribute(ids, target=1)
    torch.testing.assert_close(embedded.sum(-1), tokens)
    entering = LayerUnifiedLRP(model, model.embed).attribute(ids, target=1, attribute_to_layer_input=True)
    torch.testing.assert_close(entering, tokens)
    assert recurrent[0][:, :-1].abs().max() == 0 and recurrent[0][:, -1].abs().min() > 0
    assert tokens.abs().min() > 0


def test_neuron_relevance_sums_to_the_unit_less_what_was_absorbed() -> None:
    model = network()
    neuron = NeuronUnifiedLRP(model, model[0], rule="zero")
    unit = model[0](X)[:, 2, 1, 3]
    relevance = neuron.attribute(X, (2, 1, 3))
    torch.testing.assert_close(relevance.flatten(1).sum(1), unit)
    assert relevance[:, :, 5:].abs().max() == 0  # outside the unit's receptive field
    channel = neuron.attribute(X, lambda output: output[:, 2].sum((1, 2)))
    torch.testing.assert_close(channel.flatten(1).sum(1), model[0](X)[:, 2].sum((1, 2)))


def test_layers_that_did_not_run_are_named() -> None:
    model = network()
    with pytest.raises(ValueError, match="layer Linear .*did not run"):
        LayerUnifiedLRP(model, nn.Linear(1, 1)).attribute(X, target=0)


def test_captum_takes_it_for_language_models() -> None:
    assert issubclass(LayerUnifiedLRP, LLMGradientAttribution.SUPPORTED_METHODS)
