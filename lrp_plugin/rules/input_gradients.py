"""Input-gradients of layers with any weight, from their shapes alone: the input's values need not be kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lrp_plugin.blockwise import observed
from lrp_plugin.call import Call
from lrp_plugin.rules.strided import gains_from_phases, per_axis, phase_gradient, phase_kernel
from lrp_plugin.rules.weights import WeightCache

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_LARGE_MAP = 512  # pixels
Gradient = Callable[[Tensor], Tensor]


def input_gradient(call: Call, x: Tensor, weight: Tensor, kind: torch.dtype, cache: WeightCache) -> Gradient | None:
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
    padding = explicit_padding(call, weight)
    return None if padding is None or x.dim() != weight.dim() else _convolution(call, x, weight, padding, cache)


def _convolution(call: Call, x: Tensor, weight: Tensor, padding: list[int], cache: WeightCache) -> Gradient:
    n, shape, dtype = weight.dim() - 2, x.shape, x.dtype
    stride, dilation = per_axis(call.get("stride", 1), n), per_axis(call.get("dilation", 1), n)
    groups = int(call.get("groups", 1))
    if gains_from_phases(weight, stride, dilation, groups):
        make = partial(phase_kernel, weight, stride[0], padding)
        kernel = cache.get((weight,), f"phases/{stride[0]}/{padding}", make)
        places = weight.shape[2:]
        return lambda m: phase_gradient(m.to(weight.dtype), kernel, shape[1:], places, stride[0], padding).to(dtype)
    pointwise = n == 2 and groups == 1 and [*weight.shape[2:], *stride, *padding] == [1, 1, 1, 1, 0, 0]
    # The kernel asks for the input and reads its shape alone: memory that nobody touches costs nothing. A compiler does
    # touch it, and is given the input itself.
    held = x.detach().to(weight.dtype) if observed() else None

    def gradient(m: Tensor) -> Tensor:
        m = m.to(weight.dtype)
        if pointwise and _gains_from_product(m):
            return torch.matmul(weight.flatten(1).t(), m.flatten(2)).view(shape).to(dtype)
        like = held if held is not None else m if m.shape == shape else _untouched(m, shape)
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            m, like, weight, None, stride, padding, dilation, False, [0] * n, groups,
            [True, False, False],
        )[0].to(dtype)  # fmt: skip

    return gradient


def _gains_from_product(m: Tensor) -> bool:
    """Whether a 1 x 1 convolution's gradient is faster as one matrix product per example.

    On a CPU with large maps it is, by up to a half (8 x 64 x 56 x 56 from 256 channels' 29 ms: 13.5), as the kernel's
    own needs memory for an input; with maps of 14 x 14 and fewer it is slower.
    """
    return m.device.type == "cpu" and m[0, 0].numel() >= _LARGE_MAP and m.is_contiguous() and not observed()


def _untouched(m: Tensor, shape: torch.Size) -> Tensor:
    """Memory of that shape, laid out as ``m`` is."""
    last = m.dim() == 4 and not m.is_contiguous() and m.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=m.dtype, device=m.device, memory_format=form)


def explicit_padding(call: Call, weight: Tensor) -> list[int] | None:
    """The padding in numbers; None for an uneven "same"."""
    padding, n = call.get("padding", 0), weight.dim() - 2
    if padding == "valid":
        return [0] * n
    if padding == "same":
        dilation = per_axis(call.get("dilation", 1), n)
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
        return None if any(t % 2 for t in total) else [t // 2 for t in total]
    return per_axis(padding, n)
