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

# By name: those that torch states for overrides in another order, or not all of them, as function and as method.
_ORDERS = {
    **dict.fromkeys(("max", "min", "amax", "amin", "sum", "nansum", "mean", "median", "nanmedian", "prod", "logsumexp"),
                    ("input", "dim", "keepdim")),
    **dict.fromkeys(("std", "var"), ("input", "dim", "unbiased", "keepdim")),
    "topk": ("input", "k", "dim", "largest", "sorted"), "diag_embed": ("input", "offset", "dim1", "dim2"),
    "permute": ("input", "dims"), "repeat_interleave": ("input", "repeats", "dim"),
}  # fmt: skip
_STATED_OTHERWISE: dict[Any, tuple[str, ...]] = {
    **{getattr(owner, name): given for owner in (torch, torch.Tensor) for name, given in _ORDERS.items()},
    torch.instance_norm: ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps"),
    functional.scaled_dot_product_attention: (
        "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"),
}  # fmt: skip


class Added:
    """A product and a constant that is added to it, as one function."""

    def __init__(self, function: Callable[..., Any], addend: torch.Tensor) -> None:
        self.function, self.addend = function, addend

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The product with the constant."""
        return self.function(*args, **kwargs) + self.addend


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
        names.append("input" if parameter.name in ("self", "inputs") else parameter.name)
    return tuple(names)


def bind(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments by name; positions beyond the known names are left out."""
    if isinstance(function, types.MethodType):  # a module's forward: the cache must not keep the module
        return {**dict(zip(_parameter_names(function.__func__)[1:], args)), **kwargs}
    names = dict(zip(_parameter_names(function.function if isinstance(function, Added) else function), args))
    if kwargs:
        names.update(kwargs)
    place = names.get("dim")
    if isinstance(place, (torch.Tensor, bool)):  # max(a, b), std(unbiased): other functions of the same name
        names["other" if isinstance(place, torch.Tensor) else "unbiased"] = names.pop("dim")
    return names
