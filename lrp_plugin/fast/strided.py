"""The input-gradient of a strided convolution of few channels, an image's, on a CPU.

Pixel ``i = stride q + r`` receives from entry o of the gradient through place k of the kernel with
``i + padding = stride o + k``: every stride-th pixel (a phase r) sees the same places. So the gradient is one
convolution at the lower resolution with ``C_in stride^2`` outputs, whose pixels are then shuffled (Shi et al. 2016, arXiv
1609.05158). A processor's vectors are wider than an image's three channels: ResNet's first layer takes 29 ms in place of
57 (batch 4, one thread of AVX2), a patch embedding of 16 pixels 7 in place of 26 (batch 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# With more channels an input fills a processor's vectors by itself.
_FEW_CHANNELS = 4
# Entries of float32 in a vector register of AVX2.
_LANES = 8


class _Axis(NamedTuple):
    """For each phase, the kernel's place by the gradient's offset ``o - q``; the lowest offset, and how many."""

    phases: list[dict[int, int]]
    lowest: int
    taps: int


def per_axis(value: Any, n: int) -> list[int]:
    """A stride, padding or dilation as one number for each of n axes."""
    return [int(value)] * n if isinstance(value, int) else [int(v) for v in value] * (n if len(value) == 1 else 1)


def gains_from_phases(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Whether a convolution is of the kind that `phase_gradient` is faster for."""
    return (
        groups == 1
        and len(stride) == 2
        and stride[0] == stride[1] > 1
        and tuple(dilation) == (1, 1)
        and weight.shape[1] <= _FEW_CHANNELS
        and weight.device.type == "cpu"
    )


def phase_kernel(weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    """The weight of shape (C_in stride^2, C_out, offsets, offsets) that gives every phase of every channel.

    Outputs of zeros fill it up to a multiple of a vector's width (ResNet's 12 outputs: 27 ms, as 16: 20-24 ms).

    Args:
        weight: Of shape (C_out, C_in, height, width).
        stride: Of both axes.
        padding: Of each axis.
    """
    outputs, channels = weight.shape[:2]
    rows, columns = (_axis(weight.shape[2 + axis], stride, padding[axis]) for axis in (0, 1))
    kernel = weight.new_zeros(channels, stride, stride, outputs, rows.taps, columns.taps)
    for row, row_places in enumerate(rows.phases):
        for column, column_places in enumerate(columns.phases):
            for down, i in row_places.items():
                for right, j in column_places.items():
                    kernel[:, row, column, :, down - rows.lowest, right - columns.lowest] = weight[:, :, i, j].t()
    kernel = kernel.flatten(0, 2)
    return functional.pad(kernel, (0, 0, 0, 0, 0, 0, 0, -len(kernel) % _LANES))


def phase_gradient(
    multiplier: Tensor, kernel: Tensor, shape: Sequence[int], places: Sequence[int], stride: int, padding: Sequence[int]
) -> Tensor:
    """The gradient with respect to a convolution's input.

    Args:
        multiplier: Of shape (N, C_out, rows, columns).
        kernel: From `phase_kernel`.
        shape: The input's channels, rows and columns.
        places: The convolution kernel's rows and columns.
        stride, padding: The convolution's.

    Returns:
        Of shape (N, \\*shape).
    """
    channels, *size = shape
    before, after = [], []
    for axis in (0, 1):
        _, lowest, taps = _axis(places[axis], stride, padding[axis])
        before.append(-lowest)
        after.append(-(-size[axis] // stride) - 1 + lowest + taps - multiplier.shape[2 + axis])
    # The convolution's own padding is free, but the same on both sides: what it adds before is cut off again.
    pads = [max(pair) if min(pair) >= 0 else 0 for pair in zip(before, after)]
    if min(*before, *after) < 0:
        pads, multiplier = [0, 0], functional.pad(multiplier, (before[1], after[1], before[0], after[0]))
        before = [0, 0]
    phases = torch.conv2d(multiplier, kernel, padding=pads)[:, : channels * stride**2]
    top, left = ((pad - own) * stride for pad, own in zip(pads, before))
    return functional.pixel_shuffle(phases, stride)[:, :, top : top + size[0], left : left + size[1]].contiguous()


def _axis(places: int, stride: int, padding: int) -> _Axis:
    phases = [
        {(r + padding - k) // stride: k for k in range(places) if (r + padding - k) % stride == 0}
        for r in range(stride)
    ]
    offsets = [offset for phase in phases for offset in phase]
    return _Axis(phases, min(offsets), max(offsets) - min(offsets) + 1)
