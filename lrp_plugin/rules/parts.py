"""Parts of a sum by sign, from the sum and its magnitudes: what rounding alone leaves of one counts as empty."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_plugin.algebra.blockwise import blockwise
from lrp_plugin.algebra.formulas import where_positive
from lrp_plugin.algebra.primitives import substitute

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

    def formula(a: Tensor, z: Tensor, out: Tensor | None) -> Tensor:
        left = torch.sub(a, z, alpha=sign)
        left = left if weight == 1 else left.mul_(weight)
        return where_positive(left, torch.sub(left, a, alpha=ulps), out)

    return blockwise(formula, larger, z)


def magnitude(x: Tensor) -> Tensor:
    """``|x|``, whose backward keeps a byte per entry: autograd's own keeps x (a quarter of a transformer's memory)."""
    with torch.no_grad():
        sign = x.sign().to(torch.int8)
        value = x.abs()
    return substitute(value, lambda m: m * sign, x)
