"""Bad arguments to everything that is public: a named error of the package's own, or a right answer; nothing changes.

Public callables are found by themselves; `recipes` has arguments that are right. One or two of them are exchanged for values of
any kind. Whatever happens, an exception is a ValueError, a TypeError or one of the package's, raised in its code or by the
call itself, in a readable line; no model is touched.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import recipes
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_bad_arguments import ANY, OURS, raised_by_the_model, raised_by_us, readable

matplotlib.use("agg")
PUBLIC = recipes.public()
TRIED = sorted(key for key in PUBLIC if key not in recipes.NOT_TRIED and key.partition(":")[2] not in recipes.NOT_TRIED)
STATE = [{name: value.clone() for name, value in model.state_dict().items()} for model in recipes.MODELS]
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
WRONG = ANY.filter(lambda value: not (isinstance(value, int) and abs(value) > 10**9))
"""A count of 10^400 is legal and takes for ever."""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def right(key: str, name: str) -> Callable[[], Any] | None:
    return recipes.OWN.get(key, {}).get(name, recipes.BY_NAME.get(name))


def record(key: str) -> bool:
    return key.partition(":")[2] in recipes.RECORDS


def called(key: str, chosen: dict[str, Any]) -> Any:
    """Calls it with what is right for every argument that it needs, or that its recipe names, and with what was chosen."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in inspect.signature(PUBLIC[key]).parameters.items():
        if name in chosen:
            value = chosen[name]
        elif parameter.kind is parameter.VAR_KEYWORD or (
            parameter.default is not parameter.empty and name not in recipes.OWN.get(key, {}) and name not in CHEAP
        ):
            continue
        else:
            maker = right(key, name)
            if maker is None and parameter.kind is parameter.VAR_POSITIONAL:
                continue
            assert maker or record(key), f"tests/contract/recipes.py has nothing for {name} of {key}"
            value = maker() if maker is not None else None
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            positional.append(value)
        else:
            named[name] = value
    return PUBLIC[key](*positional, **named)


PHASES = (Phase.explicit, Phase.generate)
"""One or two values are small already; to make them smaller costs minutes where a figure is drawn."""
CHEAP = ("resamples", "samples", "draws")
"""Options that would cost seconds if they were left at their defaults."""


def ours(error: BaseException, key: str, chosen: dict[str, Any]) -> bool:
    """A law that is broken says so by an assertion; a file that cannot be, by the system's own error.

    What the model, or a function that was given, refuses by itself goes on unchanged.
    """
    if raised_by_the_model(error) or (any(map(callable, chosen.values())) and not raised_by_us(error)):
        return True
    if isinstance(error, OSError) and not key.startswith("testing:"):
        return True
    kinds = (*OURS, AssertionError) if key.startswith("testing:") else OURS
    return isinstance(error, kinds) and raised_by_us(error) and readable(error)


def untouched() -> bool:
    same = all(
        torch.equal(value, state[name])
        for model, state in zip(recipes.MODELS, STATE)
        for name, value in model.state_dict().items()
    )
    hooked = any(
        m._forward_hooks or m._forward_pre_hooks or m.training for model in recipes.MODELS for m in model.modules()
    )
    return same and not hooked and torch.is_grad_enabled() and not torch.overrides._get_current_function_mode_stack()


def test_every_name_in_the_tables_is_public() -> None:
    assert len(TRIED) > 150
    names = {key.partition(":")[2] for key in PUBLIC}
    assert not {*recipes.NOT_TRIED, *recipes.OWN, *recipes.NOT_YET} - PUBLIC.keys() - names
    assert not {*recipes.RECORDS} - names


@pytest.mark.parametrize("key", [key for key in TRIED if not record(key)])
def test_its_recipe_is_right(key: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        called(key, {})
    assert untouched()


def tried(key: str, data: st.DataObject) -> None:
    if key in recipes.NOT_YET:
        pytest.xfail(recipes.NOT_YET[key])
    names = [
        name
        for name, one in inspect.signature(PUBLIC[key]).parameters.items()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    if not names:
        return
    chosen = {
        name: data.draw(WRONG, label=name)
        for name in data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=2))
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            called(key, chosen)
        except Exception as error:
            assert ours(error, key, chosen), f"{type(error).__name__}: {error}"
    assert untouched()


@pytest.mark.parametrize("key", TRIED)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data())
def test_bad_arguments_are_named_or_answered(key: str, data: st.DataObject) -> None:
    tried(key, data)


@pytest.mark.slow
@pytest.mark.parametrize("key", TRIED)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(data=st.data())
def test_a_thousand_bad_arguments_are_named_or_answered(key: str, data: st.DataObject) -> None:
    tried(key, data)
