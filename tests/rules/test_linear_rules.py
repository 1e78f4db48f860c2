"""Every rule of linear maps meets its slow literal twin, on every kind of map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from linear_cases import Case, cases, relevance
from torch import Tensor
from twins import TWINS

TOLERANCE = 1e-8
MODES = ("absorb", "ignore", "distribute")
LOW, HIGH = -3.0, 3.5
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "epsilon": [{"epsilon": 0.1}, {"epsilon": 0.1, "relative": True}],
    "zero": [{}],
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
TAKES_BIAS = ("epsilon", "zero", "zplus", "alphabeta", "gamma", "gamma_montavon")
NATIVE_NORM = ("epsilon", "zero")
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
