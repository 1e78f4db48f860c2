"""The epsilon rule's damping, alone and joined to what follows, in few kernels and little memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import widened
from lrp_plugin.fast.blockwise import blockwise
from lrp_plugin.torch_private import observed


def damped(multiplier: Tensor, preactivation: Tensor, epsilon: float, owned: bool = False) -> Tensor:
    """``m * |z| / (|z| + epsilon)``, the epsilon rule's multiplier, of ``multiplier``'s shape and dtype.

    Args:
        multiplier: m. preactivation: z, of its shape.
        epsilon: In units of z.
        owned: Nobody reads the multiplier again: the result may be written over it.
    """

    def formula(m: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
        # m - eps * m / (|z| + eps): three kernels, two of them in place.
        return torch.addcdiv(m, m, z.abs().add_(epsilon), value=-epsilon, out=out)

    wide = widened(multiplier)
    own = wide if owned and not observed() and wide.shape == preactivation.shape else None
    return blockwise(formula, wide, widened(preactivation), out=own).to(multiplier.dtype)


def damped_behind_relu(multiplier: Tensor, rectified: Tensor, epsilon: float) -> Tensor:
    """What `damped` makes of a ReLU's multiplier: ``m * y / (y + epsilon)`` with y the ReLU's value, 0 where y is 0."""

    def formula(m: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
        return torch.mul(m, y, out=out).div_(y + epsilon)  # divided first, m / epsilon might overflow, and 0 inf is NaN

    return blockwise(formula, widened(multiplier), widened(rectified)).to(multiplier.dtype)


def damped_secant(f: Callable[[Tensor], Tensor], epsilon: float, multiplier: Tensor, preactivation: Tensor) -> Tensor:
    """What `damped` makes of f(z)'s multiplier behind f's secant from the origin.

    ``m * f(z) / z * |z| / (|z| + epsilon) = m * f(z) / (z + epsilon sign(z))``: one division, of no zero by zero.

    Args:
        f: A function of one entry, f(0) = 0.
        epsilon: In units of z, > 0. multiplier: m. preactivation: z, of its shape.
    """

    def formula(m: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
        wide = widened(z)
        return torch.div(widened(m) * widened(f(z)), wide.abs().add_(epsilon).copysign_(wide), out=out)

    return blockwise(formula, multiplier, preactivation).to(multiplier.dtype)
