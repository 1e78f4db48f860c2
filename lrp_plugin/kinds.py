"""What kind of thing each argument is: checked against its annotation, where a function is called."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache, wraps
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor, nn

from lrp_plugin.errors import KindError, told

Function = TypeVar("Function", bound=Callable[..., Any])
_WORDS = {
    int: "an int",
    float: "a number",
    str: "a string",
    bool: "True or False",
    type(None): "None",
    Tensor: "a tensor",
    Any: "anything",
}


def checked(function: Function) -> Function:
    """The function (or class), whose arguments are first held against its annotations; what else comes is named.

    Numbers of NumPy's are numbers, also as tensors of one entry, and arrive as Python's; True is no number. What an
    annotation does not say (a range, a shape) the function checks itself; ``Any`` and names that cannot be read are let
    through.

    Raises:
        KindError: When called, for an argument of another kind.
        TypeError: For one too many or one missing.
    """
    if isinstance(function, type):
        if is_dataclass(function):  # an inherited field's annotation is read where its own class was written
            function.__init__.__annotations__.update(_hints(function))
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*args, **named)
        except TypeError as error:
            raise TypeError(f"{function.__name__}(): {error}; it takes {', '.join(signature.parameters)}") from None
        hints = _hints(function)
        for name, value in bound.arguments.items():
            several = signature.parameters[name].kind in (
                inspect.Parameter.VAR_KEYWORD,
                inspect.Parameter.VAR_POSITIONAL,
            )
            if name in hints and not several and not _is(value, hints[name]):
                if name == "model":  # says what to give instead
                    checked_model(value)
                said = function.__qualname__.rpartition("<locals>.")[2].removesuffix(".__init__")
                raise KindError(f"{said}({name}={told(value)}): legal is {_said(hints[name])}")
            bound.arguments[name] = _plain(value, hints.get(name))
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def checked_model(model: Any) -> Any:
    """The model, if it is one network or function.

    Raises:
        KindError: It is a class, a name, weights, several layers, nothing: what to give instead is said.
    """
    kind = type(model).__name__
    if isinstance(model, Mapping):
        raise KindError(
            "model is a dict of weights (a state dict); build the network, load them into it with "
            "model.load_state_dict(weights), and pass the network"
        )
    if isinstance(model, type):
        raise KindError(
            f"model is the class {model.__name__}; make a network of it, {model.__name__}(...), and pass that"
        )
    if isinstance(model, (str, bytes, os.PathLike)):
        raise KindError(
            f"model is {told(model)}, a {kind}; build the network and pass it, for a name of torchvision's "
            "torchvision.models.get_model(name), for a file with model.load_state_dict(torch.load(file))"
        )
    if isinstance(model, (list, tuple, set, nn.ModuleList, nn.ModuleDict)):
        raise KindError(f"model is a {kind}; pass one network, for layers in a row nn.Sequential(*layers)")
    if model is None:
        raise KindError("model is None; pass the network (a function that builds one may lack its return)")
    if not callable(model):
        raise KindError(f"model is a {kind}; legal are an nn.Module, or a function from inputs to outputs")
    return model


def at_least(least: float, **numbers: float) -> None:
    """Raises ``ValueError`` for a number, given by its name, below the least that is legal."""
    for name, value in numbers.items():
        if not value >= least:
            raise ValueError(f"{name} is {told(value)}; give {least} or more")


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError:  # a name that only type checkers import: the others' annotations still say what they are
        bare, found = inspect.unwrap(function), {}
        for name, hint in bare.__annotations__.items():
            with suppress(NameError):
                alone = types.SimpleNamespace(__annotations__={name: hint})
                found.update(get_type_hints(alone, getattr(bare, "__globals__", {})))
        return found


def _is(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, (TypeVar, str)):
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in inside)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if hint in (int, float):
        return _is_number(value, Integral if hint is int else Real)
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint is Sized:
        return isinstance(value, Sized) and getattr(value, "ndim", 1) > 0
    if origin is None and getattr(hint, "_is_protocol", False):  # has what the protocol names; a class is no instance
        members = getattr(hint, "__protocol_attrs__", None) or [name for name in vars(hint) if not name.startswith("_")]
        return not isinstance(value, type) and all(hasattr(value, name) for name in members)
    if origin is None:
        return isinstance(value, hint) if isinstance(hint, type) else True
    return _is_container(value, origin, inside)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex() and (kind is Real or not value.is_floating_point())
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and _is_number(value.item(), kind)
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


def _plain(value: Any, hint: Any) -> Any:
    """Python's number for one of NumPy's, or for a tensor of one entry, where a number is asked."""
    kinds = _alternatives(hint) if isinstance(value, (np.generic, np.ndarray, Tensor)) else ()
    if not any(kind in (int, float, bool) for kind in kinds):
        return value
    alone = isinstance(value, np.generic) or (value.ndim == 0 and not any(kind is type(value) for kind in kinds))
    return value.item() if alone else value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_container(value: Any, origin: Any, inside: tuple[Any, ...]) -> bool:
    if origin is os.PathLike:
        return isinstance(value, os.PathLike)
    if origin is Callable or origin is type:
        return callable(value)
    if origin in (Sequence, Collection, Iterable, list):
        array = isinstance(value, (np.ndarray, Tensor))
        whole = (
            not array
            and not isinstance(value, (str, bytes, Mapping))
            and isinstance(value, origin if origin in (Iterable, Collection) else Sequence)
        )
        array = array and origin is not list and value.ndim > 0 and _holds(value, inside[0])
        return (whole or array) and _all(value, inside[0])
    if origin is tuple:
        several = len(inside) == 2 and inside[1] is ...
        fits = isinstance(value, (tuple, list)) and (several or len(value) == len(inside))
        return fits and all(_is(one, inside[0] if several else inside[place]) for place, one in enumerate(value))
    if origin is Mapping or origin is dict:
        return isinstance(value, Mapping) and _all(value.keys(), inside[0]) and _all(value.values(), inside[1])
    return isinstance(value, origin) if isinstance(origin, type) else True


def _holds(value: Any, hint: Any) -> bool:
    """Whether an array's entries, numbers, names and rows of them, can be of the kind."""
    whole: tuple[Any, ...] = (Any, int, float, bool, Tensor)
    if getattr(value.dtype, "kind", "") in ("U", "O"):  # NumPy's arrays of names
        whole = (*whole, str)
    rows = (Sequence, Iterable, Collection)
    return any(kind in whole or get_origin(kind) in rows or isinstance(kind, TypeVar) for kind in _alternatives(hint))


def _all(values: Any, hint: Any) -> bool:
    """Whether the entries are of the kind; those of an iterator are not asked, since that would use it up."""
    return not isinstance(values, (Collection, Tensor)) or all(_is(one, hint) for one in values)


def _said(hint: Any) -> str:
    """A kind for a message."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_said, inside)))
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is Callable:
        return "a function"
    if origin is Mapping or origin is dict:
        return f"a dict from {_said(inside[0])} to {_said(inside[1])}"
    if origin is tuple and ... not in inside:
        return f"({', '.join(map(_said, inside))})"
    if origin in (Sequence, Collection, Iterable, list, tuple):
        return f"several of {_said(inside[0])}"
    return "a path" if origin is os.PathLike else getattr(hint, "__name__", str(hint))


def checked_layers(layer: Any) -> None:
    """Raises ``ValueError`` unless it is a module or a list of modules."""
    for one in layer if isinstance(layer, list) and layer else [layer]:
        if not isinstance(one, nn.Module):
            raise ValueError(f"layer is a {type(one).__name__}; legal are a module of the model, or a list of modules")
