"""Elementwise formulas of several steps as one kernel each on a GPU, made by torch's Inductor at first use and kept.

A GPU is bound by launches and by traffic to memory: a formula of four steps reads and writes each entry four times over.
Here it is traced once for entries in one row, of any number, and compiled (Triton); a formula is known by its function and
its numbers. Made kernels are kept in Inductor's cache on disk. A first result is compared with the plain formula's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.errors import warn
from lrp_plugin.fast import switches
from lrp_plugin.torch_private import compiled_graph, has_triton

DEVICES = {"cuda", "meta"}
"""Where formulas are fused; ``meta`` goes a GPU's way with nothing to compile."""
_HINT = 4096  # entries of the example that is traced; none of the graph depends on it
_INDEXED = 1 << 31  # entries that a kernel's index reaches
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_made: dict[Any, Callable[..., Any] | None] = {}
_making = threading.Lock()
_told: set[str] = set()


def serves(tensors: Sequence[Tensor]) -> bool:
    """Whether a formula of these tensors is one kernel where they lie."""
    return "one_kernel" not in switches.off and tensors[0].device.type in DEVICES and tensors[0].numel() > 1


def fused(formula: Callable[..., Any], rows: Sequence[Tensor]) -> Any:
    """``formula(*rows, out=None)`` in one kernel, or as it is written where that cannot be.

    Args:
        formula: Elementwise; a `functools.partial` of a function of its module and numbers. One tensor, or a tuple.
        rows: Of one length, each with its entries in one row.
    """
    run = _kernel(formula, rows) if rows[0].numel() < _INDEXED and not rows[0].is_meta else None
    return formula(*rows, out=None) if run is None else run(*rows)


def _kernel(formula: Callable[..., Any], rows: Sequence[Tensor]) -> Callable[..., Any] | None:
    try:
        known = (formula.func, formula.args, tuple(formula.keywords.items())) if isinstance(formula, partial) else None
        key = known, rows[0].device, tuple(row.dtype for row in rows)
        if known is None:
            return None
        if key in _made:
            return _made[key]
    except TypeError:  # an argument that cannot be a key, such as a tensor
        return None
    with _making:
        if key not in _made:
            _made[key] = _make(formula, rows)
        return _made[key]


def _make(formula: Callable[..., Any], rows: Sequence[Tensor]) -> Callable[..., Any] | None:
    device = rows[0].device
    if device.type == "cuda" and not has_triton():
        _tell("Triton is not installed, or does not know this GPU")
        return None
    try:
        run = compiled_graph(partial(formula, out=None), [row.new_ones(_HINT) for row in rows])
        _compare(run(*rows), formula(*rows, out=None))
    except Exception as error:  # whatever a compiler raises, the explanation does not depend on it
        said = str(error).strip().splitlines()
        _tell(f"{type(error).__name__}: {said[0][:200] if said else '?'}")
        return None
    return run


def _compare(found: Any, expected: Any) -> None:
    pairs = zip(found, expected) if isinstance(expected, tuple) else [(found, expected)]
    for mine, theirs in pairs:
        tolerance = _TOLERANCE.get(theirs.dtype, 0.0)
        if mine.dtype != theirs.dtype or not torch.allclose(mine, theirs, tolerance, tolerance, equal_nan=True):
            raise RuntimeError("a compiled formula gives something else than the formula as it is written")


def _tell(reason: str) -> None:
    """Once for each reason."""
    if reason not in _told:
        _told.add(reason)
        warn(
            f"elementwise formulas run step by step on the GPU, which takes longer: no kernel was made of one: {reason}"
        )
