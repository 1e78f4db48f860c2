"""The secant from the origin, block by block, from x when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lrp_plugin.algebra.curves import BESIDE, Origin
from lrp_plugin.algebra.formulas import HALF, widened
from lrp_plugin.fast.blockwise import blockwise


def through_secant(function: Callable[[Tensor], Tensor], x: Tensor, origin: Origin) -> Callable[[Tensor], Tensor]:
    """``m * (f(x) - f(0)) / x``, from x when it is needed: the map before often keeps x, and a factor would be one more."""
    return lambda m: blockwise(partial(_through_secant, function, origin), m, x).to(x.dtype)


def _through_secant(
    function: Callable[[Tensor], Tensor], origin: Origin, m: Tensor, x: Tensor, out: Tensor | None
) -> Tensor:
    at_zero, slope, bend, smooth = origin
    if smooth and not at_zero and x.dtype not in HALF:  # no 0 / 0: a comparison and a choice take twice f's time
        away = x.abs().clamp_(min=BESIDE).copysign_(x)
        return torch.mul(m, function(away) / away, out=out)
    wide = widened(x)
    value = function(wide)  # in half precision its rounding would be divided by an x near 0
    if not at_zero:
        return torch.mul(m, torch.where(wide == 0, slope, value / wide), out=out)
    # (f(x) - f(0)) / x loses digits near 0 as eps / |x|, its series f' + x f''/2 as x^2: they meet at eps^(1/3).
    close = wide.abs() <= torch.finfo(wide.dtype).eps ** (1 / 3)
    secant = (value - at_zero) / torch.where(close, 1, wide)
    return torch.mul(m, torch.where(close, slope + bend * wide / 2, secant), out=out)
