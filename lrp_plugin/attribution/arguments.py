"""What the model is called with, by position and by name, and relevance given back in the inputs' own form."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy as shallow
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrp_plugin.errors import told
from lrp_plugin.torch_private import formatted

_SHARED = frozenset((int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice))


class Arguments(NamedTuple):
    """The model's arguments beside the explained tensors.

    Args:
        names: Of the explained tensors, where they are given by name; empty where by position.
        positional: Further arguments by position, behind the explained ones.
        keywords: Further arguments by name.
    """

    names: tuple[str, ...] = ()
    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}

    def call(self, model: Any, tensors: Sequence[Tensor]) -> Any:
        """What the model returns for these explained tensors."""
        if not self.names:
            return model(*tensors, *self.positional, **self.keywords)
        return model(*self.positional, **dict(zip(self.names, tensors)), **self.keywords)

    def copied(self) -> Arguments:
        """The arguments as one pass may have them: containers, caches and generators its own, tensors not to be written to.

        What is neither (a tokenizer's vocabulary, a module, a function) stays the caller's.
        """
        if not self.positional and not self.keywords:
            return self
        seen: dict[int, Any] = {}
        return Arguments(self.names, _copied(self.positional, seen), _copied(dict(self.keywords), seen))

    def format(self, relevances: Sequence[Tensor], many: bool) -> Any:
        """One relevance per input in the inputs' form: a dict by name, a tuple, or a tensor."""
        return dict(zip(self.names, relevances)) if self.names else formatted(many, tuple(relevances))


def _copied(value: Any, seen: dict[int, Any]) -> Any:
    """A copy of a nest of containers and plain objects, of its tensors too; ``seen``: by id, what was copied already."""
    kind = type(value)
    if kind in _SHARED or isinstance(value, (nn.Module, nn.Parameter, type, ModuleType)) or callable(value):
        return value
    if id(value) in seen:
        return seen[id(value)]
    copy: Any = value
    if isinstance(value, Tensor):
        seen[id(value)] = copy = value if value.requires_grad else value.clone()
    elif isinstance(value, torch.Generator):
        seen[id(value)] = copy = value.clone_state()
    elif kind is tuple:
        copy = tuple(_copied(item, seen) for item in value)
    elif kind in (list, set):
        seen[id(value)] = copy = kind()
        (copy.extend if kind is list else copy.update)(_copied(item, seen) for item in value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        copy = kind(*(_copied(item, seen) for item in value))
    else:
        copy = _object_copied(value, seen)
    return copy


def _object_copied(value: Any, seen: dict[int, Any]) -> Any:
    try:
        copy = shallow(value)
    except Exception:  # a file, a lock: what cannot be copied is used as it is
        copy = value
    seen[id(value)] = copy
    if copy is value:
        return value
    attributes = getattr(copy, "__dict__", {})
    for name, item in list(attributes.items()):
        attributes[name] = _copied(item, seen)
    for name in _slots(type(copy)):
        if hasattr(copy, name):
            object.__setattr__(copy, name, _copied(getattr(copy, name), seen))
    places = copy.items() if isinstance(copy, dict) else enumerate(copy) if isinstance(copy, (list, deque)) else ()
    for place, item in list(places):
        copy[place] = _copied(item, seen)
    return copy


def _slots(kind: type) -> list[str]:
    given = [vars(one).get("__slots__", ()) for one in kind.__mro__]
    names = [name for one in given for name in ((one,) if isinstance(one, str) else one)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def check_flags(**flags: Any) -> None:
    """Raises ``ValueError`` for a flag that is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, (bool, np.bool_)):
            raise ValueError(f"{name}={told(flag)}: legal are True and False")


def read_arguments(inputs: Any, additional: Any, keywords: Mapping[str, Any] | None) -> tuple[Any, Arguments]:
    """The explained inputs without their names, and everything else the model is called with.

    Args:
        inputs: A tensor, a tuple or list of them, or a mapping from the model's argument names to them.
        additional: One further argument, or a tuple of them, or None; what this function returned passes unchanged.
        keywords: Further arguments by name, or None.

    Raises:
        ValueError: For a name given twice, or that is no string.
    """
    if isinstance(additional, Arguments):
        return inputs, additional
    names: tuple[str, ...] = ()
    if isinstance(inputs, Mapping):
        names, inputs = tuple(inputs), tuple(inputs.values())
    elif isinstance(inputs, list):
        inputs = tuple(inputs)
    if keywords is not None and not isinstance(keywords, Mapping):
        raise ValueError(
            f"forward_kwargs is a {type(keywords).__name__}; give a dict such as {{'attention_mask': mask}}"
        )
    keywords = dict(keywords or {})
    for name in (*names, *keywords):
        if not isinstance(name, str):
            raise ValueError(f"{told(name)} is no argument's name; give strings, as {{'input_ids': ids}}")
    twice = sorted(set(names) & set(keywords))
    if twice:
        raise ValueError(f"{', '.join(twice)} given both in inputs and in forward_kwargs: explain it, or hold it fixed")
    positional = () if additional is None else additional if isinstance(additional, tuple) else (additional,)
    return inputs, Arguments(names, positional, keywords)
