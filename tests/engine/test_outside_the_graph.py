"""What no relevance can lead through is said: quantized layers, outputs that are NaN."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP, UnsupportedOperationError


def quantized(model: nn.Module, kinds: set[type[nn.Module]]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, kinds, dtype=torch.qint8)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0][:, -1]  # type: ignore[no-any-return]


def test_a_quantized_linear_layer_is_refused_by_its_path() -> None:
    model = quantized(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), {nn.Linear})
    with pytest.raises(UnsupportedOperationError, match=r"quantized::linear_dynamic' in module '0'.*float model"):
        UnifiedLRP(model).attribute(torch.randn(2, 4), target=0)


def test_a_quantized_recurrent_layer_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"quantized.*float model"):
        UnifiedLRP(quantized(Recurrent().eval(), {nn.LSTM})).attribute(torch.randn(2, 5, 4), target=0)


def test_quantized_input_is_refused() -> None:
    x = torch.quantize_per_tensor(torch.randn(2, 4), 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"input 0 is quantized.*float model"):
        UnifiedLRP(nn.Linear(4, 2)).attribute(x, target=0)


class Root(nn.Module):
    """NaN for a row with a negative entry, made by the square root, not by what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.root, self.last = nn.Identity(), SquareRoot(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.root(self.first(x)) * 2)  # type: ignore[no-any-return]


class SquareRoot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt_(x.clone())


def test_an_output_that_is_nan_names_the_operation_that_made_it() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, -2.0, 3.0]])
    with pytest.warns(UserWarning, match=r"of example 1 is NaN.*operation 'sqrt' in module 'root'") as caught:
        relevance = UnifiedLRP(Root().eval()).attribute(x, target=0)
    assert caught[0].filename == __file__
    assert bool(torch.isfinite(relevance[0]).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnifiedLRP(Root().eval()).attribute(x[:1], target=0)


def test_nan_that_a_parameter_holds_is_told_as_such() -> None:
    model = nn.Linear(3, 2).eval()
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.warns(UserWarning, match="a parameter, buffer or input holds NaN"):
        UnifiedLRP(model).attribute(torch.ones(1, 3), target=0)
