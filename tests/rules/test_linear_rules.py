"""Every rule of linear maps meets its slow literal twin, on every kind of map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from linear_cases import Case, cases, relevance
from torch import Tensor, nn
from twins import TWINS

from lrp_plugin import UnifiedLRP, registry

TOLERANCE = 1e-8
MODES = ("absorb", "ignore", "distribute")
LOW, HIGH = -3.0, 3.5
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "epsilon": [{"epsilon": 0.1}, {"epsilon": 0.1, "relative": True}],
    "zero": [{}],
    "lrp0": [{}],
    "zplus": [{}, {"stabilizer": 0.1}],
    "alphabeta": [{}, {"alpha": 3.0, "beta": 2.0, "stabilizer": 0.1}, {"alpha": 1.0, "beta": 0.0}],
    "gamma": [{}, {"gamma": 2.0, "stabilizer": 0.1}],
    "gamma_montavon": [{}, {"gamma": 2.0, "stabilizer": 0.1}],
    "flat": [{}, {"stabilizer": 0.1}],
    "uniform": [{}],
    "wsquare": [{}, {"stabilizer": 0.1}],
    "zbox": [{"low": LOW, "high": HIGH}, {"low": LOW, "high": HIGH, "stabilizer": 0.1}],
    "excitation_backprop": [{}, {"stabilizer": 0.1}],
}


def takes_bias(name: str) -> bool:
    """Whether the rule has bias modes, as it says itself."""
    found = registry.find("linear", name)
    assert found is not None, f"PARAMETERS names {name!r}, which is no rule of linear maps"
    return "bias" in found.parameters


TAKES_BIAS = tuple(name for name in PARAMETERS if takes_bias(name))
NATIVE_NORM = ("epsilon", "zero", "lrp0")
"""These do not look at weight signs: a BatchNorm behind them is an affine map of its own."""


def expected(case: Case, x: Tensor, name: str, mode: str, parameters: dict[str, Any]) -> Tensor:
    """The twin's relevance of the inputs, example by example."""
    folded = name not in NATIVE_NORM or mode == "distribute"
    held = x.clamp(min=0) if case.before else x
    with torch.no_grad():
        z = case.layer(held)
        y = z if case.norm is None else case.norm(z)
        arriving = case.multiplier * (y > 0) if case.after else case.multiplier
        R = y * arriving
        if case.norm is not None and not folded:
            slope = case.norm(torch.ones_like(z)) - case.norm(torch.zeros_like(z))
            R = z * slope * arriving
    matrix = case.matrix(folded)
    twin = TWINS[name]
    found = [
        twin(matrix, held[n].flatten(), R[n].flatten(), mode, **parameters).view(x[n].shape) for n in range(x.shape[0])
    ]
    return torch.stack(found)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
@given(case=cases(), data=st.data())
def test_rule_meets_its_literal_twin(name: str, case: Case, data: st.DataObject) -> None:
    """Relative 1e-8 in float64, on signed and non-negative inputs, with every bias mode."""
    parameters = data.draw(st.sampled_from(PARAMETERS[name]), label="parameters")
    mode = data.draw(st.sampled_from(MODES), label="bias") if name in TAKES_BIAS else "absorb"
    x = torch.randn(2, *case.shape, dtype=torch.float64)
    given_bias = {"bias": mode} if name in TAKES_BIAS else {}
    got = relevance(case, x, name, **parameters, **given_bias)
    want = expected(case, x, name, mode, parameters)
    note(f"{case}\ngot  {got}\nwant {want}")
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max().clamp(min=1e-300)


def test_epsilon_hands_on_what_a_bias_above_gave_by_magnitudes() -> None:
    """bias="distribute", two layers by hand: a zero entry gets the even parts, and near a zero of z nothing explodes.

    ``R_i = sum_j x_i v_ji w_j + b_j w_j / n + (c / k) |x_i v_ji| / sum_i' |x_i' v_i'j|``, c the upper bias, k units.
    """
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 1)).double().eval()
    lower, upper = model
    x = torch.randn(1, 5, dtype=torch.float64)
    x[0, 2] = 0.0
    with torch.no_grad():
        lower.bias[1] -= lower(x)[0, 1] - 1e-14  # this unit's z is all but 0
        lower.weight[3] = 0.0  # no contribution at all: its part is spread evenly
        parts = lower.weight * x
        total = parts.abs().sum(1, keepdim=True)
        magnitudes = torch.where(total > 0, parts.abs() / torch.where(total > 0, total, 1), 0.2)
        direct = (parts + lower.bias[:, None] / 5) * upper.weight.T
        want = (direct + upper.bias / 4 * magnitudes).sum(0)
    lrp = UnifiedLRP(model, rule="zero", bias="distribute")
    torch.testing.assert_close(lrp.attribute(x)[0], want, rtol=1e-9, atol=1e-12)
    ledger = lrp.ledger(x)
    assert ledger.gap.abs().max() < 1e-12
    torch.testing.assert_close(ledger.input, ledger.output, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rectified", [False, True])
def test_zbox_takes_bounds_entry_by_entry(rectified: bool) -> None:
    """Low and high as tensors of the input's shape, all different: Montavon et al. 2017, eq. 14, by hand."""
    torch.manual_seed(0)
    case = Case(torch.nn.Linear(5, 4), (5,), False, None, rectified)
    x, low, high = torch.randn(2, 5).double(), -torch.rand(5).double() - 3, torch.rand(5).double() + 3
    weight, bias = case.layer.weight.detach(), case.layer.bias.detach()
    part = weight * x[:, None] - weight.clamp(min=0) * low - weight.clamp(max=0) * high
    R = (x @ weight.T + bias) * case.multiplier
    R = torch.where(x @ weight.T + bias > 0, R, 0) if rectified else R
    want = torch.einsum("nji,nj->ni", part / part.sum(2, keepdim=True), R)
    torch.testing.assert_close(relevance(case, x, "zbox", low=low, high=high), want, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_side_that_rounding_alone_fills_is_empty(sign: int, dtype: torch.dtype) -> None:
    """Every contribution is of one sign; BatchNorm's own arithmetic and the folded one's differ in the last places."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2))
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.abs_()
        model[0].weight.mul_(sign)
        model[1].running_var.uniform_(0.3, 3)
        model[3].bias.zero_()
    model, x = model.to(dtype).eval(), torch.rand(2, 3, 8, 8).to(dtype)
    relevance = UnifiedLRP(model, "alphabeta").attribute(x, target=1)
    # alpha - beta = 1 of each side's relevance is all of it where the other side is empty: z+ (or z-) alone.
    torch.testing.assert_close(relevance.flatten(1).sum(1), model(x)[:, 1].detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bias", [3.0, -3.0])
@pytest.mark.parametrize("name", ["gamma", "gamma_montavon", "zplus", "alphabeta"])
def test_a_bias_left_out_that_decides_the_sign(name: str, bias: float) -> None:
    """z is of the bias's sign, the contributions of the other: what is left in the denominator is not z's sign."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(6, 4) * (-1 if bias > 0 else 1) + 0.05 * torch.randn(6, 4))
        layer.bias.fill_(bias)
    case, x = Case(layer, (4,), before=True, norm=None, after=False), torch.rand(2, 4, dtype=torch.float64)
    found = relevance(case, x, name, bias="ignore")
    want = expected(case, x, name, "ignore", {})
    assert (found - want).abs().max() <= TOLERANCE * want.abs().max()
    assert bool(found.any()) or name == "zplus"  # whose positive contributions there may be none


class Transposed(nn.Module):
    """A linear layer of a sequence whose first two dimensions changed places, as nn.MultiheadAttention's projections."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 8)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1).relu().sum((1, 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["epsilon", "zplus", "gamma", "alphabeta"])
def test_a_transposed_input_takes_one_product(name: str) -> None:
    """Torch itself makes a product for each row where the weight asks for no gradient (a ViT's: 33 ms, not 10)."""
    x, model = torch.randn(3, 7, 6, dtype=torch.float64), Transposed()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        found = UnifiedLRP(model, name).attribute(x)
    assert "aten::bmm" not in {event.key for event in seen.key_averages()}
    row_by_row = [UnifiedLRP(model, name).attribute(x[n : n + 1, i : i + 1]) for n in range(3) for i in range(7)]
    torch.testing.assert_close(found, torch.cat(row_by_row).view_as(x), rtol=1e-9, atol=1e-12)
