"""Models as users wrap them: weights made by hooks, half precision in sequences, layers of wrapped models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP
from lrp_plugin.attribution import RULES
from lrp_plugin.testing import assert_conserves


class Net(nn.Module):
    """A convolution, ReLU and a linear layer, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(96, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weights_made_by_hooks_are_coefficients(images: Tensor, wrap: Any) -> None:
    model, plain = Net(), Net()
    wrap(model.conv)
    model.eval()
    model(images)
    with torch.no_grad():
        plain.conv.weight.copy_(model.conv.weight)
    for rule in RULES:
        lrp = UnifiedLRP(model, rule=rule)
        assert torch.allclose(lrp.attribute(images, 0), UnifiedLRP(plain, rule=rule).attribute(images, 0), rtol=1e-10)
        assert_conserves(lrp, images, 0, allowed_other=())


class Sequences(nn.Module):
    """Attention, norms and an LSTM, or none, over a sequence (N, T, 8)."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = recurrent
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(x)
        return self.head((self.lstm(h)[0] if self.recurrent else torch.cat([h, h[..., :4].tanh()], -1)).mean(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("recurrent", [False, True])
def test_half_precision_of_attention_and_recurrence(dtype: torch.dtype, recurrent: bool) -> None:
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = Sequences(recurrent)
    expected = UnifiedLRP(model).attribute(x, 0)
    found = UnifiedLRP(copy.deepcopy(model).to(dtype)).attribute(x.to(dtype), 0)
    assert found.dtype == dtype
    results = [found]
    if not recurrent:  # torch's own LSTM kernel does not run under autocast on every CPU
        with torch.autocast("cpu", dtype=dtype):
            results.append(UnifiedLRP(copy.deepcopy(model).float()).attribute(x.float(), 0))
    for one in results:
        assert bool(torch.isfinite(one).all())
        assert float(functional.cosine_similarity(one.double().flatten(), expected.flatten(), 0)) > 0.99


def test_layers_and_units_of_wrapped_models(images: Tensor) -> None:
    model = Net()
    expected = LayerUnifiedLRP(model, model.conv).attribute(images, 0)
    unit = NeuronUnifiedLRP(model, model.conv).attribute(images, (1, 2, 2))
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert torch.equal(LayerUnifiedLRP(wrapped, model.conv).attribute(images, 0), expected)
        assert torch.equal(NeuronUnifiedLRP(wrapped, model.conv).attribute(images, (1, 2, 2)), unit)
    assert expected.abs().sum() > 0 and unit.abs().sum() > 0


def test_compiled_parts_inside_a_model_run_as_they_were_written(images: Tensor) -> None:
    counter = CompileCounter()
    plain = Net()

    class Mixed(nn.Module):
        """A compiled module, a compiled function and a module compiled in place."""

        def __init__(self) -> None:
            super().__init__()
            made = Net()
            self.conv, self.head = torch.compile(made.conv, backend=counter), made.head
            self.act = torch.compile(torch.relu, backend=counter)
            self.head.compile(backend=counter)
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.conv(x)).flatten(1))

    model = Mixed()
    for _ in range(2):
        for rule in ("epsilon", "gamma"):
            found = UnifiedLRP(model, rule=rule, strict=True).attribute(images, 0)
            assert torch.equal(found, UnifiedLRP(plain, rule=rule).attribute(images, 0))
        assert UnifiedLRP(model).ledger(images, 0).gap.abs().max() < 1e-9
        assert counter.frame_count == 0
    model(images)
    assert counter.frame_count > 0, "torch.compile works as before"
    compiled = counter.frame_count
    UnifiedLRP(model).attribute(images, 0)
    assert counter.frame_count == compiled
    model(images)
    assert counter.frame_count == compiled, "what was compiled is still there"
