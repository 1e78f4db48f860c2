"""Input-gradients of layers with any weight, from their shapes alone: the input's values need not be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.folding import Cache
from lrp_plugin.fast.strided import gains_from_phases, per_axis, phase_gradient, phase_kernel
from lrp_plugin.torch_private import observed

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_LARGE_MAP = 512  # pixels
Gradient = Callable[[Tensor], Tensor]


def input_gradient(call: Call, x: Tensor, weight: Tensor, kind: torch.dtype, cache: Cache) -> Gradient | None:
    """From a layer's output multiplier to its input's: one backward application, no forward.

    Args:
        call: A linear layer's or a convolution's call.
        x: Its input; only its shape and dtype are kept.
        weight: The weight to use, of the call's weight's shape.
        kind: What it is computed in: half precision under autocast, as the layer itself is.
        cache: Keeps the weight in that precision.

    Returns:
        None for other operations, and where only autograd knows how: uneven padding, transposed convolutions.
    """
    if call.operation != "linear" and call.operation not in _CONVOLUTIONS:
        return None
    if weight.dtype != kind:
        weight = cache.get((weight,), f"as/{kind}", partial(weight.to, kind))
    dtype = x.dtype
    if call.operation == "linear":
        return lambda m: (m.to(kind) @ weight).to(dtype)
    options = [call.get(name, default) for name, default in _OPTIONS]
    hashable = [tuple(value) if isinstance(value, list) else value for value in options]
    geometry = _geometry(weight.shape[2:], *hashable)
    return None if geometry is None or x.dim() != weight.dim() else _convolution(geometry, x, weight, cache)


class _Geometry(NamedTuple):
    """A convolution's numbers, for each axis; ``pointwise``: 1 x 1 with nothing skipped."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    pointwise: bool


_OPTIONS = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))


@lru_cache(maxsize=1024)
def _geometry(kernel: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int) -> _Geometry | None:
    n = len(kernel)
    spread = per_axis(dilation, n)
    explicit = _explicit_padding(kernel, padding, spread)
    if explicit is None:
        return None
    steps, groups = per_axis(stride, n), int(groups)
    pointwise = groups == 1 and [*kernel, *steps, *explicit] == [1, 1, 1, 1, 0, 0]
    return _Geometry(steps, explicit, spread, groups, pointwise)


def _convolution(geometry: _Geometry, x: Tensor, weight: Tensor, cache: Cache) -> Gradient:
    shape, dtype, kind = x.shape, x.dtype, weight.dtype
    stride, padding, dilation, groups, pointwise = geometry
    if gains_from_phases(weight, stride, dilation, groups):
        make = partial(phase_kernel, weight, stride[0], padding)
        kernel = cache.get((weight,), f"phases/{stride[0]}/{padding}", make)
        places = weight.shape[2:]
        return lambda m: phase_gradient(m.to(kind), kernel, shape[1:], places, stride[0], padding).to(dtype)
    # The kernel asks for the input and reads its shape alone: memory that nobody touches costs nothing. A compiler does
    # touch it, and is given the input itself.
    held = x.detach().to(kind) if observed() else None

    def gradient(m: Tensor) -> Tensor:
        m = m if m.dtype == kind else m.to(kind)
        if pointwise and _gains_from_product(m):
            sent = torch.matmul(weight.flatten(1).t(), m.flatten(2)).view(shape)
        else:
            like = held if held is not None else m if m.shape == shape else _untouched(m, shape)
            sent = _convolution_backward(
                m, like, weight, None, stride, padding, dilation, False, [0] * len(stride), groups, _OF_INPUT
            )[0]
        return sent if dtype == kind else sent.to(dtype)

    return gradient


_convolution_backward = torch.ops.aten.convolution_backward.default
_OF_INPUT = [True, False, False]


def _gains_from_product(m: Tensor) -> bool:
    """Whether a 1 x 1 convolution's gradient is faster as one matrix product per example.

    On a CPU with large maps it is, by up to a half (8 x 64 x 56 x 56 from 256 channels' 29 ms: 13.5), as the kernel's
    own needs memory for an input; with maps of 14 x 14 and fewer it is slower.
    """
    rows, columns = m.shape[2:]
    return rows * columns >= _LARGE_MAP and m.device.type == "cpu" and m.is_contiguous() and not observed()


def _untouched(m: Tensor, shape: torch.Size) -> Tensor:
    """Memory of that shape, laid out as ``m`` is."""
    last = m.dim() == 4 and not m.is_contiguous() and m.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=m.dtype, device=m.device, memory_format=form)


def _explicit_padding(kernel: Sequence[int], padding: Any, dilation: Sequence[int]) -> list[int] | None:
    """The padding in numbers; None for an uneven "same"."""
    if padding == "valid":
        return [0] * len(kernel)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return None if any(t % 2 for t in total) else [t // 2 for t in total]
    return per_axis(padding, len(kernel))
