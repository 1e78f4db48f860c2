"""One call's arguments in parts along the examples, for inputs that do not fit into memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lrp_plugin.call import map_tensors, tensors_in


def parts(inputs: Any, target: Any, additional: Any, size: int) -> Iterator[tuple[Any, Any, Any]]:
    """Inputs, target and additional arguments of ``size`` examples at a time.

    Tensors among the additional arguments whose first dimension is that of the inputs are divided with them; so are
    targets given one for each example.

    Raises:
        ValueError: Where ``size`` is not positive.
    """
    if not (isinstance(size, int) and size > 0):
        raise ValueError(f"internal_batch_size={size!r}: legal are positive integers")
    examples = tensors_in(inputs, [])[0].shape[0]
    for start in range(0, examples, size):
        some = slice(start, start + size)

        def divided(tensor: Tensor, some: slice = some) -> Tensor:
            return tensor[some] if tensor.dim() and tensor.shape[0] == examples else tensor

        each = isinstance(target, list) or (isinstance(target, Tensor) and target.dim() > 0)
        chosen = target[some] if each and len(target) == examples else target
        yield map_tensors(inputs, lambda t, some=some: t[some]), chosen, map_tensors(additional, divided)
