"""Losses and other operations of whole models, written out in those that have rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

_REDUCTIONS = ("none", "mean", "sum")


def _named(reduction: Any, size_average: Any = None, reduce: Any = None) -> str:
    if size_average is not None or reduce is not None:  # torch's old form
        return "none" if reduce is False else "sum" if size_average is False else "mean"
    return reduction if isinstance(reduction, str) else _REDUCTIONS[reduction]


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: Any = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """The negative log-probability of a class, or of a distribution: linear in log_softmax."""
    return cross_entropy_loss(
        input, target, weight, _named(reduction, size_average, reduce), ignore_index, label_smoothing
    )


def cross_entropy_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Any = 1, ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """As `cross_entropy`, in ATen's order."""
    reduction, dim = _named(reduction), 1 if input.dim() > 1 else 0
    logs, classes = input.log_softmax(dim), input.shape[dim]
    each = 1.0 if weight is None else weight.view([-1] + [1] * (input.dim() - 1 - dim))
    if target.is_floating_point():
        wanted = target * (1 - label_smoothing) + label_smoothing / classes
        losses = -(logs * (wanted * each)).sum(dim)
        return losses.sum() / (input.numel() // classes) if reduction == "mean" else _reduced(losses, reduction)
    plain = functional.nll_loss(logs, target, weight, ignore_index=ignore_index, reduction=reduction)
    if label_smoothing == 0:
        return plain
    kept = (target != ignore_index).to(input.dtype)
    even = -(logs * each).sum(dim) * kept
    if reduction == "mean":
        counts = kept if weight is None else weight[target.clamp(min=0)] * kept
        even = even.sum() / counts.sum()
    elif reduction == "sum":
        even = even.sum()
    return plain * (1 - label_smoothing) + even * (label_smoothing / classes)


def mse_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: Any = "mean",
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The mean square of a difference."""
    if isinstance(size_average, int) and not isinstance(size_average, bool):  # ATen's order
        size_average, reduction = None, size_average
    squares = (input - target).square()
    return _reduced(squares if weight is None else squares * weight, _named(reduction, size_average, reduce))


def l1_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: Any = "mean",
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The mean magnitude of a difference."""
    if isinstance(size_average, int) and not isinstance(size_average, bool):
        size_average, reduction = None, size_average
    sizes = (input - target).abs()
    return _reduced(sizes if weight is None else sizes * weight, _named(reduction, size_average, reduce))


def grouped_mm(
    input: Tensor, mat2: Tensor, offs: Tensor | None = None, bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """A product for each group of rows (mixtures of experts): ``offs`` holds where each group ends, the rest is zero."""
    if offs is None or input.dim() != 2 or mat2.dim() != 3:
        if offs is not None:
            raise NotImplementedError("grouped_mm whose groups are not rows of the input: no model is known to use it")
        product = input @ mat2 if bias is None else input @ mat2 + bias
        return product if out_dtype is None else product.to(out_dtype)
    ends = offs.tolist()
    parts = [input[start:end] @ matrix for start, end, matrix in zip([0, *ends], ends, mat2) if end > start]
    if bias is not None:
        held = [row for start, end, row in zip([0, *ends], ends, bias) if end > start]
        parts = [part + row for part, row in zip(parts, held)]
    if len(input) > ends[-1]:
        parts.append(input.new_zeros(len(input) - ends[-1], mat2.shape[-1]))
    product = torch.cat(parts) if parts else input.new_zeros(0, mat2.shape[-1])
    return product if out_dtype is None else product.to(out_dtype)


def deform_sample(
    input: Tensor, offset: Tensor, mask: Tensor, kernel: tuple[int, int], settings: tuple[Any, ...]
) -> Tensor:
    """The entries a deformable convolution reads, (N, C * kh * kw, H_out, W_out): its own kernel with unit weights."""
    if has_torch_function((input,)):
        return handle_torch_function(deform_sample, (input,), input, offset, mask, kernel, settings)  # type: ignore[no-any-return]
    channels, places = input.shape[1], kernel[0] * kernel[1]
    one_each = torch.eye(channels * places, dtype=input.dtype, device=input.device).view(-1, channels, *kernel)
    none = input.new_zeros(channels * places)
    return torch.ops.torchvision.deform_conv2d(input, one_each, offset, mask, none, *settings)  # type: ignore[no-any-return]


def deform_conv2d(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *settings: Any
) -> Tensor:  # fmt: skip
    """Entries read at places that are held constant, then a convolution of size 1 that has every rule."""
    *window, groups, offset_groups, masked = settings
    kernel = weight.shape[2], weight.shape[3]
    read = deform_sample(input, offset, mask, kernel, (*window, 1, offset_groups, masked))
    return functional.conv2d(read, weight.reshape(len(weight), -1, 1, 1), bias, groups=groups)


# By the operation's name in `spelling`.
WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy, "cross_entropy_loss": cross_entropy_loss, "mse_loss": mse_loss, "l1_loss": l1_loss,
    "grouped_mm": grouped_mm, "deform_conv2d": deform_conv2d, "transformers::grouped_mm_fallback": grouped_mm,
}  # fmt: skip
