"""An image layer's input-gradient by phases equals PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.fast.strided import gains_from_phases, phase_gradient, phase_kernel


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(2, 5), st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 99),
)  # fmt: skip
def test_phases_give_the_gradient(channels, stride, places, padding, extra, seed) -> None:
    torch.manual_seed(seed)
    size = [p + e for p, e in zip(places, extra)]
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, channels, *places, dtype=torch.float64)
    value = functional.conv2d(x, weight, None, stride, padding)
    multiplier = torch.randn_like(value)
    (expected,) = torch.autograd.grad(value, x, multiplier)
    kernel = phase_kernel(weight, stride, padding)
    found = phase_gradient(multiplier, kernel, (channels, *size), places, stride, padding)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "stride", "dilation", "groups", "gains"),
    [
        ((8, 3, 7, 7), (2, 2), (1, 1), 1, True),
        ((8, 3, 7, 7), (1, 1), (1, 1), 1, False),
        ((8, 3, 7, 7), (2, 1), (1, 1), 1, False),
        ((8, 3, 7, 7), (2, 2), (2, 2), 1, False),
        ((8, 64, 7, 7), (2, 2), (1, 1), 1, False),
        ((6, 1, 7, 7), (2, 2), (1, 1), 3, False),
    ],
)
def test_only_strided_layers_of_few_channels_gain(shape, stride, dilation, groups, gains) -> None:
    assert gains_from_phases(torch.zeros(shape), stride, dilation, groups) is gains


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("options", "size", "product"),
    [
        ({}, 23, True),
        ({}, 22, False),
        ({"stride": 2}, 50, False),
        ({"padding": 1}, 30, False),
        ({"groups": 2}, 30, False),
        ({"dilation": 2}, 30, True),
        ({"kernel_size": 3, "padding": 1}, 30, False),
    ],
    ids=str,
)
def test_a_pointwise_layers_gradient(options, size, product, channels_last, monkeypatch) -> None:
    """As a matrix product where that is faster, and PyTorch's own gradient in any case."""
    products = []
    monkeypatch.setattr(torch, "matmul", lambda *given, own=torch.matmul: products.append(own(*given)) or products[-1])
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, **{"kernel_size": 1, **options})
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = torch.randn(2, 4, size, size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    free = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(free)[:, 1].sum(), free)
    found = UnifiedLRP(model, "zero").attribute(x, target=1)
    torch.testing.assert_close(found, x * gradient, rtol=1e-10, atol=1e-12)
    assert bool(products) is product
