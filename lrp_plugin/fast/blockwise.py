"""Elementwise formulas of several steps, computed block by block where the blocks stay in a core's cache.

On a CPU such a formula is bound by memory: each step of PyTorch's writes a fresh tensor, whose pages cost more than
its arithmetic (a product of 8 M floats: 5 ms into known memory, 24 ms into fresh; a redistribution factor: 227 ms in
whole-tensor steps, 9 ms in blocks). A formula that needs no memory but its arguments' is as fast whole. On a GPU it is one
kernel (`lrp_plugin.fast.kernels`). While a tracer looks on, the formula runs as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lrp_plugin.fast import kernels
from lrp_plugin.torch_private import observed

# Temporaries of this many entries come from memory the allocator holds; smaller blocks pay for PyTorch's calls (the
# epsilon rule's damping of 6.4 M floats: 5.0 ms in blocks of 128 k, 3.4 in 512 k, 28 in whole-tensor steps).
BLOCK = 1 << 19


def blockwise(formula: Callable[..., Tensor], *tensors: Tensor, out: Tensor | None = None) -> Tensor:
    """``formula(*tensors, out=out)``, in blocks where that is possible.

    Args:
        formula: Elementwise in all of ``tensors``; given ``out`` it writes its result there. A ``functools.partial`` of a
            function of its module and of numbers is one kernel on a GPU.
        tensors: Of one shape.
        out: One of ``tensors`` whose memory the result may take.

    Returns:
        The formula's value, laid out in memory as the first tensor is.
    """
    serves = kernels.serves(tensors)
    rows = _in_rows(tensors) if serves or _gains_from_blocks(tensors[0]) else None
    if rows is None:
        return formula(*tensors, out=out)
    if serves:
        return _placed(kernels.fused(formula, rows), tensors[0])
    out = torch.empty_like(tensors[0]) if out is None else out
    target = _memory_order(out)
    assert target is not None
    for *pieces, place in zip(*(row.split(BLOCK) for row in (*rows, target))):
        formula(*pieces, out=place)
    return out


def pair(formula: Callable[..., tuple[Tensor, Tensor]], m: Tensor, kept: Tensor, free: bool) -> tuple[Tensor, Tensor]:
    """``formula(m, kept, second=None, out=None)``: two results of two tensors.

    Args:
        formula: Elementwise; given ``out`` and ``second`` it writes its results there. m, kept: Of one shape.
        free: Nobody reads ``kept`` again: the second result may take its memory.
    """
    if kernels.serves((m, kept)) or observed():  # a function transform's multiplier has more dimensions than it shows
        return both(formula, m, kept)
    second = kept if free else torch.empty_like(kept)
    return blockwise(lambda m, s, second, out: formula(m, s, second, out)[0], m, kept, second), second


def both(formula: Callable[..., tuple[Tensor, Tensor]], *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """``formula(*tensors)``, two results, in one kernel where that is possible; all of one shape."""
    rows = _in_rows(tensors) if kernels.serves(tensors) else None
    if rows is None:
        return formula(*tensors)
    first, second = kernels.fused(formula, rows)
    return _placed(first, tensors[0]), _placed(second, tensors[0])


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors, of one shape, piece by piece where that is possible: for what is read of them and not kept."""
    rows = _in_rows(tensors) if _gains_from_blocks(tensors[0]) else None
    yield from [tensors] if rows is None else zip(*(row.split(BLOCK) for row in rows))


def _gains_from_blocks(tensor: Tensor) -> bool:
    return tensor.numel() > BLOCK and tensor.device.type == "cpu"


def _in_rows(tensors: tuple[Tensor, ...]) -> list[Tensor] | None:
    """Every tensor as one row in one order of memory; None where that is not possible, or a tracer looks on."""
    if observed():
        return None
    first = tensors[0]
    for tensor in tensors:
        alike = tensor.shape == first.shape and tensor.stride() == first.stride() and tensor.dtype == first.dtype
        if type(tensor) is not Tensor or not alike or (tensor.requires_grad and torch.is_grad_enabled()):
            return None
    rows = [view for tensor in tensors if (view := _memory_order(tensor.detach())) is not None]
    return rows if len(rows) == len(tensors) else None


def _placed(row: Tensor, like: Tensor) -> Tensor:
    return row.as_strided(like.shape, like.stride())


def _memory_order(tensor: Tensor) -> Tensor | None:
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).view(-1)
    return None
