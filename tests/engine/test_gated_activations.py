"""An activation written by hand as x times a function of x has the map of the activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import UnifiedLRP
from lrp_plugin.testing import assert_same_as

Curve = Callable[[Tensor], Tensor]


def _tanh_gelu(t: Tensor) -> Tensor:
    """Hugging Face's NewGELU (GPT-2)."""
    return 0.5 * t * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (t + 0.044715 * torch.pow(t, 3.0))))


def _fast_gelu(t: Tensor) -> Tensor:
    """Hugging Face's FastGELU, whose inner product is of the same kind."""
    return 0.5 * t * (1.0 + torch.tanh(t * math.sqrt(2.0 / math.pi) * (1.0 + 0.044715 * t * t)))


HAND: dict[str, tuple[Curve, Curve]] = {
    "gelu": (functional.gelu, lambda t: 0.5 * t * (1 + torch.erf(t / math.sqrt(2)))),
    "gelu, other order": (functional.gelu, lambda t: (1 + (t * math.sqrt(0.5)).erf()) * t * 0.5),
    "gelu, tanh": (lambda t: functional.gelu(t, approximate="tanh"), _tanh_gelu),
    "gelu, fast": (lambda t: functional.gelu(t, approximate="tanh"), _fast_gelu),
    "silu": (functional.silu, lambda t: t * torch.sigmoid(t)),
    "silu, in place": (functional.silu, lambda t: torch.sigmoid(t).mul_(t)),
    "silu, divided": (functional.silu, lambda t: t / (1 + torch.exp(-t))),
    "quick gelu": (lambda t: functional.silu(1.702 * t) / 1.702, lambda t: t * torch.sigmoid(1.702 * t)),
    "hardswish": (functional.hardswish, lambda t: t * functional.relu6(t + 3) / 6),
    "hardswish, hardsigmoid": (functional.hardswish, lambda t: t.mul(functional.hardsigmoid(t))),
    "mish": (functional.mish, lambda t: t * torch.tanh(functional.softplus(t))),
    "behind a relu": (lambda t: functional.silu(t.relu()), lambda t: (lambda r: r * r.sigmoid())(t.relu())),
    "twice": (lambda t: functional.silu(functional.silu(t)), lambda t: (lambda r: r * r.sigmoid())(t * t.sigmoid())),
}
RULES: list[dict[str, Any]] = [
    {"rule": "epsilon"}, {"rule": "zplus"}, {"rule": "gamma"}, {"rule": "flat"}, {"rule": "epsilon", "bias": "distribute"},
    {"composite": "attnlrp"}, {"composite": "arras"},
]  # fmt: skip


def network(curve: Curve) -> nn.Module:
    class Curved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.below, self.above = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(curve(self.below(x)))  # type: ignore[no-any-return]

    return Curved().double().eval()


X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@settings(max_examples=60)
@given(st.sampled_from(sorted(HAND)), st.sampled_from(RULES))
def test_by_hand_is_as_the_operation(name: str, how: dict[str, Any]) -> None:
    plain, hand = HAND[name]
    # torch's tanh form rounds its constants otherwise than Hugging Face's.
    torch.testing.assert_close(plain(X), hand(X), rtol=1e-9, atol=1e-9)
    assert_same_as(UnifiedLRP(network(plain), **how), UnifiedLRP(network(hand), **how), X, target=1, tolerance=1e-8)


@pytest.mark.parametrize("name", sorted(HAND))
def test_the_gated_signal_takes_all_and_the_gate_nothing(name: str) -> None:
    """With LRP-0 the relevance of the activation is its value times its multiplier: nothing is lost on the way."""
    hand = HAND[name][1]
    account = UnifiedLRP(lambda v: hand(v), rule="zero").ledger(X, target=1)
    torch.testing.assert_close(account.input, account.output, rtol=1e-9, atol=1e-12)


def test_a_gate_of_another_signal_shares() -> None:
    """GLU's two factors are two signals: half each, or as the products' rule has it, as F.glu."""
    for how in RULES:
        plain, hand = network(functional.glu), network(lambda t: t[:, :4] * torch.sigmoid(t[:, 4:]))
        for one in (plain, hand):
            one.above = nn.Linear(4, 3).double()  # type: ignore[assignment]
        hand.load_state_dict(plain.state_dict())
        assert_same_as(UnifiedLRP(plain, **how), UnifiedLRP(hand, **how), X, target=1)


REST: dict[str, tuple[Curve, Curve]] = {
    "a number by it": (lambda t: torch.reciprocal(t) * torch.sigmoid(t), lambda t: (1 / t) * torch.sigmoid(t)),
    "a constant by it": (
        lambda t: torch.reciprocal(t) * torch.sigmoid(t),
        lambda t: torch.div(torch.ones_like(t), t) * torch.sigmoid(t),
    ),
    "its square": (lambda t: t.square() * torch.sigmoid(t), lambda t: (t * t) * torch.sigmoid(t)),
}


@pytest.mark.parametrize("how", [{"rule": "zero"}, {"rule": "epsilon"}, {"composite": "attnlrp"}], ids=str)
@pytest.mark.parametrize("name", REST)
def test_what_is_divided_by_a_signal_is_no_multiple_of_it(name: str, how: dict[str, Any]) -> None:
    """The whole relevance went to a divisor, which hands nothing on."""
    plain, hand = (UnifiedLRP(network(one), **how) for one in REST[name])
    assert_same_as(plain, hand, X, target=1)


def test_a_signal_changed_in_between_is_another() -> None:
    def changed(t: Tensor) -> Tensor:
        gate = torch.sigmoid(t)
        t.add_(1.0)
        return t * gate

    def other(t: Tensor) -> Tensor:
        return (t + 1.0) * torch.sigmoid(t)

    assert_same_as(UnifiedLRP(network(other)), UnifiedLRP(network(changed)), X, target=1)


def test_a_mean_is_no_function_of_an_entry() -> None:
    """Squeeze and excitation by hand: the gate is made of other entries too, so the product shares."""
    gated = network(lambda t: t * torch.sigmoid(t.mean(1, keepdim=True)))
    held = network(lambda t: t * torch.sigmoid(t.mean(1, keepdim=True)).detach())
    a, b = (UnifiedLRP(one, rule="zero").attribute(X, target=1) for one in (gated, held))
    assert float((a - b).abs().max()) > 1e-3
