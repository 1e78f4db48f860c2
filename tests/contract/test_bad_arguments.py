"""A thousand bad arguments to everything public here: a named error of the package's own, or a right answer; nothing changes.

Hypothesis draws for each argument a value of any kind, most of them wrong. Whatever happens, an exception is a ValueError,
a TypeError or one of the package's, raised in its code or by the call itself (an argument too many), in one readable
line; a result is finite and, for inputs as they should be, equals what the plain call gives.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lrp_plugin
from lrp_plugin import (
    Composite,
    LayerUnifiedLRP,
    NeuronUnifiedLRP,
    UnifiedLRP,
    UnsupportedOperationError,
    list_rules,
    registry,
    rule,
)  # fmt: skip
from lrp_plugin import composites as c

torch.manual_seed(0)
MODEL = (
    nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 3))
    .double()
    .eval()
)
STATE = {name: value.clone() for name, value in MODEL.state_dict().items()}
X = torch.rand(2, 1, 6, 6, dtype=torch.float64)
OURS = (ValueError, TypeError, UnsupportedOperationError)


class Odd:
    """An object of no kind."""


NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.just(np.float32(-1)),
    st.just(np.int64(2)),
    st.just(torch.tensor(0.1)),
    st.just(torch.tensor([1.0, -2.0])),
    st.just(10**400),
    st.complex_numbers(max_magnitude=2),
)
KINDS: list[Any] = [
    None,
    "",
    "a",
    "zplus",
    "epsilon_plus",
    b"x",
    (),
    [],
    {},
    {1},
    Odd(),
    Odd,
    object,
    len,
    lambda *_: None,
    nn.ReLU(),
    nn.Conv2d,
    torch.zeros(2),
    torch.zeros(2, 3),
    torch.ones(2, 3, dtype=torch.bool),
    torch.tensor([0, 1]),
    np.zeros((2, 3)),
    np.array([0, 1]),
    slice(0, 1),
    range(2),
    ...,
    NotImplemented,
    torch.float32,
    "\n" * 3,
    "x" * 5000,
    [None],
    [[]],
    ("a",),
    [X],
    (X, X),
    X,
    X[0],
    X[:, :, 0],
    torch.full((2, 1, 6, 6), float("nan")),
    torch.zeros(2, 1, 6, 6, dtype=torch.bool),
    torch.zeros(()),
    torch.zeros(0, 1, 6, 6),
    {"input": X},
    {"inputs": X},
    {1: X},
    {"input": None},
    np.ones((2, 1, 6, 6)),
    [True, False],
    (1, torch.ones(2, dtype=torch.bool)),
    c.first(),
    rule("zplus"),
    Composite([]),
    registry,
]
ANY = st.one_of(NUMBERS, st.sampled_from(KINDS))
LEGAL: dict[str, list[Any]] = {
    "model": [MODEL], "forward_func": [MODEL], "layer": [MODEL[0], [MODEL[0], MODEL[3]]], "inputs": [X], "target": [1, [0, 2]],
    "targets": [[0, 1]], "neuron_selector": [(0, 1, 1)], "rule": ["zplus", None], "composite": [None, "epsilon_plus"],
    "pairs": [[(c.first(), "flat")]], "selector": [c.first()], "spec": ["zplus"], "name": ["zplus"],
}  # fmt: skip
CONSTRUCTED = (
    "rule",
    "epsilon",
    "gamma",
    "alpha",
    "beta",
    "stabilizer",
    "composite",
    "bias",
    "registry",
    "output",
    "strict",
)
CALLED = (
    "inputs",
    "target",
    "additional_forward_args",
    "return_convergence_delta",
    "internal_batch_size",
    "forward_kwargs",
)
INSIDE = (
    "inputs",
    "target",
    "additional_forward_args",
    "return_convergence_delta",
    "attribute_to_layer_input",
    "grad_kwargs",
)


def explained(**options: Any) -> Any:
    return UnifiedLRP(**options).attribute(X, 1)


def at_layer(forward_func: Any, layer: Any, **options: Any) -> Any:
    return LayerUnifiedLRP(forward_func, layer, **options).attribute(X, 1)


def at_unit(forward_func: Any, layer: Any, **options: Any) -> Any:
    return NeuronUnifiedLRP(forward_func, layer, **options).attribute(X, (0, 1, 1) if layer is MODEL[0] else 1)


def composed(pairs: Any) -> Any:
    return UnifiedLRP(MODEL, composite=Composite(pairs)).attribute(X, 1)


def with_rule(selector: Any, spec: Any) -> Any:
    return UnifiedLRP(MODEL, composite=c.epsilon_plus().with_rule(selector, spec)).attribute(X, 1)


def parametrized(name: Any, **parameters: Any) -> Any:
    return UnifiedLRP(MODEL, composite=Composite([(c.anything(), rule(name, **parameters))])).attribute(X, 1)


def selected(maker: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return UnifiedLRP(MODEL, composite=Composite([(maker(*args), "epsilon")])).attribute(X, 1)

    return run


def registered(name: Any, operation: Any, **traits: Any) -> Any:
    return registry.copy().register(name, operation, **traits)(lambda call: call.native())


PLAIN, INNER, UNIT = UnifiedLRP(MODEL), LayerUnifiedLRP(MODEL, MODEL[0]), NeuronUnifiedLRP(MODEL, MODEL[0])
PUBLIC: dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]] = {
    "UnifiedLRP": (explained, ("model",), CONSTRUCTED),
    "LayerUnifiedLRP": (at_layer, ("forward_func", "layer"), CONSTRUCTED),
    "NeuronUnifiedLRP": (at_unit, ("forward_func", "layer"), CONSTRUCTED),
    "attribute": (PLAIN.attribute, ("inputs",), CALLED[1:]),
    "attribute_targets": (PLAIN.attribute_targets, ("inputs", "targets"), ("additional_forward_args", "forward_kwargs")),
    "ledger": (PLAIN.ledger, ("inputs",), ("target", "additional_forward_args", "forward_kwargs")),
    "plan": (PLAIN.plan, ("inputs",), ("additional_forward_args", "forward_kwargs")),
    "compute_convergence_delta": (PLAIN.compute_convergence_delta, ("attributions", "output"), ()),
    "layer.attribute": (INNER.attribute, ("inputs",), INSIDE[1:]),
    "unit.attribute": (UNIT.attribute, ("inputs", "neuron_selector"), ("additional_forward_args", "attribute_to_neuron_input")),
    "Composite": (composed, ("pairs",), ()),
    "with_rule": (with_rule, ("selector", "spec"), ()),
    "rule": (parametrized, ("name",), ("epsilon", "gamma", "alpha", "beta", "stabilizer", "bias", "low", "high")),
    "register": (registered, ("name", "operation"), ("sign", "port", "override", "default", "gate")),
    "list_rules": (list_rules, ("operation",), ()),
    **{name: (selected(getattr(c, name)), (name,), ()) for name in ("path", "module", "operation", "nth", "predicate")},
    "depth": (selected(c.depth), ("start", "stop"), ()),
}  # fmt: skip


def readable(error: BaseException) -> bool:
    message = str(error)
    return 0 < len(message) < 1500 and "\n\n" not in message


def raised_by_us(error: BaseException) -> bool:
    """In the package's code, or at the call itself: an argument that is missing, or one too many."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return "lrp_plugin/" in last or last == __file__


def raised_by_the_model(error: BaseException) -> bool:
    """The model's own refusal of what it was called with goes on unchanged."""
    frames = traceback.extract_tb(error.__traceback__)
    called = [
        place for place, frame in enumerate(frames) if frame.filename.endswith("lrp_plugin/attribution/arguments.py")
    ]
    return bool(called) and frames[called[-1]].name == "call" and len(frames) > called[-1] + 1


def untouched() -> bool:
    same = all(torch.equal(value, STATE[name]) for name, value in MODEL.state_dict().items())
    quiet = not any(m._forward_hooks or m._forward_pre_hooks or m.training for m in MODEL.modules())
    return same and quiet and torch.is_grad_enabled() and not torch.overrides._get_current_function_mode_stack()


def is_finite(found: Any) -> bool:
    if isinstance(found, Tensor):
        return bool(torch.isfinite(found).all()) if found.is_floating_point() else True
    if isinstance(found, dict):
        return all(map(is_finite, found.values()))
    return all(map(is_finite, found)) if isinstance(found, (tuple, list)) else True


@pytest.mark.parametrize("name", PUBLIC)
@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bad_arguments_are_named_or_answered(name: str, data: st.DataObject) -> None:
    call, needed, optional = PUBLIC[name]
    chosen = data.draw(st.sets(st.sampled_from((*needed, *optional)), min_size=1, max_size=2), label="wrong")

    def value(argument: str) -> Any:
        return data.draw(ANY if argument in chosen else st.sampled_from(LEGAL.get(argument, [None])), label=argument)

    args = [value(argument) for argument in needed]
    named = {argument: value(argument) for argument in optional if argument in chosen}
    if "target" in optional and "target" not in named:
        named["target"] = 1
    given_to = [t.clone() for t in args if isinstance(t, Tensor)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = call(*args, **named) if name not in ("UnifiedLRP",) else call(model=args[0], **named)
        except Exception as error:
            if raised_by_the_model(error):
                return
            assert isinstance(error, OURS), f"{type(error).__name__}: {error}"
            assert raised_by_us(error), f"{type(error).__name__}: {error}"
            assert readable(error), str(error)
        else:
            assert is_finite(found)
    assert untouched()
    kept = [t for t in args if isinstance(t, Tensor)]
    for mine, before in zip(kept, given_to, strict=True):
        torch.testing.assert_close(mine, before, equal_nan=True)
    assert set(lrp_plugin.__all__) >= {"UnifiedLRP", "Composite", "rule"}
