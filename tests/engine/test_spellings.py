"""One operation, several spellings, one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites import Composite, last
from lrp_plugin.testing import assert_same_as


def network(spelling: object) -> nn.Module:
    """linear -> the spelling -> linear, float64, the same weights each time."""

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.above = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(spelling(self.below(x)))  # type: ignore[operator]

    torch.manual_seed(0)
    return Spelled().double().eval()


X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rule", ["epsilon", "zplus"])
def test_two_spellings_of_one_network_are_the_same(rule: str) -> None:
    plain = network(functional.relu)
    assert_same_as(UnifiedLRP(plain, rule=rule), UnifiedLRP(network(torch.relu), rule=rule), X, target=1)
    with pytest.raises(AssertionError, match="outputs"):
        assert_same_as(UnifiedLRP(plain, rule=rule), UnifiedLRP(network(functional.elu), rule=rule), X, target=1)
    halved = UnifiedLRP(network(lambda t: 0.5 * t.relu() + 0.5 * t.relu().detach()), rule=rule)
    with pytest.raises(AssertionError, match="relevance of input 0"):
        assert_same_as(UnifiedLRP(plain, rule=rule), halved, X, target=1)


def test_a_spelling_that_is_warned_about_is_not_the_same() -> None:
    """The map is the same, but an operation without a rule is told of."""
    plain, spelled = network(lambda t: t * 1.0), network(lambda t: torch.digamma(t) * 0 + t)
    with pytest.raises(AssertionError, match="warned about"):
        assert_same_as(UnifiedLRP(plain), UnifiedLRP(spelled), X, target=1)


def layer_norm_by_hand(t: Tensor) -> Tensor:
    return (t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def _put(t: Tensor, *, plain: bool) -> Tensor:
    places, value = torch.tensor([1, 7]), torch.tensor([0.5, 2.0], dtype=t.dtype)
    held = t.clone()
    if plain:
        flat = held.flatten()
        flat = flat.index_put((places,), value)
        return flat.view(t.shape)
    return held.put_(places, value)


def _after_a_write(t: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    held = t.clone()
    held[:, 0] = 1.5
    return read(held)


def _var_mean(t: Tensor) -> Tensor:
    variance, mean = torch.var_mean(t, -1, unbiased=False, keepdim=True)
    return (t - mean) / (variance + 1e-5).sqrt()


def _std_mean(t: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(t, dim=-1, correction=0, keepdim=True)
    return (t - mean) / (deviation.square() + 1e-5).sqrt()


SPELLED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "var_mean": (layer_norm_by_hand, _var_mean),
    "std_mean": (layer_norm_by_hand, _std_mean),
    "the mean of var_mean": (lambda t: t.mean(1)[:, None] + t, lambda t: torch.var_mean(t, 1)[1][:, None] + t),
    "var_mean of all": (lambda t: t * t.mean(), lambda t: t * torch.var_mean(t)[1]),
    "einsum as permutation": (
        lambda t: t.view(2, 2, 3).permute(0, 2, 1).flatten(1),
        lambda t: torch.einsum("nab->nba", t.view(2, 2, 3)).flatten(1),
    ),
    "einsum as sum": (
        lambda t: t.view(2, 2, 3).sum(1).repeat(1, 2), lambda t: torch.einsum("nab->nb", t.view(2, 2, 3)).repeat(1, 2)
    ),
    "einsum as diagonal": (
        lambda t: t[:, :4].view(2, 2, 2).diagonal(0, 1, 2).repeat(1, 3),
        lambda t: torch.einsum("naa->na", t[:, :4].view(2, 2, 2)).repeat(1, 3),
    ),
    "as_tensor": (lambda t: t * 2, lambda t: torch.as_tensor(t) * 2),
    "as_tensor after a write": (
        lambda t: _after_a_write(t, lambda h: h * 2), lambda t: _after_a_write(t, lambda h: torch.as_tensor(h) * 2)
    ),
    "view_copy": (lambda t: t.view(3, 4).view(2, 6), lambda t: torch.view_copy(torch.view_copy(t, (3, 4)), (2, 6))),
    "narrow_copy": (lambda t: t.narrow(1, 2, 3).repeat(1, 2), lambda t: t.narrow_copy(1, 2, 3).repeat(1, 2)),
    "split_with_sizes_copy": (
        lambda t: torch.cat(t.split_with_sizes([4, 2], 1)[::-1], 1),
        lambda t: torch.cat(torch.split_with_sizes_copy(t, [4, 2], 1)[::-1], 1),
    ),
    **{
        f"{name}_copy": (
            lambda t, name=name, rest=rest: getattr(t, name)(*rest).reshape(2, -1)[:, :1] + t,
            lambda t, name=name, rest=rest: getattr(torch, f"{name}_copy")(t, *rest).reshape(2, -1)[:, :1] + t,
        )
        for name, rest in {
            "transpose": (0, 1), "permute": ((1, 0),), "t": (), "unsqueeze": (0,), "squeeze": (), "select": (1, 2),
            "expand": ((1, 2, 6),), "diagonal": (), "unfold": (1, 2, 2), "as_strided": ((2, 6), (6, 1)),
        }.items()
    },
    "put_": (lambda t: _put(t, plain=True), lambda t: _put(t, plain=False)),
    "as_subclass": (lambda t: t * 2, lambda t: t.as_subclass(Tensor) * 2),
    "as_subclass of what is no map": (lambda t: t.relu() * 2, lambda t: t.relu().as_subclass(Tensor) * 2),
    "as_strided": (lambda t: t.view(3, 4).t().reshape(2, 6), lambda t: t.as_strided((4, 3), (1, 4)).reshape(2, 6)),
    "as_strided of a part": (
        lambda t: t[:, 1:3].repeat(1, 3), lambda t: t.t()[1:].as_strided((2, 2), (6, 1)).repeat(1, 3)
    ),
    "fliplr": (lambda t: t.flip(1), torch.fliplr),
    "atleast_3d": (lambda t: t * 2, lambda t: torch.atleast_3d(t).squeeze(-1) * 2),
}  # fmt: skip


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.1}, {"rule": "zplus"}, {"rule": "flat"}, {"rule": "gamma", "bias": "distribute"}], ids=str
)
@pytest.mark.parametrize("name", SPELLED)
def test_a_spelling_is_the_operation_it_is(name: str, options: dict[str, Any]) -> None:
    """By damping (epsilon), by signs, and by ports (flat, distribute), which zeros receive too."""
    plain, spelled = (UnifiedLRP(network(form), **options) for form in SPELLED[name])
    assert_same_as(plain, spelled, X, target=1)


# ---- softmax -------------------------------------------------------------------------------------------------------
def _divided(numerator: Tensor) -> Tensor:
    return numerator / numerator.sum(-1, keepdim=True)


def _in_place(z: Tensor) -> Tensor:
    held = z - z.max(-1, keepdim=True)[0]
    held.exp_()
    held /= held.sum(-1, keepdim=True)
    return held


GROUPS = torch.tensor([0, 0, 1, 1, 1, 0])
KEPT = torch.tensor([1, 1, 0, 1, 1, 0], dtype=torch.float64)


def _by_groups(z: Tensor) -> Tensor:
    parts = [torch.softmax(z[:, group == GROUPS], -1) for group in (0, 1)]
    return torch.cat([parts[0][:, :2], parts[1], parts[0][:, 2:]], 1)


def _scattered(z: Tensor) -> Tensor:
    """torch_geometric.utils.softmax."""
    places = GROUPS.expand_as(z)
    largest = z.new_zeros(len(z), 2).scatter_reduce(1, places, z.detach(), "amax", include_self=False)
    out = (z - largest.index_select(1, GROUPS)).exp()
    total = z.new_zeros(len(z), 2).scatter_add_(1, places, out) + 1e-16
    return out / total.index_select(1, GROUPS)


def _less(z: Tensor) -> Tensor:
    return z - z.amax(-1, keepdim=True).detach()


def _softmax(z: Tensor) -> Tensor:
    return torch.softmax(z, -1)


SOFTMAXES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exp over its sum": (_softmax, lambda z: _divided(z.exp())),
    "two exponentials": (_softmax, lambda z: z.exp() / z.exp().sum(-1, keepdim=True)),
    "the maximum detached": (_softmax, lambda z: _divided((z - z.amax(-1, keepdim=True).detach()).exp())),
    "the maximum taken twice": (_softmax, lambda z: _less(z).exp() / _less(z).exp().sum(-1, keepdim=True)),
    "the maximum a signal": (_softmax, lambda z: _divided(torch.exp(z - z.max(-1, keepdim=True).values))),
    "log_softmax": (_softmax, lambda z: z.log_softmax(-1).exp()),
    "logsumexp": (_softmax, lambda z: (z - z.logsumexp(-1, keepdim=True)).exp()),
    "in place": (_softmax, _in_place),
    "by groups": (_by_groups, _scattered),
    "masked": (
        lambda z: torch.softmax(z.masked_fill(KEPT == 0, -torch.inf), -1), lambda z: _divided(z.exp() * KEPT)
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", [{"epsilon": 0.1}, {"rule": "zplus"}, {"composite": "cp_lrp"}], ids=str)
@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_by_hand_is_softmax(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    values = nn.Linear(6, 6).double()
    plain, spelled = (network(lambda z, form=form: form(z) * values(z)) for form in SOFTMAXES[name])
    assert_same_as(UnifiedLRP(plain, **options), UnifiedLRP(spelled, **options), X, target=1)


def test_what_is_no_softmax_stays_a_division() -> None:
    """Exponentials divided by another signal's sum, or by their Euclidean norm: the divisor is a constant."""
    other = nn.Linear(6, 6).double()
    for spelled in (
        lambda z: z.exp() / other(z).exp().sum(-1, keepdim=True),
        lambda z: z.exp() / z.exp().square().sum(-1, keepdim=True).sqrt(),
    ):
        ledger = UnifiedLRP(network(spelled)).ledger(X, target=1)
        assert [row.operation for row in ledger.rows if row.operation in ("div", "softmax")] == ["div"]
        torch.testing.assert_close(ledger.gap, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_product_of_two_signals_is_no_linear_map() -> None:
    """``last()`` finds the layer behind the attention's products, not one of them; nor an einsum that moves entries."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            return torch.einsum("ab->ba", (h @ h.t()) @ h).t()

    plan = UnifiedLRP(Network().double(), composite=Composite([(last(), "zplus")])).plan(X)
    assert [
        (site.name, site.linear, choice.rule.name) for site, choice in plan.entries if choice.rule.name == "zplus"
    ] == [("linear", True, "zplus")]
