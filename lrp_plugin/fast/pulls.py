"""How a finished operation's multiplier passes on to its sources, for what reads its value and is joined to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from lrp_plugin.algebra.linear_map import LinearMap
from lrp_plugin.fast.gradients import input_gradient

Gradient = Callable[[Tensor], Tensor]


class MapPull(NamedTuple):
    """A linear map under the epsilon rule: ``gradient(damped(m, z, epsilon))`` reaches its input.

    Args:
        map: The map. gradient: From its value's multiplier to its input's. epsilon: In units of z; 0 is LRP-0.
    """

    map: LinearMap
    gradient: Gradient
    epsilon: float

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """The map's input."""
        return (self.map.x,)

    @property
    def takes_scale(self) -> bool:
        """Whether a scale of its channels costs less on the weight than on the value, and falls on its outputs."""
        f = self.map
        return f.x.dim() == f.weight.dim() and f.z.numel() >= f.weight.numel()

    def reweighted(self, weight: Tensor) -> Gradient | None:
        """The gradient of the same map with another weight, or None where only autograd knows it."""
        f = self.map
        return input_gradient(f.call, f.x, weight, f.z.dtype, f.call.weights)

    def behind(self, damping: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
        """The map's gradient behind ``damping(m, z)``."""
        z, gradient = self.map.z, self.gradient
        version = z._version

        def pullback(m: Tensor) -> Tensor:
            if z._version != version:  # as autograd checks of what it keeps
                raise RuntimeError(
                    "a map's value was written to in place before its backward pass: report this, please"
                )
            return gradient(damping(m, z))

        return pullback


class ScaledPull(NamedTuple):
    """A map with a scale behind it, its gradient that of the scaled weight; the value it damps is the map's own."""

    pull: MapPull

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """The map's input."""
        return self.pull.sources


class ScalePull(NamedTuple):
    """A scale of each channel: ``m * factor`` reaches its input."""

    factor: Tensor
    x: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """The scaled tensor."""
        return (self.x,)


class SumPull(NamedTuple):
    """A sum of two signals: both receive its multiplier."""

    left: Tensor
    right: Tensor

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """The addends."""
        return (self.left, self.right)
