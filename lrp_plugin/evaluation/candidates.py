"""The composites a search tries on a model: rules of its maps, gamma by depth, first layers, bias modes, attention, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.composites import (
    Composite,
    RuleSpec,
    Selector,
    convolutions,
    dense,
    depth,
    first,
    linear_maps,
    operation,
    rule,
)
from lrp_plugin.composites.ready import handing_on
from lrp_plugin.evaluation.faithfulness import check_examples
from lrp_plugin.kinds import checked
from lrp_plugin.rules.gates import PRODUCTS
from lrp_plugin.rules.recurrent import CELLS, SEQUENCES

THIRDS = (0, 0.34, 0.67, 1)
"""Where the lower, middle and upper maps end, as shares of their number."""
GAMMAS = (0.05, 0.1, 0.25, 0.5, 1.0)
FALLING = ((0.5, 0.25, 0.1), (1.0, 0.25, 0.05), (0.25, 0.1, 0.0), (0.1, 0.25, 0.5))
"""Gamma of the lower, middle and upper maps; falling towards the output as in Montavon et al. 2019, and once rising."""
EPSILONS = (1e-6, 0.01, 0.1, 0.5)
_BOUNDS = ("low", "high")


@dataclass(frozen=True)
class Candidate:
    """A composite to try. ``code``: how it is written, ``low`` and ``high`` being the bounds where it names them."""

    name: str
    composite: Composite
    code: str


_Pair = tuple[str, Selector, RuleSpec]
_SELECTORS: dict[str, Callable[[], Selector]] = {
    "first()": first,
    "convolutions()": convolutions,
    "dense()": dense,
    "linear_maps()": linear_maps,
}


def _pair(code: str, spec: RuleSpec) -> _Pair:
    return code, _SELECTORS[code](), spec


def _depth(place: int, spec: RuleSpec, within: str) -> _Pair:
    low, high = THIRDS[place], THIRDS[place + 1] + (place == 2)
    return f"depth({low}, {high}) & {within}", depth(low, high) & _SELECTORS[within](), spec


def _operation(names: Sequence[str], spec: RuleSpec) -> _Pair:
    return f"operation({', '.join(map(repr, names))})", operation(*names), spec


def _candidate(name: str, pairs: Sequence[_Pair], bias: str = "absorb") -> Candidate:
    """The pairs as a composite, with what ``bias="distribute"`` asks of operations that are no maps."""
    lines = [f"        ({code}, {_rule_code(spec)})," for code, _, spec in pairs]
    tail = f"        *handing_on({bias!r}),\n" if bias == "distribute" else ""
    code = "Composite(\n    [\n" + "\n".join(lines) + f"\n{tail}    ],\n    {name!r},\n)"
    return Candidate(name, Composite([(selector, spec) for _, selector, spec in pairs] + handing_on(bias), name), code)


def _rule_code(spec: RuleSpec) -> str:
    given = [f"{key}={key if key in _BOUNDS else repr(value)}" for key, value in spec.parameters.items()]
    return f"rule({', '.join([repr(spec.name), *given])})"


def operations_of(model: Any, inputs: Tensor) -> set[str]:
    """The names of the operations that a forward pass of one example executes on signals."""
    check_examples(inputs)
    return {site.name for site, _ in UnifiedLRP(model).plan(inputs[:1]).entries}


@checked
def candidates(model: Any, inputs: Tensor, bounds: tuple[Any, Any] | None = None) -> list[Candidate]:
    """What is worth trying on this model.

    Args:
        model: The model. inputs: ``(N, ...)``, an example of which is passed through it once.
        bounds: The least and greatest value of an entry that the first map sees; z^B is tried where they are given.

    Returns:
        The candidates; which ones depends on the operations of the model: convolutions or dense maps alone, attention,
        recurrent kernels and products of signals.
    """
    known = operations_of(model, inputs)
    if known & {*SEQUENCES, *CELLS}:
        return _recurrent()
    within = "convolutions()" if any(name.startswith("conv") for name in known) else "linear_maps()"
    attention = bool(known & {"scaled_dot_product_attention", "softmax"})
    bodies = _bodies("linear_maps()" if attention else within)
    found = [_candidate(name, pairs, bias) for name, pairs, bias in _with_first(bodies, bounds)]
    return [*found, *_attentive(bodies)] if attention else found


def _bodies(within: str) -> list[tuple[str, list[_Pair], str]]:
    """Rules of the maps above the first: name, pairs, bias mode."""
    found: list[tuple[str, list[_Pair], str]] = []
    for epsilon in EPSILONS:
        found.append((f"epsilon {epsilon:g}", [_pair("linear_maps()", rule("epsilon", epsilon=epsilon))], "absorb"))
    for bias in ("absorb", "distribute"):
        given = {"stabilizer": 1e-6, "bias": bias}
        end = [] if within == "linear_maps()" else [_pair("dense()", rule("epsilon", epsilon=1e-6, bias=bias))]
        told = "" if bias == "absorb" else ", distribute"
        found.append((f"z+{told}", [_pair(within, rule("zplus", **given)), *end], bias))
        found.append(
            (f"alpha 2 beta 1{told}", [_pair(within, rule("alphabeta", alpha=2.0, beta=1.0, **given)), *end], bias)
        )
        for gamma in GAMMAS:
            found.append((f"gamma {gamma:g}{told}", [_pair(within, rule("gamma", gamma=gamma, **given)), *end], bias))
        for falling in FALLING:
            by_depth = [_depth(k, rule("gamma", gamma=gamma, **given), within) for k, gamma in enumerate(falling)]
            found.append((f"gamma {'/'.join(f'{g:g}' for g in falling)}{told}", [*by_depth, *end], bias))
    return found


def _with_first(
    bodies: list[tuple[str, list[_Pair], str]], bounds: tuple[Any, Any] | None
) -> list[tuple[str, list[_Pair], str]]:
    """The bodies as they are, and each with another rule in the first map."""
    firsts = {"flat": rule("flat", stabilizer=1e-6)}
    if bounds is not None:
        low, high = (torch.as_tensor(bound) if isinstance(bound, Tensor) else bound for bound in bounds)
        firsts["z^B"] = rule("zbox", low=low, high=high, stabilizer=1e-6)
    found = list(bodies)
    for told, spec in firsts.items():
        found += [(f"{name}, {told} first", [_pair("first()", spec), *pairs], bias) for name, pairs, bias in bodies]
    return found


def _attentive(bodies: list[tuple[str, list[_Pair], str]]) -> list[Candidate]:
    """The bodies with attention weights held constant (CP-LRP); as they are, softmax has its gradient (AttnLRP)."""
    held = [_operation([name], rule("cp_lrp")) for name in ("scaled_dot_product_attention", "softmax")]
    return [_candidate(f"{name}, CP", [*held, *pairs], bias) for name, pairs, bias in bodies]


def _recurrent() -> list[Candidate]:
    found = []
    for products in PRODUCTS:
        for epsilon in (1e-3, *EPSILONS[1:]):
            pairs = [
                _pair("linear_maps()", rule("epsilon", epsilon=epsilon)),
                _operation([*SEQUENCES, *CELLS], rule(products, epsilon=epsilon)),
                _operation(["mul"], rule(products)),
                *([_operation(["sigmoid"], rule("gradient"))] if products == "gradient" else []),
            ]
            found.append(_candidate(f"recurrent {products}, epsilon {epsilon:g}", pairs))
        pairs = [
            _pair("linear_maps()", rule("zplus", stabilizer=1e-6)),
            _operation([*SEQUENCES, *CELLS], rule(products, epsilon=1e-3)),
            _operation(["mul"], rule(products)),
            *([_operation(["sigmoid"], rule("gradient"))] if products == "gradient" else []),
        ]
        found.append(_candidate(f"recurrent {products}, z+", pairs))
    return found
