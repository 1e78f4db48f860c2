"""``torch.vmap`` over signals runs as the loop it stands for: no rule is defined on a tensor of a function transform."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._functorch import apis
from torch._functorch.vmap import _process_batched_inputs
from torch.overrides import _get_current_function_mode_stack
from torch.utils._pytree import _broadcast_to_and_flatten, tree_flatten, tree_unflatten

from lrp_plugin.algebra.call import tensors_in

_LOCK = threading.Lock()
_ENTERED: list[Any] = [0, None]


@contextmanager
def vmap_as_loop() -> Iterator[None]:
    """While it is open, ``vmap`` of a call that is given signals loops in the threads that explain; elsewhere nothing changes.

    An ensemble of stacked parameters (vmap over functional_call) runs member by member. Torch looks the implementation up in
    its module at each call: the first to enter puts another there, the last to leave gives it back.
    """
    with _LOCK:
        if _ENTERED[0] == 0:
            _ENTERED[1] = vars(apis)["vmap_impl"]
            vars(apis)["vmap_impl"] = _looping(_ENTERED[1])
        _ENTERED[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _ENTERED[0] -= 1
            if _ENTERED[0] == 0:
                vars(apis)["vmap_impl"] = _ENTERED[1]


def _looping(original: Callable[..., Any]) -> Callable[..., Any]:
    def vmap_impl(
        function: Any, in_dims: Any, out_dims: Any, randomness: str, chunk_size: int | None, *args: Any, **kwargs: Any
    ) -> Any:
        given = tensors_in((args, kwargs), [])
        for mode in _get_current_function_mode_stack():
            known = getattr(mode, "depends_on_input", None)
            if known is not None and any(map(known, given)):
                return _loop(function, in_dims, out_dims, args, kwargs)
        return original(function, in_dims, out_dims, randomness, chunk_size, *args, **kwargs)

    return vmap_impl


def _loop(function: Any, in_dims: Any, out_dims: Any, args: Any, kwargs: Any) -> Any:
    size, dims, flat, spec = _process_batched_inputs(in_dims, args, function)
    rows = []
    for place in range(size):
        taken = [one if dim is None else one.select(dim, place) for one, dim in zip(flat, dims)]
        rows.append(tree_flatten(function(*tree_unflatten(taken, spec), **kwargs)))
    shape = rows[0][1]
    placed = _broadcast_to_and_flatten(out_dims, shape) or []
    columns = zip(*(row for row, _ in rows))
    return tree_unflatten(
        [column[0] if dim is None else torch.stack(column, dim) for column, dim in zip(columns, placed)], shape
    )
