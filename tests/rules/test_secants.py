"""Functions of one entry: their secant, also at 0, behind a map, with limits and exponents that are tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.errors import UnsupportedOperationError

SMOOTH = {
    "gelu": functional.gelu, "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"), "silu": functional.silu,
    "hardswish": functional.hardswish, "mish": functional.mish, "elu": functional.elu, "tanh": torch.tanh,
    "softsign": functional.softsign, "sin": torch.sin, "tan": torch.tan, "atan": torch.atan, "erf": torch.erf,
    "expm1": torch.expm1, "sinh": torch.sinh, "asinh": torch.asinh, "hardtanh": functional.hardtanh,
    "tanhshrink": functional.tanhshrink, "square": torch.square, "sigmoid": torch.sigmoid,
    "selu": functional.selu, "clamp of tensors": lambda x: x.clamp(-torch.ones(1).to(x), torch.ones(1).to(x)),
}  # fmt: skip


class Behind(nn.Module):
    """A function of a linear map's values, summed with weights."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.map, self.function = nn.Linear(4, width), function
        self.weights = nn.Parameter(torch.randn(width))
        nn.init.normal_(self.map.weight), nn.init.normal_(self.map.bias)

    def forward(self, x: Tensor) -> Tensor:
        return (self.function(self.map(x)) * self.weights).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", SMOOTH)
def test_secant_at_zero_is_the_slope(name: str, dtype: torch.dtype) -> None:
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SMOOTH[name](zero), zero)
    weight = torch.tensor([[1.0, -1.0]], dtype=dtype)  # z = 0, its parts are not
    lrp = UnifiedLRP(lambda x: SMOOTH[name](functional.linear(x, weight)), "zero")
    relevance = lrp.attribute(torch.ones(1, 2, dtype=dtype))
    expected = slope * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(relevance, expected.to(dtype), rtol=1e-3 if dtype == torch.float16 else 1e-6, atol=1e-7)


def test_secant_hides_no_nan() -> None:
    relevance = UnifiedLRP(lambda x: functional.gelu(x.sqrt()), "zero").attribute(torch.tensor([[1.0], [-1.0]]))
    assert torch.isfinite(relevance[0]).all() and relevance[1].isnan().all()


@pytest.mark.parametrize("rows", [3, 2**19 // 512 + 5])  # the second in blocks
@pytest.mark.parametrize("epsilon", [0.3, 1e-6])
def test_epsilon_and_an_activation_behind_it_equal_their_formula(epsilon: float, rows: int) -> None:
    torch.manual_seed(0)
    model, x = Behind(functional.gelu, 512).double().eval(), torch.randn(rows, 4).double()
    with torch.no_grad():
        model.map.weight[0], model.map.bias[0] = 0, 0  # a unit that is 0
        z = model.map(x)
        multiplier = model.weights * torch.where(z == 0, 0.5, functional.gelu(z) / z) * z.abs() / (z.abs() + epsilon)
        expected = x * (multiplier @ model.map.weight)
    lrp = UnifiedLRP(model, "epsilon", epsilon=epsilon)
    torch.testing.assert_close(lrp.attribute(x), expected, rtol=1e-10, atol=1e-12)
    ledger = lrp.ledger(x[:3])  # where each operation stands for itself
    torch.testing.assert_close(ledger.input, expected[:3].sum(1), rtol=1e-9, atol=1e-12)
    assert ledger.gap.abs().max() < 1e-10


def test_an_activation_is_not_the_map_s_only_reader() -> None:
    torch.manual_seed(0)
    model, x = Behind(lambda z: functional.silu(z) + z).double().eval(), torch.randn(3, 4).double()
    with torch.no_grad():
        z = model.map(x)
        expected = x * ((model.weights * (torch.sigmoid(z) + 1) * z.abs() / (z.abs() + 0.1)) @ model.map.weight)
    torch.testing.assert_close(UnifiedLRP(model, "epsilon", epsilon=0.1).attribute(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_activation_behind_a_map_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Behind(functional.gelu).eval(), torch.randn(3, 4)
    expected = UnifiedLRP(model.to(dtype).double(), "epsilon", epsilon=1e-3).attribute(x.to(dtype).double())
    found = UnifiedLRP(model.to(dtype), "epsilon", epsilon=1e-3).attribute(x.to(dtype))
    assert found.dtype == dtype
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < 8 * torch.finfo(dtype).eps


# ---- limits that are tensors -----------------------------------------------------------------------------------
def test_clamp_between_tensors_is_a_clamp_of_each_entry() -> None:
    torch.manual_seed(0)
    low, high = -torch.rand(6).double(), torch.rand(6).double()
    low[0] = 0.2  # f(0) is not 0
    model = Behind(lambda z: z.clamp(low, high)).double().eval()
    apart = Behind(lambda z: torch.stack([z[:, i].clamp(float(low[i]), float(high[i])) for i in range(6)], 1)).double()
    apart.load_state_dict(model.state_dict())
    x = torch.randn(5, 4).double()
    whole, split = (UnifiedLRP(each.eval(), "epsilon", strict=True) for each in (model, apart))
    torch.testing.assert_close(whole.attribute(x), split.attribute(x), rtol=1e-8, atol=1e-9)
    assert whole.ledger(x).gap.abs().max() < 1e-10
    handed = [UnifiedLRP(each, "epsilon", epsilon=1e-9, bias="distribute").attribute(x) for each in (model, apart)]
    torch.testing.assert_close(*handed, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(handed[0].sum(1), model(x).detach(), rtol=1e-6, atol=1e-9)  # f(0) is handed on too


def test_clamp_between_signals_is_a_minimum_and_a_maximum() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(4, 6).double(), nn.Linear(4, 6).double(), torch.randn(5, 4).double()
    clamped = UnifiedLRP(lambda x: first(x).clamp(max=second(x)).sum(1), "epsilon", strict=True)
    smaller = UnifiedLRP(lambda x: torch.minimum(first(x), second(x)).sum(1), "epsilon", strict=True)
    torch.testing.assert_close(clamped.attribute(x), smaller.attribute(x), rtol=1e-10, atol=1e-12)
    assert clamped.ledger(x).gap.abs().max() < 1e-10
    floored = UnifiedLRP(lambda x: torch.clamp(torch.zeros(6).double(), min=second(x)).sum(1), "zero", strict=True)
    rectified = UnifiedLRP(lambda x: torch.relu(second(x)).sum(1), "zero")
    torch.testing.assert_close(floored.attribute(x), rectified.attribute(x), rtol=1e-10, atol=1e-12)
    limited = UnifiedLRP(
        lambda x: first(x).clamp(torch.tensor(0.1).double(), 9 + second(x)).sum(1), "zero", strict=True
    )
    ledger = limited.ledger(x)
    assert ledger.gap.abs().max() < 1e-10
    torch.testing.assert_close(ledger.constant, 0.1 * (first(x) < 0.1).sum(1).double())


# ---- exponents that are tensors --------------------------------------------------------------------------------
def test_power_of_a_learned_exponent_is_that_of_the_number() -> None:
    torch.manual_seed(0)
    features, x = nn.Conv2d(3, 6, 3).double(), torch.randn(2, 3, 8, 8).double()
    learned = nn.Parameter(torch.tensor([3.0]).double())  # GeM pooling: Radenović et al. 2018

    def pooled(x: Tensor, p: Tensor | float) -> Tensor:
        return features(x).clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p).sum(1)

    mine = UnifiedLRP(lambda x: pooled(x, learned), "epsilon", strict=True)
    numbers = UnifiedLRP(lambda x: pooled(x, 3.0), "epsilon", strict=True)
    torch.testing.assert_close(mine.attribute(x), numbers.attribute(x), rtol=1e-9, atol=1e-12)
    assert mine.ledger(x).gap.abs().max() < 1e-10
    assert learned.grad is None


def test_powers_of_many_exponents_close_the_ledger() -> None:
    exponents = torch.tensor([[2.0], [0.5], [-1.0], [0.0]]).double()  # broadcast: (N, 1, 6) to (N, 4, 6)
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 6).double(), torch.randn(3, 4).double()
    lrp = UnifiedLRP(lambda x: (layer(x).abs()[:, None] ** exponents).sum((1, 2)), "zero", strict=True)
    assert lrp.ledger(x).gap.abs().max() < 1e-9
    carried = UnifiedLRP(lambda x: (layer(x).abs()[:, None] ** exponents[:2]).sum((1, 2)), "zero", strict=True)
    torch.testing.assert_close(lrp.attribute(x), carried.attribute(x), rtol=1e-9, atol=1e-10)


def test_power_of_two_signals_says_so() -> None:
    with pytest.raises(UnsupportedOperationError, match="base and exponent both depend on the input"):
        UnifiedLRP(lambda x: (x.abs() ** x).sum(1)).attribute(torch.rand(2, 3))
