"""Elementwise formulas as one kernel each: what Inductor makes of them is what they are, and how the rest is told."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.algebra.curves import Applied, Origin
from lrp_plugin.fast import compact, curves, elementwise, kernels, redistribution, sides, switches

GELU = Applied(nn.functional.gelu, (), ())
SIGMOID = Applied(torch.sigmoid, (), ())
FORMULAS: dict[str, tuple[Callable[..., Any], int]] = {
    "damped": (partial(elementwise._damped, 0.01), 2),
    "damped where positive": (partial(elementwise._damped_where_positive, 0.01), 3),
    "damped behind a ReLU": (partial(elementwise._damped_behind_relu, 0.01), 2),
    "damped secant": (partial(elementwise._damped_secant, GELU, 0.01), 2),
    "secant": (partial(curves._through_secant, GELU, Origin(0.0, 0.5, 0.8, True)), 2),
    "secant away from 0": (partial(curves._through_secant, SIGMOID, Origin(0.5, 0.25, 0.0, True)), 2),
    "left over": (partial(sides._left_over, 0.5, -1, 1e-5), 2),
    "factor": (partial(redistribution._factor, redistribution.Form(1.0, 0, 0, False, False, 1e-3)), 2),
    "factor of one side": (partial(redistribution._factor, redistribution.Form(2.0, 1, 1, True, False, 1e-3)), 3),
    "over own sign": (partial(compact._over_own, 0.1, 1e-3), 2),
    "own sign": (partial(compact._of_own_sign, 0.1), 2),
    "parts": (partial(compact._by_parts, compact._Sides(2.0, 1.0, 1e-3, 1e-5)), 3),
    "halves": (partial(compact._by_halves, compact._Sides(2.0, 1.0, 1e-3, 1e-5)), 3),
}  # fmt: skip
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU goes a GPU's way, with kernels of its own made anew."""
    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})
    monkeypatch.setattr(kernels, "_made", {})
    monkeypatch.setattr(kernels, "_told", set())


def entries(count: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Rows of both signs, with zeros; the first are the magnitudes' place in a formula, and bound the others."""
    generator = torch.Generator().manual_seed(length)
    found = [torch.randn(length, generator=generator, dtype=torch.float64) for _ in range(count)]
    found[-2 if count == 3 else 0] = found[-1].abs() + found[0].abs()
    found[-1][:: max(length // 7, 1)] = 0
    return [one.to(dtype) for one in found]


def holds(name: str, dtype: torch.dtype) -> None:
    """The kernel of a formula gives what it gives, for rows of any length."""
    formula, count = FORMULAS[name]
    for length in (5000, 3, 70_001):
        rows = entries(count, length, dtype)
        found, expected = kernels.fused(formula, rows), formula(*rows, out=None)
        kernels._compare(found, expected)
    assert [run for run in kernels._made.values() if run is None] == []
    assert len(kernels._made) == 1  # for any length


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("name", ["damped", "parts"])
def test_a_kernel_is_its_formula(name: str) -> None:
    holds(name, torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_kernel_is_its_formula_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    if name in ("parts", "halves") and dtype.itemsize < 4:
        pytest.skip("a side by a difference is rounding in half precision: the formula is not used there")
    holds(name, dtype)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_kernel_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "compiled_graph", lambda function, examples: lambda m, z: m + z)
    formula, _ = FORMULAS["damped"]
    rows = entries(2, 50, torch.float64)
    with pytest.warns(UserWarning, match="step by step on the GPU.*something else than the formula"):
        found = kernels.fused(formula, rows)
    torch.testing.assert_close(found, formula(*rows, out=None), rtol=0, atol=0)


@pytest.mark.usefixtures("on_the_cpu")
def test_why_no_kernel_is_made_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(kernels, "compiled_graph", fails)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for name in ("damped", "damped behind a ReLU"):
            kernels.fused(FORMULAS[name][0], entries(2, 50, torch.float64))
    assert ["no compiler here" in str(one.message) for one in told] == [True]


def network(kind: str) -> tuple[nn.Module, Tensor]:
    """A small network in double precision and its input."""
    torch.manual_seed(3)
    layers: list[nn.Module] = [
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU() if kind == "relu" else nn.GELU(),
        nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(48, 3),
    ]  # fmt: skip
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        if (
            kind == "one side"
        ):  # units of the map behind a ReLU that have a positive side alone, a negative one, neither
            model[3].bias.zero_()
            model[3].weight[0].abs_()
            model[3].weight[1].abs_().neg_()
            model[3].weight[2].zero_()
            model[0].weight[0].zero_()  # and behind a signed input one that is empty
            model[0].bias[0] = 0
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model, torch.randn(2, 2, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    "rule", ["epsilon", "zero", "zplus", "alphabeta", "gamma", "gamma_montavon", "flat", "wsquare"]
)
@pytest.mark.parametrize("kind", ["relu", "gelu", "one side"])
def test_a_gpus_way_gives_the_same_relevance(kind: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are those of a GPU, and what would be one kernel there is counted and run as it is written."""
    model, x = network(kind)
    with switches.without():
        general = UnifiedLRP(model, rule).attribute(x, target=1)
    made: list[Any] = []

    def plain(formula: Callable[..., Any], rows: list[Tensor]) -> Any:
        assert isinstance(formula, functools.partial)  # else a GPU would run it step by step
        hash((formula.func, formula.args))
        made.append(formula.func)
        return formula(*rows, out=None)

    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})
    monkeypatch.setattr(kernels, "fused", plain)
    found = UnifiedLRP(model, rule).attribute(x, target=1)
    torch.testing.assert_close(found, general, rtol=1e-9, atol=1e-11)
    assert made or rule in ("zero", "flat")  # flat divides by one row of counts for all examples


@pytest.mark.slow
@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("rule", ["epsilon", "zplus", "alphabeta", "gamma"])
def test_compiled_kernels_give_the_same_relevance(rule: str) -> None:
    model, x = network("gelu")
    with switches.without():
        general = UnifiedLRP(model, rule).attribute(x, target=1)
    torch.testing.assert_close(UnifiedLRP(model, rule).attribute(x, target=1), general, rtol=1e-9, atol=1e-11)
    assert kernels._made and None not in kernels._made.values()
