"""Functions of one entry at 0: what their secant from the origin needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call


@dataclass(frozen=True)
class Applied:
    """A function of its first argument, the others given; two of the same are equal."""

    function: Callable[..., Tensor]
    rest: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Its value."""
        return self.function(x, *self.rest, **dict(self.named))


def of_one(call: Call) -> Callable[[Tensor], Tensor]:
    """The function of the input alone, which holds no signal."""
    named = {key: value for key, value in call.kwargs.items() if key != "input"}
    return Applied(call.function, call.args[1:], tuple(sorted(named.items())))


BESIDE = 1e-30  # beside 0: f(x) / x is f'(0) there to rounding, and no float32 is lost below


class Origin(NamedTuple):
    """A function of one entry at 0.

    Args:
        value: f(0). slope: f'(0). bend: f''(0); a derivative that is not finite is 0 (R is 0 there in any case).
        smooth: The slope is the same on either side, and not 0.
    """

    value: float
    slope: float
    bend: float
    smooth: bool = False


def at_origin(call: Call) -> Origin:
    rest = call.args[1:]
    try:
        return _derivatives(call.function, rest, tuple(sorted(call.kwargs.items())))
    except TypeError:  # an argument that cannot be a key, such as a tensor: nothing is kept
        return _derivatives.__wrapped__(call.function, rest, tuple(call.kwargs.items()))


@functools.lru_cache(maxsize=256)
def _derivatives(function: Callable[..., Any], args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Origin:
    named = {key: value for key, value in kwargs if key not in ("inplace", "input")}
    with torch.enable_grad():
        zero = torch.zeros(1, dtype=torch.float64, requires_grad=True, device="cpu")
        value = function(zero, *args, **named)
        if not value.requires_grad:
            return Origin(float(value), 0.0, 0.0)
        (slope,) = torch.autograd.grad(value.sum(), zero)
    step = torch.tensor([1e-4, -1e-4], dtype=torch.float64, device="cpu")
    centre = value.detach()
    ahead, behind = function(step, *args, **named).double()
    bend = (ahead - 2 * centre + behind) / 1e-8
    finite = [number if math.isfinite(number) else 0.0 for number in map(float, (centre, slope, bend))]
    beside = torch.tensor([BESIDE, -BESIDE], dtype=torch.float64, device="cpu")
    sides = (function(beside, *args, **named).double() / beside).tolist()
    smooth = finite[1] != 0 and all(math.isclose(side, finite[1], rel_tol=1e-9) for side in sides)
    return Origin(finite[0], finite[1], finite[2], smooth)
