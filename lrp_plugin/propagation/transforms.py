"""``torch.vmap`` over signals runs as the loop it stands for: no rule is defined on a tensor of a function transform."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.torch_private import flattened, function_modes, unflattened, vmap_parts


class SignalInVmapError(BaseException):
    """A vmap over constants met a signal: it is to run as a loop.

    No ``Exception``: the model's own ``except`` must not swallow it.
    """


_LOCK = threading.Lock()
_ENTERED: list[Any] = [0, None]


@contextmanager
def vmap_as_loop() -> Iterator[None]:
    """While it is open, ``vmap`` of a call that is given signals loops in the threads that explain; elsewhere nothing changes.

    An ensemble of stacked parameters (vmap over functional_call) runs member by member. Torch looks the implementation up in
    its module at each call: the first to enter puts another there, the last to leave gives it back.
    """
    if vmap_parts is None:  # a signal that enters one is refused (`unruled`)
        yield
        return
    vmaps = vmap_parts.home
    with _LOCK:
        if _ENTERED[0] == 0:
            _ENTERED[1] = vmaps["vmap_impl"]
            vmaps["vmap_impl"] = _looping(_ENTERED[1])
        _ENTERED[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _ENTERED[0] -= 1
            if _ENTERED[0] == 0:
                vmaps["vmap_impl"] = _ENTERED[1]


def _looping(original: Callable[..., Any]) -> Callable[..., Any]:
    def vmap_impl(
        function: Any, in_dims: Any, out_dims: Any, randomness: str, chunk_size: int | None, *args: Any, **kwargs: Any
    ) -> Any:
        mode = next((mode for mode in function_modes() if hasattr(mode, "depends_on_input")), None)
        if mode is None:
            return original(function, in_dims, out_dims, randomness, chunk_size, *args, **kwargs)
        if not any(map(mode.depends_on_input, tensors_in((args, kwargs), []))):
            mode.remembered.vmaps += 1
            try:
                return original(function, in_dims, out_dims, randomness, chunk_size, *args, **kwargs)
            except SignalInVmapError:  # the function has it from around it
                pass
            finally:
                mode.remembered.vmaps -= 1
        return _loop(mode, function, in_dims, out_dims, args, kwargs)

    return vmap_impl


def _loop(mode: Any, function: Any, in_dims: Any, out_dims: Any, args: Any, kwargs: Any) -> Any:
    parts: Any = vmap_parts
    size, dims, flat, spec = parts.batched(in_dims, args, function)
    rows, count, ports = [], mode.count, mode.ports
    for place in range(size):
        mode.count, mode.ports = count.branch(), ports  # the maps of all members stand for one another
        taken = [one if dim is None else one.select(dim, place) for one, dim in zip(flat, dims)]
        rows.append(flattened(function(*unflattened(taken, spec), **kwargs)))
    shape = rows[0][1]
    placed = parts.placed(out_dims, shape) or []
    columns = zip(*(row for row, _ in rows))
    return unflattened(
        [column[0] if dim is None else torch.stack(column, dim) for column, dim in zip(columns, placed)], shape
    )
