"""An activation written by hand as x times a function of x: SiLU's ``x * sigmoid(x)``, Hugging Face's NewGELU, Mish, Hardswish.

Of two factors that are functions of one signal, entry by entry, the one that is a multiple of it takes the relevance, and the
other is its coefficient: ``R = m f(x)``, the rule of the activation as an operation (``m f(x) / x`` on x). A product of two
signals halves it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrp_plugin.algebra.nests import replaced, tensors_in
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.propagation.writes import value_of

if TYPE_CHECKING:
    from lrp_plugin.algebra.signal import Signal
    from lrp_plugin.propagation.mode import Propagation

_MULTIPLES = frozenset(("mul", "div", "neg"))
ENTRYWISE = frozenset((
    *_MULTIPLES, "rdiv", "add", "sub", "rsub", "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log",
    "log1p", "tanh", "sigmoid", "hardsigmoid", "log_sigmoid", "softplus", "erf", "erfc", "relu", "relu6", "clamp",
    "clamp_min", "clamp_max", "hardtanh", "abs", "atan", "sin", "cos", "softsign", "where", "to", "float", "double",
    "type_as",
))  # fmt: skip
"""Operations of which each entry is a function of the entries in its place."""


def _multiples(signal: Signal) -> dict[object, bool]:
    """The signals of which one is a function, entry by entry, itself among them, and whether it is that times constants."""
    return {**signal.curves, signal.itself: True}


def note_curve(
    mode: Propagation, spelling: Spelling, tensors: list[Tensor], found: dict[int, Signal], value: Any
) -> None:
    """Remembers with a value of which signals it is a function, entry by entry."""
    made = mode.signals.get(value) if isinstance(value, Tensor) else None
    if made is None:
        return
    known = [_multiples(signal) for signal in found.values()]
    read = [tensor for tensor in tensors if id(tensor) in found]
    divides = spelling.operation == "div" and read[0] is not tensors[0]
    scaled = spelling.operation in _MULTIPLES and len(read) == 1 and not divides
    common = set(known[0]).intersection(*known[1:])
    made.curves = {root: scaled and known[0][root] for root in common}


def with_coefficient(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
) -> Callable[[], Any] | None:
    """A product of a signal's multiple and a function of the signal, with that as a coefficient; None for any other."""
    if spelling.operation != "mul" or len(found) != 2:
        return None
    (first, one), (second, other) = ((tensor, _multiples(found[id(tensor)])) for tensor in tensors)
    for root in one.keys() & other.keys():
        if one[root] != other[root]:
            taking, coefficient = (first, second) if one[root] else (second, first)
            return partial(_multiplied, mode, spelling, args, kwargs, taking, coefficient, found)
    return None


def _multiplied(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, taking: Tensor, coefficient: Tensor,
    found: dict[int, Signal],
) -> Any:  # fmt: skip
    given = {id(taking): taking, id(coefficient): value_of(mode, coefficient).detach()}
    args, kwargs = replaced(tuple(args), given), replaced(kwargs, given) if kwargs else kwargs
    tensors = tensors_in(args, tensors_in(kwargs, []))
    rule = mode.setup.chooser.default(spelling.operation)
    value = mode.apply(spelling, rule, args, kwargs, tensors, {id(taking): found[id(taking)]})
    note_curve(mode, spelling, [taking, coefficient], found, value)
    return value
