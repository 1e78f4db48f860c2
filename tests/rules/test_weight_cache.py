"""Modified weights: kept while the model's state holds the same, however it was edited, and kept of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from lrp_plugin import UnifiedLRP
from lrp_plugin.fast.weights import WeightCache

RULES = ("epsilon", "zplus", "gamma", "gamma_montavon", "alphabeta", "flat", "wsquare")
EDITS: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda w: w.data.mul_(-1),
    "one entry of data": lambda w: w.data.view(-1)[0].add_(0.5),
    "two entries exchanged": lambda w: w.data.copy_(w.data.flip(0)),
    "in place": lambda w: w.detach().mul_(-1),
    "numpy": lambda w: w.detach().numpy().__imul__(-1),
}


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 40, 5), nn.BatchNorm2d(40), nn.ReLU(), nn.Flatten(), nn.Linear(160, 3)).eval()
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return net.double()


@given(st.sampled_from(RULES), st.sampled_from(sorted(EDITS)), st.sampled_from(["0.weight", "0.bias", "1.running_mean",
       "1.running_var", "1.weight", "4.weight"]), st.sampled_from(["absorb", "distribute"]))  # fmt: skip
def test_an_edit_is_seen(rule: str, edit: str, name: str, bias: str) -> None:
    net, x = _network(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    options = {"rule": rule} if rule in ("flat", "wsquare") else {"rule": rule, "bias": bias}
    held = UnifiedLRP(net, **options)
    held.attribute(x, target=1)
    edited = dict(net.named_parameters()) | dict(net.named_buffers())
    EDITS[edit](edited[name])
    if name == "1.running_var":
        net[1].running_var.data.abs_()
    assert torch.equal(held.attribute(x, target=1), UnifiedLRP(net, **options).attribute(x, target=1))


def test_a_square_weight_and_its_transpose_are_two() -> None:
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(x @ self.weight) @ self.weight.t()

    net, x = Tied().double().eval(), torch.randn(2, 4, dtype=torch.float64)
    untied = lambda v: functional.relu(v @ net.weight.detach().clone()) @ net.weight.detach().t().contiguous()  # noqa: E731
    for rule in RULES:
        wanted = UnifiedLRP(untied, rule=rule).attribute(x, target=1)
        assert (UnifiedLRP(net, rule=rule).attribute(x, target=1) - wanted).abs().max() <= 1e-12


def test_what_a_pass_computes_is_not_kept() -> None:
    scaled = nn.Linear(20, 30)
    for net in (weight_norm(nn.Linear(20, 30)), lambda v: functional.linear(v, scaled.weight * 2)):
        lrp = UnifiedLRP(net, rule="zplus")
        lrp.attribute(torch.rand(2, 20), target=0)
        size = len(lrp.session.weights._entries)
        for _ in range(3):
            lrp.attribute(torch.rand(2, 20), target=0)
        assert len(lrp.session.weights._entries) == size == 0


def test_weights_are_made_once() -> None:
    """Else every pass would make them anew, and nothing would show it."""
    net, made, real = _network(), [], WeightCache.get

    def counting(self: WeightCache, sources: Any, variant: Any, make: Callable[[], Any]) -> Any:
        return real(self, sources, variant, lambda: made.append(variant) or make())

    lrp, x = UnifiedLRP(net, rule="zplus"), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightCache, "get", counting)
        lrp.attribute(x, target=1)
        first = len(made)
        lrp.attribute(x, target=1)
    assert len(made) == first > 0


@pytest.mark.parametrize("eps", [1e-5, 1e-1])
def test_batch_norms_eps_is_part_of_what_is_kept(eps: float) -> None:
    net, x = _network(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    lrp = UnifiedLRP(net, rule="zplus")
    lrp.attribute(x, target=1)
    net[1].eps = eps
    assert torch.equal(lrp.attribute(x, target=1), UnifiedLRP(net, rule="zplus").attribute(x, target=1))


def test_an_edit_through_data_is_seen_by_a_compiled_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # the graph alone: compiling takes long
    net, x = _network(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    lrp = UnifiedLRP(lambda v: net(v), rule="zplus", compile=True)
    for name in ("0.weight", "1.running_mean", "4.weight"):
        lrp.attribute(x, target=1)
        (dict(net.named_parameters()) | dict(net.named_buffers()))[name].data.mul_(-1)
        found = lrp.attribute(x, target=1)
        wanted = UnifiedLRP(net, rule="zplus").attribute(x, target=1)
        assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max().clamp(min=1)
        again = lrp.attribute(x, target=1)
        assert (again - wanted).abs().max() <= 1e-12 * wanted.abs().max().clamp(min=1)
