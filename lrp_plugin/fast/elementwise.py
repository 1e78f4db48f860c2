"""The epsilon rule's damping, alone and joined to what follows, in few kernels and little memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import HALF, where_positive, widened
from lrp_plugin.fast.blockwise import blockwise
from lrp_plugin.torch_private import observed


def damped(multiplier: Tensor, preactivation: Tensor, epsilon: float, owned: bool = False) -> Tensor:
    """``m * |z| / (|z| + epsilon)``, the epsilon rule's multiplier, of ``multiplier``'s shape and dtype.

    Args:
        multiplier: m. preactivation: z, of its shape.
        epsilon: In units of z.
        owned: Nobody reads the multiplier again: the result may be written over it.
    """
    own = multiplier if owned and not observed() and multiplier.shape == preactivation.shape else None
    return blockwise(partial(_damped, epsilon), multiplier, preactivation, out=own).to(multiplier.dtype)


def _damped(epsilon: float, m: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
    # m - eps * m / (|z| + eps): three kernels, two of them in place.
    wide = widened(m)
    return torch.addcdiv(wide, wide, widened(z).abs().add_(epsilon), value=-epsilon, out=out)


def damped_where_positive(multiplier: Tensor, y: Tensor, preactivation: Tensor, epsilon: float) -> Tensor:
    """What `damped` makes of a multiplier that passes where y is positive; all of one shape."""
    return blockwise(partial(_damped_where_positive, epsilon), multiplier, y, preactivation).to(multiplier.dtype)


def _damped_where_positive(epsilon: float, m: Tensor, y: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
    return _damped(epsilon, where_positive(m, y, out), z, out)


def damped_behind_relu(multiplier: Tensor, rectified: Tensor, epsilon: float) -> Tensor:
    """What `damped` makes of a ReLU's multiplier: ``m * y / (y + epsilon)`` with y the ReLU's value, 0 where y is 0."""
    return blockwise(partial(_damped_behind_relu, epsilon), multiplier, rectified).to(multiplier.dtype)


def _damped_behind_relu(epsilon: float, m: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    wide = widened(y)
    if y.dtype in HALF:
        return torch.div(widened(m) * wide, wide + epsilon, out=out)
    return torch.mul(m, y, out=out).div_(y + epsilon)  # divided first, m / epsilon might overflow, and 0 inf is NaN


def damped_secant(f: Callable[[Tensor], Tensor], epsilon: float, multiplier: Tensor, preactivation: Tensor) -> Tensor:
    """What `damped` makes of f(z)'s multiplier behind f's secant from the origin.

    ``m * f(z) / z * |z| / (|z| + epsilon) = m * f(z) / (z + epsilon sign(z))``: one division, of no zero by zero.

    Args:
        f: A function of one entry, f(0) = 0.
        epsilon: In units of z, > 0. multiplier: m. preactivation: z, of its shape.
    """
    return blockwise(partial(_damped_secant, f, epsilon), multiplier, preactivation).to(multiplier.dtype)


def _damped_secant(f: Callable[[Tensor], Tensor], epsilon: float, m: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
    wide = widened(z)
    return torch.div(widened(m) * f(wide), wide.abs().add_(epsilon).copysign_(wide), out=out)
