"""The laws every rule keeps, tried on generated layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.composites import Composite, RuleSpec, anything
from lrp_plugin.errors import told
from lrp_plugin.kinds import at_least, checked
from lrp_plugin.registry import Registry, registry

LAYERS: dict[str, tuple[tuple[int, ...], Callable[[bool], nn.Module]]] = {
    "linear": ((5,), lambda bias: nn.Linear(5, 4, bias)),
    "conv1d": ((2, 6), lambda bias: nn.Conv1d(2, 3, 3, padding=1, bias=bias)),
    "conv2d": ((2, 4, 4), lambda bias: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=bias)),
    "conv3d": ((1, 3, 3, 3), lambda bias: nn.Conv3d(1, 2, 2, bias=bias)),
    "conv_transpose2d": ((2, 3, 3), lambda bias: nn.ConvTranspose2d(2, 2, 2, stride=2, bias=bias)),
    "max_pool2d": ((2, 4, 4), lambda bias: nn.MaxPool2d(2)),
    "batch_norm": ((3, 4, 4), lambda bias: nn.BatchNorm2d(3)),
    "layer_norm": ((5,), lambda bias: nn.LayerNorm(5)),
}
"""A layer, and the shape of one example, for each operation that has one; elementwise operations need none."""
BINARY = ("add", "sub", "mul")
ELEMENTWISE = ("relu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "softplus", "elu", "leaky_relu", "relu6")


class _Network(nn.Module):
    """linear -> [ReLU ->] the operation under test, weighted by ``multiplier`` and summed."""

    def __init__(self, case: RuleCase) -> None:
        super().__init__()
        self.operation, self.rectified = case.operation, case.rectified
        shape, make = LAYERS.get(case.operation, ((4,), lambda bias: nn.Identity()))
        self.shape = shape
        self.layer = make(case.bias)
        self.other = nn.Linear(4, 4, bias=False) if case.operation in BINARY else None
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape))
            for name, buffer in self.named_buffers():
                if name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
            if case.dead and hasattr(self.layer, "weight"):
                self.layer.weight[0] = 0
                if self.layer.bias is not None:
                    self.layer.bias[0] = 0
            if case.units_at is not None and getattr(self.layer, "bias", None) is not None:
                self.layer.weight.zero_()
                self.layer.bias.fill_(case.units_at)
        self.double().eval()
        size = self._value(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
        self.multiplier = nn.Parameter(torch.randn(size, dtype=torch.float64))

    def _value(self, x: Tensor) -> Tensor:
        x = functional.relu(x) if self.rectified else x
        if self.other is not None:
            return getattr(torch, self.operation)(x, self.other(x))  # type: ignore[no-any-return]
        if self.operation in ELEMENTWISE:
            return getattr(functional, self.operation)(x)  # type: ignore[no-any-return]
        return self.layer(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return (self._value(x) * self.multiplier).flatten(1).sum(1)


@dataclass(frozen=True)
class RuleCase:
    """One generated layer with its input; its ``repr`` is ready to paste.

    Args:
        operation: The operation under test.
        seed: Of the weights and the input.
        bias: The layer has one. rectified: A ReLU stands before it, so its input is non-negative by provenance.
        dead: The first unit's weights and bias are zero. zero_input: The input is all zero.
        units_at: Every weight is zero and every bias this number, so every unit stands exactly there.
    """

    operation: str
    seed: int = 0
    bias: bool = True
    rectified: bool = False
    dead: bool = False
    zero_input: bool = False
    units_at: float | None = None

    def build(self) -> tuple[nn.Module, Tensor]:
        """The network, float64 in evaluation mode, and a batch of two examples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _Network(self)
            x = torch.randn(2, *network.shape, dtype=torch.float64)
        return network, torch.zeros_like(x) if self.zero_input else x

    def check(self, law: str, spec: RuleSpec | str, registry: Registry = registry) -> None:
        """Raises ``AssertionError`` where the rule breaks the law in this case."""
        spec = RuleSpec(spec) if isinstance(spec, str) else spec
        LAWS[law](self, lambda network: _explainer(network, spec, registry))


Maker = Callable[[nn.Module], UnifiedLRP]


def _explainer(network: nn.Module, spec: RuleSpec, known: Registry) -> UnifiedLRP:
    return UnifiedLRP(network, composite=Composite([(anything(), spec)]), registry=known)


def _close(left: Tensor, right: Tensor, scale: Tensor, what: str) -> None:
    error, bound = (left - right).abs().max(), 1e-9 * scale.abs().max().clamp(min=1e-12)
    assert error <= bound, f"{what}: {float(error):.3g} apart, allowed {float(bound):.3g}"


def value_is_kept(case: RuleCase, explainer: Maker) -> None:
    """The explained output is the model's own: a rule changes the backward pass alone."""
    network, x = case.build()
    _close(explainer(network).ledger(x).output, network(x).detach(), network(x).detach(), "output and the model's own")


def ledger_closes(case: RuleCase, explainer: Maker) -> None:
    """Relevance is conserved: what does not reach the input stands in the ledger, each share by its own formula."""
    network, x = case.build()
    ledger = explainer(network).ledger(x)
    flow = torch.stack([row.relevance_out.abs() for row in ledger.rows] + [ledger.output.abs()])
    for row in ledger.rows:
        _close(row.gap, torch.zeros_like(row.gap), flow, f"row {row}, out and in with what was absorbed")


def relevance_is_linear(case: RuleCase, explainer: Maker) -> None:
    """Twice the output's relevance gives twice the input's, a sum of two gives the sum."""
    network, x = case.build()
    lrp, held = explainer(network), network.multiplier.data.clone()  # type: ignore[union-attr, operator]
    other = held.flip(0) + 0.5
    found = []
    for multiplier in (held, other, 2 * held + other):
        network.multiplier.data.copy_(multiplier)  # type: ignore[union-attr, operator]
        found.append(lrp.attribute(x))
    _close(2 * found[0] + found[1], found[2], torch.stack(found), "R(2 a + b) and 2 R(a) + R(b)")


def examples_are_independent(case: RuleCase, explainer: Maker) -> None:
    """An example's relevance does not depend on its batch."""
    network, x = case.build()
    lrp = explainer(network)
    alone = torch.cat([lrp.attribute(example[None]) for example in x])
    _close(lrp.attribute(x), alone, alone, "in a batch and alone")


def stays_finite(case: RuleCase, explainer: Maker) -> None:
    """No NaN and no infinity, in float64, float32, bfloat16 and float16; the input's dtype and shape are kept."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        network, x = case.build()
        relevance = explainer(network.to(dtype)).attribute(x.to(dtype))
        assert torch.isfinite(relevance).all(), f"relevance in {dtype}: {relevance}"
        assert relevance.shape == x.shape and relevance.dtype == dtype, f"{relevance.shape}, {relevance.dtype}"


LAWS: dict[str, Callable[[RuleCase, Maker], None]] = {
    law.__name__: law
    for law in (value_is_kept, ledger_closes, relevance_is_linear, examples_are_independent, stays_finite)
}


def operations_with_cases() -> tuple[str, ...]:
    """The operations `check_rule` can generate layers for."""
    return (*LAYERS, *BINARY, *ELEMENTWISE)


@checked
def check_rule(
    spec: RuleSpec | str, *, operation: str | None = None, registry: Registry = registry, examples: int = 25
) -> None:
    """Tries every law a rule must keep on generated layers: `LAWS`.

    Among the layers: with and without bias, signed and non-negative input, dead units, an all-zero input, units
    exactly at -epsilon.

    Args:
        spec: The rule: its name, or ``rule(name, **parameters)``.
        operation: Only this operation; all that the rule is registered for otherwise.
        registry: Where the rule stands.
        examples: How many layers per operation and law.

    Raises:
        AssertionError: For a broken law, with the failing case ready to paste.
        ValueError: Where the rule is registered for no operation that layers can be generated for.

    >>> check_rule("gamma")
    """
    at_least(1, examples=examples)
    spec = RuleSpec(spec) if isinstance(spec, str) else spec
    known = [name for name in operations_with_cases() if (name, spec.name) in registry]
    wanted = [name for name in known if operation in (None, name)]
    if not wanted:
        raise ValueError(
            f"no layers to try rule {told(spec.name)} on: it is registered for none of {', '.join(operations_with_cases())}"
        )
    for name in wanted:
        for law in LAWS:
            _try(spec, name, law, registry, examples)


def _try(spec: RuleSpec, operation: str, law: str, known: Registry, examples: int) -> None:
    at = -float(spec.parameters.get("epsilon", spec.parameters.get("stabilizer", 1e-9)))

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.builds(
            RuleCase, st.just(operation), seed=st.integers(0, 999), bias=st.booleans(), rectified=st.booleans(),
            dead=st.booleans(), zero_input=st.booleans(), units_at=st.sampled_from([None, None, 0.0, at]),
        )
    )  # fmt: skip
    def attempt(case: RuleCase) -> None:
        case = replace(case, bias=True) if case.units_at is not None else case
        try:
            case.check(law, spec, known)
        except AssertionError as broken:
            raise AssertionError(
                f"rule {spec} breaks the law {law!r}: {broken}\nto repeat it:\n"
                f"    from lrp_plugin import rule\n    from lrp_plugin.testing import RuleCase\n"
                f"    {case!r}.check({law!r}, rule({_pasted(spec)}))"
            ) from None

    attempt()


def _pasted(spec: RuleSpec) -> str:
    return ", ".join([repr(spec.name), *(f"{key}={value!r}" for key, value in spec.parameters.items())])


__all__: list[Any] = ["LAWS", "RuleCase", "check_rule", "operations_with_cases"]
