"""A constant added to a linear map that has no bias is its bias: ``x @ W + b`` is ``linear(x, W.T, b)``, under every rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.binding import Added, bind
from lrp_plugin.algebra.formulas import cast_of
from lrp_plugin.algebra.linear_map import CONVOLUTIONS
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.propagation.gates import with_coefficient
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.propagation.written_out import WITH_SIGNAL_ADDED

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation

_BEHIND = {"linear": 0, **{name: int(name[-2]) for name in CONVOLUTIONS}}
"""Layers, and how many dimensions of their values stand behind the channels."""
MAPS_OF_UNITS = frozenset({*_BEHIND, "matmul", "mm", "mv", "einsum"})
"""Maps to which a bias may be added."""
MAY_BE_OTHERS = frozenset({*WITH_SIGNAL_ADDED, "add", "sub", "mul"})
"""Operations that `written_instead` looks at."""


class Unbiased(NamedTuple):
    """A call of a map without a bias, until something reads its value.

    Args:
        spelling, args, kwargs: The call.
        x: Its input. signal: What was known of that then.
        cast: Autocast's dtype then.
        planned: The length of the plan with it.
    """

    spelling: Spelling
    args: Any
    kwargs: Any
    x: Tensor
    signal: Signal
    cast: torch.dtype | None
    planned: int


def note_map(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal], value: Any
) -> None:  # fmt: skip
    """Remembers with a map's value that it has no bias: its input and its weight are all it was given."""
    if len(found) != 1 or len(tensors) != 2 or spelling.writes:
        return
    x = tensors[0] if id(tensors[0]) in found else tensors[1]
    signal = mode.signals.get(value)
    if signal is not None:
        cast, planned = cast_of(x.device.type), len(mode.plan or ())
        mode.remembered.unbiased[signal] = Unbiased(spelling, args, kwargs, x, found[id(x)], cast, planned)


def written_instead(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
) -> Callable[[], Any] | None:
    """The other operation, or operations, that a call is; None where it is what it is called."""
    added = WITH_SIGNAL_ADDED.get(spelling.operation)
    if added is not None:
        takes = id(args[0] if args else kwargs["input"]) in found
        return partial(_opened, mode, added, args, kwargs) if takes else None
    if spelling.operation == "mul":
        return with_coefficient(mode, spelling, args, kwargs, tensors, found)
    if len(found) != 1:
        return None
    (signal,) = found.values()
    map = mode.remembered.unbiased.pop(signal, None)
    if map is None or signal.watched:
        return None
    value, bias = _bias(bind(spelling.function, args, kwargs), found, spelling.operation == "sub")
    if bias is None or map.cast != cast_of(map.x.device.type) or not _is_of_units(map, value, bias):
        return None
    return partial(_biased, mode, map, value, bias)


def _bias(names: Any, found: dict[int, Signal], negative: bool) -> tuple[Tensor, Tensor | None]:
    """The map's value, and what is added to it; None where the map's own sign or scale is not kept (b - z, b + a z)."""
    value, constant, factor = names.get("input"), names.get("other"), names.get("alpha", 1)
    if id(value) not in found:
        value, constant = constant, value
        if negative or factor != 1:
            return value, None
    if isinstance(constant, (int, float)):
        constant = value.new_full((1,), constant)
    if not isinstance(constant, Tensor) or constant.dtype != value.dtype or constant.layout is not torch.strided:
        return value, None
    factor = -factor if negative else factor
    constant = constant.view(1) if constant.dim() == 0 else constant  # one of no dimension takes on any other's dtype
    return value, constant if factor == 1 else factor * constant


def _is_of_units(map: Unbiased, value: Tensor, constant: Tensor) -> bool:
    """Whether it has one number for each unit: a position's embedding, which differs from place to place, is no bias."""
    own = _unit_dims(map, value)
    return constant.dim() <= value.dim() and all(
        size == 1 or (-place in own and size == value.shape[-place])
        for place, size in enumerate(reversed(constant.shape), start=1)
    )


def _unit_dims(map: Unbiased, value: Tensor) -> set[int]:
    """The value's dimensions, counted from the end, that come from the weight alone."""
    operation, names = str(map.spelling.operation), bind(map.spelling.function, map.args, map.kwargs)
    if operation in _BEHIND:
        return {-1 - _BEHIND[operation]}
    first, second = (one for one in tensors_in(map.args, tensors_in(map.kwargs, [])))
    if operation == "einsum":
        terms, _, result = str(names["equation"]).replace(" ", "").partition("->")
        of_x, of_weight = terms.split(",") if map.x is first else reversed(terms.split(","))
        if "." in terms or len(result) != value.dim():
            return set()
        return {
            place - len(result) for place, letter in enumerate(result) if letter in of_weight and letter not in of_x
        }
    weight = second if map.x is first else first
    if weight.dim() == 1:  # one unit
        return set(range(-value.dim(), 0))
    if weight.dim() != 2:  # examples have matrices of their own
        return set()
    return {-1 if map.x is first or map.x.dim() == 1 else -2}


def _biased(mode: Propagation, map: Unbiased, value: Tensor, bias: Tensor) -> Any:
    """The map with that bias: a layer's own argument, or a product with something added."""
    spelling, args, kwargs = map.spelling, map.args, map.kwargs
    if spelling.operation in _BEHIND:
        vector = bias.reshape(-1).expand(value.shape[-1 - _BEHIND[str(spelling.operation)]])
        args = (*args[:2], vector, *args[3:]) if len(args) > 2 else args
        kwargs = kwargs if len(args) > 2 else {**kwargs, "bias": vector}
    else:
        spelling = spelling._replace(function=Added(spelling.function, bias))
    if mode.plan and len(mode.plan) == map.planned:  # It takes the place of the map without a bias.
        mode.plan.pop()
    tensors = tensors_in(args, tensors_in(kwargs, []))
    rule = mode.setup.chooser.default(spelling.operation)
    return mode.apply(spelling, rule, args, kwargs, tensors, {id(map.x): map.signal})


def _opened(mode: Propagation, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with mode:
        return function(*args, **kwargs)
