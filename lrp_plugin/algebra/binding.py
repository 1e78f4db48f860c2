"""A call's arguments by name, whatever its spelling."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from lrp_plugin.torch_private import is_overload, schema_names, stated_signatures

# torch states the arguments of these for overrides in another order, or not all of them.
_STATED_OTHERWISE: dict[Any, tuple[str, ...]] = {
    torch.instance_norm: ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps"),
    functional.scaled_dot_product_attention: (
        "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"),
}  # fmt: skip


@functools.cache
def _parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    if function in _STATED_OTHERWISE:
        return _STATED_OTHERWISE[function]
    if is_overload(function):
        return schema_names(function)
    described = stated_signatures().get(function, function)
    try:
        parameters = inspect.signature(described).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature: positions only
        return ("input",)
    names = []
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            break
        names.append("input" if parameter.name == "self" else parameter.name)
    return tuple(names)


def bind(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments by name; positions beyond the known names are left out."""
    if isinstance(function, types.MethodType):  # a module's forward: the cache must not keep the module
        return {**dict(zip(_parameter_names(function.__func__)[1:], args)), **kwargs}
    names = dict(zip(_parameter_names(function), args))
    if kwargs:
        names.update(kwargs)
    return names
