"""The parts of a map by sign for fewer applications of it, and carriers that keep no input.

Costs are counted in applications of the map (DESIGN: a forward is 1, its input-gradient 1). On a non-negative input
the negative part is ``z - z+`` and costs no forward; on a signed one ``A = f(|x|, |W|, |b|)`` gives both parts,
``z+- = (z +- A) / 2``, for one forward and two backward applications. What rounding alone leaves of a part counts as empty.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import where_positive
from lrp_plugin.algebra.linear_map import LinearMap
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.fast.blockwise import blockwise
from lrp_plugin.fast.gradients import input_gradient
from lrp_plugin.fast.redistribution import KnownCarrier

# A part that rounding alone fills: |z+| or |z-| below this many units in the last place of A counts as empty.
# Half precision is summed in float32 and rounded once: 64 units of bfloat16 would be half of A.
_EMPTY_ULPS, _EMPTY_HALF_ULPS = 64, 2


def empty_units(dtype: torch.dtype) -> float:
    """The part of a sum of magnitudes, of that dtype, up to which rounding alone may have filled one side."""
    half = dtype in (torch.float16, torch.bfloat16)
    return (_EMPTY_HALF_ULPS if half else _EMPTY_ULPS) * torch.finfo(dtype).eps


def part(larger: Tensor, z: Tensor, weight: float, sign: int = 1, ignored: Tensor | None = None) -> Tensor:
    """``weight (larger - sign z)``, which is >= 0: exactly zero where rounding alone filled it.

    Args:
        larger: A sum of magnitudes, of any shape. z: The sum itself, of that shape.
        weight: 1, or a half where ``larger`` holds both sides.
        sign: Which side is left over.
        ignored: What was taken from z afterwards (a bias): z is rounded in its units then.
    """
    ulps = empty_units(larger.dtype)
    if ignored is not None:
        left = weight * (larger - sign * z)
        return torch.where(left <= ulps * (larger + ignored.abs()), 0, left)

    return blockwise(partial(_left_over, weight, sign, ulps), larger, z)


def _left_over(weight: float, sign: int, ulps: float, a: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
    left = torch.sub(a, z, alpha=sign)
    left = left if weight == 1 else left.mul_(weight)
    return where_positive(left, torch.sub(left, a, alpha=ulps), out)


def magnitude(x: Tensor) -> Tensor:
    """``|x|``, whose backward keeps a byte per entry: autograd's own keeps x (a quarter of a transformer's memory)."""
    with torch.no_grad():
        sign = x.sign().to(torch.int8)
        value = x.abs()
    return substitute(value, lambda m: m * sign, x)


class Sides:
    """A map's carriers, each computed once.

    Args:
        f: The map.
        mode: ``"absorb"`` or ``"ignore"``: whether the bias stands in the denominators.

    Attributes:
        bias: The bias that does, or None.
        rectified: A ReLU follows: only units whose value is positive matter.
    """

    def __init__(self, f: LinearMap, mode: str) -> None:
        self.f = f
        self.ignored = f.placed(f.bias) if mode == "ignore" else None
        self.bias = None if mode == "ignore" else f.bias
        self.rectified = f.call.waited is not None and f.call.waited.rectified
        self._known: tuple[Tensor, Tensor] | None = None

    # ---- carriers that keep no input -----------------------------------------------------------------------------
    def gradient(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """`input_gradient` of this map, or None."""
        f = self.f
        return input_gradient(f.call, f.x, weight, f.z.dtype, f.call.weights)

    @property
    def owned(self) -> bool:
        """Whether what `carried` returns lies in memory of its own, which autograd does not keep."""
        return self.f.call.operation == "linear" or self.f.call.operation.startswith("conv")

    def carried(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The map applied; it keeps no input, as autograd's own would."""
        gradient = self.gradient(weight)
        if gradient is None:
            return self.f.apply(x, weight, bias)
        return substitute(self.f.apply(x.detach(), weight, bias), gradient, x)

    def known(self, value: Tensor, weight: Tensor) -> Tensor:
        """A carrier whose value is known already: it costs a backward application only."""
        return substitute(value, self.gradient(weight) or self._asked_of_autograd(weight), self.f.x)

    def _asked_of_autograd(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        x, plain = self.f.x.detach(), copy(self.f)

        def gradient(m: Tensor) -> Tensor:
            with torch.enable_grad():
                free = x.detach().requires_grad_()
                value = plain.apply(free, weight)
            return torch.autograd.grad(value, free, m.to(value.dtype))[0]

        return gradient

    # ---- parts ---------------------------------------------------------------------------------------------------
    def whole_value(self) -> Tensor:
        """z, less the bias where it is ignored."""
        return self.f.z if self.ignored is None else self.f.z - self.ignored

    def whole(self) -> KnownCarrier:
        """All contributions."""
        return KnownCarrier(self.known(self.whole_value(), self.f.weight))

    def positive(self) -> KnownCarrier:
        """The positive contributions."""
        if not self.f.nonnegative:
            return KnownCarrier(self._half(1), sign=1, owned=True)
        weight = self.positive_weight()
        if self._known is not None:
            return KnownCarrier(self.known(self._known[0], weight), sign=1)
        value = self.carried(self.f.x, weight, None if self.bias is None else self.bias.clamp(min=0))
        return KnownCarrier(value, sign=1, owned=self.owned)

    def opposed(self) -> KnownCarrier:
        """The magnitude of the negative contributions."""
        if not self.f.nonnegative:
            return KnownCarrier(self._half(-1), sign=1, owned=True)
        weight = self.f.weights("opposed", lambda w: (-w).clamp(min=0))
        with torch.no_grad():
            value = part(self.positive_value(), self.whole_value(), 1.0, 1, self.ignored)
        return KnownCarrier(self.known(value, weight), sign=1, owned=True)

    def both(self) -> tuple[KnownCarrier, KnownCarrier]:
        """The positive part and the negative one's magnitude, sharing their forward application."""
        positive = self.positive()
        if self.f.nonnegative:
            self._known = (positive.value.detach(), positive.value.detach())
            positive = positive._replace(owned=False)  # its value may be asked for again
        return positive, self.opposed()

    def positive_weight(self) -> Tensor:
        """W+."""
        return self.f.weights("positive", lambda w: w.clamp(min=0))

    def positive_value(self) -> Tensor:
        """The value of the positive part on a non-negative input, computed once."""
        if self._known is None:
            bias = None if self.bias is None else self.bias.clamp(min=0)
            with torch.no_grad():
                value = self.f.apply(self.f.x.detach(), self.positive_weight(), bias)
            self._known = (value, value)
        return self._known[0]

    def signed(self) -> tuple[Tensor, Tensor]:
        """z and ``A = f(|x|, |W|, |b|)``, both differentiable, of an input of both signs."""
        if self._known is None:
            bias = None if self.bias is None else self.bias.abs()
            absolute = self.carried(magnitude(self.f.x), self.f.weights("absolute", torch.abs), bias)
            self._known = (self.known(self.whole_value(), self.f.weight), absolute)
        return self._known

    def half(self, sign: int) -> Tensor:
        """The value of ``(A + sign z) / 2``: the magnitude of all contributions of one sign, on an input of both."""
        whole, absolute = self.signed()
        with torch.no_grad():
            return part(absolute.detach(), whole.detach(), 0.5, -sign, self.ignored)

    def _half(self, sign: int) -> Tensor:
        """`half`, differentiable."""

        def pullback(m: Tensor) -> tuple[Tensor, Tensor]:
            half = m * 0.5
            return half if sign > 0 else -half, half

        return substitute(self.half(sign), pullback, *self.signed())
