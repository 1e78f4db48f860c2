"""One call's arguments in parts along the examples, for inputs that do not fit into memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

from torch import Tensor

from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.attribution.targets import Part
from lrp_plugin.errors import told


def parts(inputs: Any, target: Any, additional: Any, size: int) -> Iterator[tuple[Any, Any, Any]]:
    """Inputs, target and additional arguments of ``size`` examples at a time.

    Tensors among the additional arguments whose first dimension is that of the inputs are divided with them; so are
    targets given one for each example.

    Raises:
        ValueError: Where ``size`` is not positive, or the inputs differ in their first dimension.
    """
    if isinstance(size, bool) or not (isinstance(size, Integral) and size > 0):
        raise ValueError(f"internal_batch_size={told(size)}: legal are positive integers")
    size = int(size)
    counts = [tensor.shape[0] for tensor in tensors_in(inputs, [])]
    examples = counts[0]
    if len(set(counts)) > 1:
        raise ValueError(
            f"internal_batch_size divides the inputs by their first dimension, but they have {' and '.join(map(str, counts))} "
            "rows: leave it out"
        )
    if examples <= size:
        yield inputs, target, additional
        return
    for start in range(0, examples, size):
        some = slice(start, start + size)

        def divided(tensor: Tensor, some: slice = some) -> Tensor:
            return tensor[some] if tensor.dim() and tensor.shape[0] == examples else tensor

        given = map_tensors(inputs, lambda t, some=some: t[some])
        yield given, Part(target, some, examples), map_tensors(additional, divided)
