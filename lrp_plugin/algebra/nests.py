"""Nests of lists, tuples and dicts, and the tensors in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# No call is spent on these, nor on a tuple of them (a stride).
_LEAVES = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))
_TENSORS = frozenset((Tensor, torch.nn.Parameter))


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of a nest of lists, tuples and dicts with ``change`` applied to each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        changed = []
        for item in value:
            kind = type(item)
            if kind in _TENSORS:
                item = change(item)
            elif kind not in _LEAVES and not (kind is tuple and _LEAVES.issuperset(map(type, item))):
                item = map_tensors(item, change)
            changed.append(item)
        return tuple(changed) if type(value) is tuple else _rebuilt(value, changed)
    if isinstance(value, dict):
        if not value:
            return {}
        return {key: item if type(item) in _LEAVES else map_tensors(item, change) for key, item in value.items()}
    return value


def _rebuilt(value: Any, changed: list[Any]) -> Any:
    if isinstance(value, list):
        return changed
    # torch.return_types.max and its like are structseqs: their constructor takes one sequence.
    return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)


def replaced(value: Any, given: dict[int, Tensor]) -> Any:
    """A copy of a nest with each tensor exchanged for the one given for its ``id``; every tensor has one."""
    if type(value) is not tuple:
        return map_tensors(value, lambda tensor: given[id(tensor)])
    changed = []
    for item in value:
        kind = type(item)
        if kind in _TENSORS:
            item = given[id(item)]
        elif kind not in _LEAVES and not (kind is tuple and _LEAVES.issuperset(map(type, item))):
            item = map_tensors(item, lambda tensor: given[id(tensor)])
        changed.append(item)
    return tuple(changed)


def tensors_in(value: Any, found: list[Tensor]) -> list[Tensor]:
    """The tensors in a nest of lists, tuples and dicts, in order, appended to ``found``."""
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            kind = type(item)
            if kind in _TENSORS:
                found.append(item)
            elif kind not in _LEAVES and not (kind is tuple and _LEAVES.issuperset(map(type, item))):
                tensors_in(item, found)
    return found
