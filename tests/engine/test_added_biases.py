"""A constant added to a map without a bias is its bias, however it is added; other constants are additions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import LayerUnifiedLRP, UnifiedLRP
from lrp_plugin.composites import Composite, first, last, nth, rule
from lrp_plugin.testing import assert_same_as

Map = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Each as (the map without a bias, the map with one); weight (5, 6), bias (5,), input (..., 6).
PRODUCTS: dict[str, Map] = {
    "linear": lambda x, w, b: functional.linear(x, w),
    "x @ W.T": lambda x, w, b: x @ w.T,
    "torch.matmul": lambda x, w, b: torch.matmul(x, w.mT),
    "einsum": lambda x, w, b: torch.einsum("nti,oi->nto" if x.dim() == 3 else "ni,oi->no", x, w),
    "einsum, weight first": lambda x, w, b: torch.einsum("oi,nti->nto" if x.dim() == 3 else "oi,ni->no", w, x),
}
ADDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "z + b": lambda z, b: z + b,
    "b + z": lambda z, b: b + z,
    "z += b": lambda z, b: z.__iadd__(b),
    "add_": lambda z, b: z.add_(b),
    "torch.add": lambda z, b: torch.add(z, b),
    "alpha": lambda z, b: torch.add(z, b / 2, alpha=2),
    "z - (-b)": lambda z, b: z - (-b),
    "of more dimensions": lambda z, b: z + b.view(*[1] * (z.dim() - 1), -1),
    "aten": lambda z, b: torch.ops.aten.add.Tensor(z, b),
}
RULES: list[dict[str, Any]] = [
    {"rule": "epsilon"},
    {"rule": "zero"},
    {"rule": "zplus"},
    {"rule": "alphabeta"},
    {"rule": "gamma"},
    {"rule": "flat"},
    {"rule": "wsquare"},
    {"rule": "epsilon", "bias": "distribute"},
    {"rule": "zplus", "bias": "ignore"},
    {"composite": "attnlrp"},
]


class Net(nn.Module):
    """linear -> relu -> the map -> relu -> linear."""

    def __init__(self, middle: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above, self.held = nn.Linear(6, 6), nn.Linear(5, 3), nn.Linear(6, 5)
        self.middle = middle
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        z = self.middle(self.below(x).relu(), self.held.weight, self.held.bias)
        return self.above(z.relu()).flatten(1, -2).sum(1) if x.dim() > 2 else self.above(z.relu())  # type: ignore[no-any-return]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(PRODUCTS)), st.sampled_from(sorted(ADDED)), st.sampled_from(RULES),
    st.sampled_from([(2, 6), (2, 3, 6)]),
)  # fmt: skip
def test_a_bias_added_by_hand_is_the_layers_own(
    product: str, added: str, how: dict[str, Any], shape: tuple[int, ...]
) -> None:
    plain = Net(lambda x, w, b: functional.linear(x, w, b))
    spelled = Net(lambda x, w, b: ADDED[added](PRODUCTS[product](x, w, b), b))
    assert_same_as(UnifiedLRP(plain, **how), UnifiedLRP(spelled, **how), drawn(*shape), target=1)


@pytest.mark.parametrize("how", RULES, ids=str)
def test_a_unit_written_as_a_product_with_a_vector(how: dict[str, Any]) -> None:
    """Logistic regression by hand: ``x @ w + b``."""
    w, b = drawn(6), drawn(1)
    plain = UnifiedLRP(lambda v: functional.linear(v.tanh(), w[None], b), **how)
    for spelled in (lambda t: t @ w + b, lambda t: torch.mv(t, w) + float(b), lambda t: torch.addmv(b.expand(2), t, w)):
        assert_same_as(plain, UnifiedLRP(lambda v, f=spelled: f(v.tanh())[:, None], **how), drawn(2, 6), target=0)


@pytest.mark.parametrize("how", RULES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_bias_too(how: dict[str, Any], stride: int) -> None:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(2, 3, 3, stride=stride).double(), nn.Linear(3, 2).double()
    norm = nn.BatchNorm2d(3).double().eval()
    norm.running_mean.normal_()  # type: ignore[union-attr,operator]
    x = drawn(2, 2, 7, 7)

    def plain(v: Tensor) -> Tensor:
        return head(norm(conv(v)).relu().mean((2, 3)))  # type: ignore[no-any-return]

    def spelled(v: Tensor) -> Tensor:
        z = functional.conv2d(v, conv.weight, None, stride) + conv.bias.view(-1, 1, 1)  # type: ignore[union-attr]
        return head(norm(z).relu().mean((2, 3)))  # type: ignore[no-any-return]

    assert_same_as(UnifiedLRP(plain, **how), UnifiedLRP(spelled, **how), x, target=1)


@pytest.mark.parametrize("how", [{"rule": "epsilon"}, {"rule": "zplus"}], ids=str)
def test_a_backward_hook_between_changes_nothing(how: dict[str, Any]) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.map, self.shift = nn.Linear(6, 3, bias=False), nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x) + self.shift  # type: ignore[no-any-return]

    shifted = Shifted().double().eval()
    plain = nn.Linear(6, 3).double().eval()
    plain.load_state_dict({"weight": shifted.map.weight, "bias": shifted.shift})
    handle = shifted.map.register_full_backward_hook(lambda module, into, out: None)
    assert_same_as(UnifiedLRP(plain, **how), UnifiedLRP(shifted, **how), drawn(2, 6), target=1)
    handle.remove()
    # The layer's own relevance is asked for: the sum is an addition then.
    layer = LayerUnifiedLRP(shifted, shifted.map, **how).attribute(drawn(2, 6), target=1)
    assert float(layer.abs().sum()) > 0


def additions(network: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[str]:
    account = UnifiedLRP(network, rule="epsilon").ledger(x, target=0)
    yield from (row.operation for row in account.rows if row.operation in ("add", "sub"))


@pytest.mark.parametrize(
    "network",
    [
        lambda x, w, p: x @ w.T + p,  # an embedding of places
        lambda x, w, p: p[0] - x @ w.T,
        lambda x, w, p: (x @ w.T).relu() + p[0],
        lambda x, w, p: functional.linear(x, w, p[0]) + p[1],
        lambda x, w, p: torch.add(p[0], x @ w.T, alpha=2),
        lambda x, w, p: torch.einsum("nti,toi->nto", x, w.expand(4, 3, 6)) + p[:, :1],
    ],
)
def test_what_is_no_bias_is_an_addition(network: Callable[..., Tensor]) -> None:
    w, places = drawn(3, 6), drawn(4, 3)
    assert len(list(additions(lambda v: network(v, w, places).sum(1), drawn(2, 4, 6)))) == 1


def test_the_map_keeps_its_number_and_its_place_in_the_plan() -> None:
    plain = Net(lambda x, w, b: functional.linear(x, w, b))
    spelled = Net(lambda x, w, b: x @ w.T + b)
    composite = Composite([(last(), rule("gamma")), (first(), rule("flat")), (nth(1), rule("zplus"))])
    x = drawn(2, 6)
    assert_same_as(UnifiedLRP(plain, composite=composite), UnifiedLRP(spelled, composite=composite), x, target=1)
    assert len(UnifiedLRP(plain).plan(x)) == len(UnifiedLRP(spelled).plan(x))


WRITTEN: dict[str, Callable[[Tensor], Any]] = {
    "all of it": lambda t: t.mul_(3.0),
    "a part": lambda t: t[:, :3].fill_(2.0),
    "a relu": lambda t: t.relu_(),
    "an item": lambda t: t.__setitem__((slice(None), 0), 5.0),
}


@pytest.mark.parametrize("how", RULES[:6], ids=str)
@pytest.mark.parametrize("name", WRITTEN)
def test_an_input_written_to_in_between_is_read_as_it_was(name: str, how: dict[str, Any]) -> None:
    w, b = drawn(3, 6), drawn(3)

    def written(v: Tensor) -> Tensor:
        t = torch.tanh(v)
        z = t @ w.T
        WRITTEN[name](t)
        return z + b

    plain = UnifiedLRP(lambda v: functional.linear(torch.tanh(v), w, b), **how)
    assert_same_as(plain, UnifiedLRP(written, **how), drawn(2, 6), target=0)
