"""One law holds the fast paths: whatever a specialisation gives, the formula as it is written gives too.

Each has a switch (`lrp_plugin.fast.switches`), so a failing case names it. Tolerances: sums of some hundred terms in another
order agree to 1e-12 of their size, which cancellation in a denominator may lift.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin import Composite, LayerUnifiedLRP, UnifiedLRP, registry, rule
from lrp_plugin.algebra.parts import NEGATIVE, POSITIVE, WHOLE, Shares, at_port, by_sign
from lrp_plugin.composites import cp_lrp, epsilon_gamma_box, linear_maps
from lrp_plugin.fast import maps, switches
from lrp_plugin.rules.maps import linear_rule
from lrp_plugin.testing import GraphNetwork, explanations

RULES: dict[str, dict[str, Any]] = {
    "epsilon": {"rule": "epsilon", "epsilon": 0.1},
    "zero": {"rule": "zero"},
    "zplus": {"rule": "zplus"},
    "alphabeta": {"rule": "alphabeta"},
    "gamma": {"rule": "gamma"},
    "gamma_montavon": {"rule": "gamma_montavon"},
    "excitation": {"composite": Composite([(linear_maps(), rule("excitation_backprop"))])},
    "wsquare": {"rule": "wsquare"},
    "epsilon_plus_flat": {"composite": "epsilon_plus_flat"},
    "epsilon_gamma_box": {"composite": epsilon_gamma_box(-4.0, 4.0)},
    "alphabeta, ignore": {"rule": "alphabeta", "bias": "ignore"},
    "gamma, ignore": {"rule": "gamma", "bias": "ignore"},
    "zplus, distribute": {"rule": "zplus", "bias": "distribute"},
}
BY_NAME = ("epsilon", "zplus", "alphabeta", "gamma", "gamma_montavon", "epsilon_plus_flat", "epsilon_gamma_box")
X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Everything(nn.Module):
    """A network in which every specialisation has its place; the stem's input is signed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.first, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.third = nn.Conv2d(6, 6, 1), nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.query, self.key, self.value, self.head = (nn.Linear(6, 6) for _ in range(4))
        for norm in (self.stem[1], self.norm):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.weight, -1.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(self.stem(x)))
        y = self.second(x)
        x = functional.relu(y) + y  # two readers: positive entries alone matter to one of them
        y = functional.relu(self.norm(self.first(x)), inplace=True)
        x = functional.relu(self.second(y).add_(x))
        x = functional.relu(self.norm(x))
        x = functional.silu(self.third(x))
        x = functional.gelu(self.second(x))
        t = x.flatten(2).transpose(1, 2)
        t = functional.scaled_dot_product_attention(self.query(t), self.key(t), self.value(t))
        return self.head(functional.relu(self.head(t).mean(1)))


def network(dtype: torch.dtype = torch.float64, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(1)
    return Everything().to(dtype=dtype, memory_format=layout).eval()


def assert_same(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    scale = max(float(expected.double().abs().max()), 1e-6)
    assert float((found.double() - expected.double()).abs().max()) <= tolerance * scale


KEPT: dict[str, Tensor] = {}


def fast_map(options: dict[str, Any]) -> Tensor:
    """The map with every specialisation, computed once for each."""
    key = str(options)
    if key not in KEPT:
        KEPT[key] = UnifiedLRP(network(), **options).attribute(X, 1)
    return KEPT[key]


class Asked(frozenset[str]):
    """Rules nothing out, and remembers what was asked for."""

    names: set[str]

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return False


def test_every_specialisation_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law below would hold of one that is never asked for, too."""
    asked = Asked()
    asked.names = set()
    monkeypatch.setattr(switches, "off", asked)
    for options in [*RULES.values(), {"composite": cp_lrp()}]:
        UnifiedLRP(network(), **options).attribute(X, 1)
    assert asked.names == set(switches.EVERYTHING)


def test_the_table_and_the_switches_name_the_same() -> None:
    assert {name for entries in maps.PLAN.values() for name, _ in entries} <= switches.EVERYTHING
    with pytest.raises(ValueError, match="no specialisation is named nothing; legal are .*two_sides"):
        switches.without("nothing").__enter__()


@pytest.mark.parametrize("name", sorted(switches.EVERYTHING))
@pytest.mark.parametrize("options", [*(RULES[name] for name in BY_NAME), {"composite": cp_lrp()}], ids=str)
def test_a_specialisation_equals_what_serves_without_it(name: str, options: dict[str, Any]) -> None:
    with switches.without(name):
        assert_same(fast_map(options), UnifiedLRP(network(), **options).attribute(X, 1))


@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
@settings(max_examples=25, deadline=None)
@given(case=explanations())
def test_fast_equals_general_on_generated_networks(
    options: dict[str, Any], case: tuple[GraphNetwork, Tensor, Any]
) -> None:
    model, batch, target = case
    lrp = UnifiedLRP(model, **options)
    fast = lrp.attribute(batch, target)
    with switches.without():
        general = lrp.attribute(batch, target)
        ledger = lrp.ledger(batch, target)
    assert_same(fast, general)
    assert ledger.gap.abs().max() <= 1e-9 * max(1.0, float(ledger.output.abs().max()))
    total = fast.flatten(1).sum(1)
    torch.testing.assert_close(ledger.input, total, rtol=1e-7, atol=1e-7 * max(1.0, float(general.abs().max())))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
def test_in_lower_precision_and_every_layout(
    options: dict[str, Any], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """The fast path is about as near to the map in double precision as the formula as it is written is."""
    exact = UnifiedLRP(network(), **options).attribute(X, 1)
    assert_same(UnifiedLRP(network(layout=layout), **options).attribute(X.to(memory_format=layout), 1), exact)
    lrp, x = UnifiedLRP(network(dtype, layout), **options), X.to(dtype=dtype, memory_format=layout)
    fast = float((lrp.attribute(x, 1).double() - exact).norm())
    with switches.without():
        general = float((lrp.attribute(x, 1).double() - exact).norm())
    assert fast <= 8 * general + 64 * torch.finfo(dtype).eps * float(exact.norm())


ASKED: dict[str, Callable[[UnifiedLRP], Tensor]] = {
    "targets": lambda lrp: lrp.attribute_targets(X, [0, 3, 1]),
    "layer": lambda lrp: LayerUnifiedLRP(lrp.model, lrp.model.second, composite=lrp.composite).attribute(X, 1),
    "batches": lambda lrp: lrp.attribute(X, 1, internal_batch_size=1),
    "ledger": lambda lrp: lrp.ledger(X, 1).input,
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
def test_whatever_is_asked_for(options: dict[str, Any], asked: str) -> None:
    lrp = UnifiedLRP(network(), **options)
    fast = ASKED[asked](lrp)
    with switches.without():
        assert_same(fast, ASKED[asked](lrp))


def test_the_environment_rules_all_of_them_out() -> None:
    code = "from lrp_plugin.fast import switches; print(switches.off == switches.EVERYTHING)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "LRP_FAST": "0"}
    )
    assert run.stdout.strip() == "True", run.stderr


OWN: dict[str, Any] = {
    "other numbers by sign": lambda: by_sign(WHOLE + 0.3 * POSITIVE, WHOLE + 0.7 * NEGATIVE),
    "twice the whole": lambda: by_sign(2.0 * WHOLE + 0.3 * POSITIVE, 2.0 * WHOLE + 0.3 * NEGATIVE),
    "no sign": lambda: WHOLE + 0.3 * POSITIVE,
    "four parts": lambda: WHOLE + 0.3 * POSITIVE + WHOLE + 0.3 * NEGATIVE,
    "one part times two": lambda: 2.0 * POSITIVE,
    "bounds added": lambda: WHOLE + at_port("positive", lambda w: w.clamp(min=0), 0.5)
    + at_port("negative", lambda w: w.clamp(max=0), 0.5),
}  # fmt: skip
"""Parts as a rule of one's own may put them together: near those that have specialisations."""


@pytest.mark.parametrize("name", OWN)
def test_a_rule_of_ones_own_is_not_taken_for_another(name: str) -> None:
    own = registry.copy()
    linear_rule("mine", ports=True, registry=own)(lambda f: Shares.of(f, OWN[name](), 0.1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 3))
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    lrp = UnifiedLRP(model.double().eval(), "mine", registry=own)
    fast = lrp.attribute(x, 1)
    with switches.without():
        assert_same(fast, lrp.attribute(x, 1))
