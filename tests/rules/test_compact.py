"""alpha-beta and gamma with one tensor kept are the rules' general forms, which the literal twins check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_plugin.fast.blockwise
from lrp_plugin import UnifiedLRP
from lrp_plugin.fast import maps
from lrp_plugin.fast.maps import Build
from lrp_plugin.fast.switches import without
from lrp_plugin.primitives import Result

RULES: dict[str, list[dict[str, Any]]] = {
    "alphabeta": [{}, {"alpha": 3.0, "beta": 2.0}, {"alpha": 1.5, "beta": 0.5, "stabilizer": 0.1}, {"stabilizer": 0.0}],
    "gamma": [{}, {"gamma": 2.0, "stabilizer": 0.1}, {"stabilizer": 0.0}],
}
CASES = [(name, options) for name, all_options in RULES.items() for options in all_options]
X = torch.randn(3, 6, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def network(signed: bool, behind: str, seed: int = 0) -> nn.Sequential:
    """A layer on a signed or a non-negative input, [BatchNorm and] [a ReLU] behind it."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.weight.uniform_(-1.5, 1.5)
    parts = {"nothing": [], "ReLU": [nn.ReLU()], "BatchNorm, ReLU": [norm, nn.ReLU()], "BatchNorm": [norm]}
    first = [] if signed else [nn.ReLU()]
    model = nn.Sequential(*first, nn.Conv2d(6, 8, 3, padding=1), *parts[behind], nn.Flatten(), nn.Linear(8 * 81, 4))
    return model.double().eval()


COMPACT = ("two_sides_in_one", "own_sign_in_one")


@pytest.fixture
def compact(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each call of a compact form gave a value."""
    seen: list[bool] = []

    def watched(form: Build) -> Build:
        def call(*args: Any) -> Result | None:
            result = form(*args)
            seen.append(result is not None)
            return result

        return call

    plan = {
        key: tuple((name, watched(build) if name in COMPACT else build) for name, build in entries)
        for key, entries in maps.PLAN.items()
    }
    monkeypatch.setattr(maps, "PLAN", plan)
    yield seen


def general(monkeypatch: pytest.MonkeyPatch, model: nn.Module, x: Tensor, name: str, options: dict[str, Any]) -> Tensor:
    with without(*COMPACT):
        return UnifiedLRP(model, name, **options).attribute(x, target=1)


@pytest.mark.parametrize("behind", ["nothing", "ReLU", "BatchNorm", "BatchNorm, ReLU"])
@pytest.mark.parametrize("signed", [False, True], ids=["non-negative", "signed"])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_one_tensor_tells_what_two_do(
    name: str, options: dict[str, Any], signed: bool, behind: str, compact: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(signed, behind)
    want = general(monkeypatch, model, X, name, options)
    for block in (lrp_plugin.fast.blockwise.BLOCK, 100):  # 100 entries: pieces, the last one shorter
        monkeypatch.setattr(lrp_plugin.fast.blockwise, "BLOCK", block)
        found = UnifiedLRP(model, name, **options).attribute(X, target=1)
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12 * float(want.abs().max()))
    assert compact.count(True) >= (2 if name == "alphabeta" or signed else 0)


@pytest.mark.parametrize("place", ["one unit without negative weights", "one unit without positive weights"])
@pytest.mark.parametrize("behind", ["nothing", "ReLU"])
@pytest.mark.parametrize("signed", [False, True], ids=["non-negative", "signed"])
def test_a_unit_of_one_side_is_left_to_the_general_form(
    signed: bool, behind: str, place: str, compact: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With alpha = 2 and nothing on the other side such a unit would return twice what it got."""
    model, x = network(signed, behind), X.abs()
    layer = next(m for m in model if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        layer.weight[2].abs_().mul_(1 if "without negative" in place else -1)
        layer.bias[2] = 0
    found = UnifiedLRP(model, "alphabeta", stabilizer=0.1).attribute(x, target=1)
    dead = behind == "ReLU" and "without positive" in place  # its value is 0: there is nothing to share out
    assert compact[0] is dead
    want = general(monkeypatch, model, x, "alphabeta", {"stabilizer": 0.1})
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12 * float(want.abs().max()))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precisions(name: str, dtype: torch.dtype) -> None:
    model = network(True, "BatchNorm, ReLU")
    want = UnifiedLRP(model, name).attribute(X, target=1)
    found = UnifiedLRP(model.to(dtype), name).attribute(X.to(dtype), target=1)
    gap = float((found.double() - want).norm() / want.norm())
    assert gap < (1e-4 if dtype is torch.float32 else 0.2), gap


@pytest.mark.parametrize("signed", [False, True], ids=["non-negative", "signed"])
@pytest.mark.parametrize("name", RULES)
def test_several_targets_share_what_is_kept(name: str, signed: bool, compact: list[bool]) -> None:
    lrp = UnifiedLRP(network(signed, "ReLU"), name)
    many = lrp.attribute_targets(X, [0, 3, 1])
    for place, target in enumerate((0, 3, 1)):
        torch.testing.assert_close(many[place], lrp.attribute(X, target=target), rtol=1e-9, atol=1e-14)
    assert any(compact) or name == "gamma"
