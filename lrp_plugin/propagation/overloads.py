"""ATen's overloads (``aten.linear.default``), as modules from ``torch.export`` call them: the operations they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.torch_private import function_modes, one_overload

_OWN = ("aten", "torchvision")

NAMES = {
    "index": "getitem", "slice": "getitem", "unsafe_index": "getitem", "alias": "view", "unsafe_view": "view",
    "reshape_alias": "view", "lift": "view", "lift_fresh": "view", "to_copy": "to", "constant_pad_nd": "pad",
    "reflection_pad1d": "pad", "reflection_pad2d": "pad", "reflection_pad3d": "pad", "replication_pad1d": "pad",
    "replication_pad2d": "pad", "replication_pad3d": "pad", "pad_circular": "pad", "pad_enum": "pad", "im2col": "unfold",
    "col2im": "fold", "cdist_forward": "cdist", "prelu_kernel": "prelu", "rrelu_with_noise": "rrelu",
    "fft_r2c": "fft_rfft", "fft_c2c": "fft_fft", "fft_c2r": "fft_irfft", "unsafe_split": "split",
    "unsafe_split_with_sizes": "split_with_sizes", "unsafe_chunk": "chunk", "unsafe_index_put": "index_put",
    "grid_sampler_2d": "grid_sampler", "grid_sampler_3d": "grid_sampler", "native_channel_shuffle": "channel_shuffle",
    "safe_softmax": "softmax", "neg_view": "neg", "numpy_T": "T", "conv_depthwise3d": "conv3d", "thnn_conv2d": "conv2d",
    "upsample_nearest1d": "interpolate", "upsample_nearest2d": "interpolate", "upsample_nearest3d": "interpolate",
    "upsample_linear1d": "interpolate", "upsample_bilinear2d": "interpolate", "upsample_trilinear3d": "interpolate",
    "upsample_bicubic2d": "interpolate", "upsample_nearest_exact1d": "interpolate",
    "upsample_nearest_exact2d": "interpolate", "upsample_nearest_exact3d": "interpolate",
    "upsample_bilinear2d_aa": "interpolate", "upsample_bicubic2d_aa": "interpolate",
}  # fmt: skip
"""Operations by ATen's own names, where they differ."""


def aten_name(function: Any) -> str:
    """ATen's name without the overload's; of another library's operator with its namespace (``mine::blur``)."""
    space, _, name = one_overload(function)._schema.name.partition("::")
    return name if space in _OWN else f"{space}::{name}"


def out_of_place(function: Any) -> Callable[..., Any] | None:
    """The overload that returns what this one writes, None where there is none."""
    space, _, name = one_overload(function)._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name.rstrip("_"), None) if name != "copy_" else None  # no derivative
    if packet is None or hasattr(function, "overloads"):
        return packet
    return getattr(packet, function._overloadname, None)


# ---- operations that ATen alone has, written out in those that have rules ----------------------------------------------
def convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int, *_: Any,
) -> Tensor:  # fmt: skip
    """Every convolution."""
    dimensions = weight.dim() - 2
    if transposed:
        function = getattr(functional, f"conv_transpose{dimensions}d")
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[no-any-return]
    function = getattr(functional, f"conv{dimensions}d")
    return function(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """With the mean and the reciprocal of the deviation, which are constants."""
    _, *held = torch.native_layer_norm(input.detach(), normalized_shape, None, None, eps)
    return functional.layer_norm(input, list(normalized_shape), weight, bias, eps), held[0], held[1]


def native_group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, examples: int, channels: int, size: int, groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """With the means and the reciprocals of the deviations, which are constants."""
    _, *held = torch.native_group_norm(input.detach(), None, None, examples, channels, size, groups, eps)
    return functional.group_norm(input, groups, weight, bias, eps), held[0], held[1]


def batch_norm_by_running_statistics(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
    momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """With the batch's statistics, which are empty where the running ones are used."""
    none = running_mean.new_empty(0)
    value = functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return value, none, none


def native_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """By running statistics, or with the batch's mean and reciprocal deviation, which are constants.

    Args:
        input, weight, bias: As of the overload.
        rest: Running mean and variance, left out in the overload without them; training, momentum, eps.
    """
    running_mean, running_var, training, momentum, eps = rest if len(rest) == 5 else (None, None, *rest)
    if not training and running_mean is not None:
        return batch_norm_by_running_statistics(input, weight, bias, running_mean, running_var, momentum, eps)
    _, *held = torch.native_batch_norm(input.detach(), None, None, None, None, True, momentum, eps)
    return functional.batch_norm(input, None, None, weight, bias, True, momentum, eps), held[0], held[1]


def embedding_of_table(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """torch's own embedding: the table comes first, and padding is counted from 0."""
    return functional.embedding(indices, weight, padding_idx if padding_idx >= 0 else None)


def embedding_bag_of_table(
    weight: Tensor, indices: Tensor, offsets: Tensor | None = None, scale_grad_by_freq: bool = False, mode: int = 0,
    sparse: bool = False, per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int | None = -1,
) -> tuple[Tensor, None, None, None]:  # fmt: skip
    """torch's own bags; what it returns for its backward pass is not made."""
    padding = None if padding_idx is None or padding_idx < 0 else padding_idx
    value = functional.embedding_bag(
        indices, weight, offsets, mode=("sum", "mean", "max")[mode], per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset, padding_idx=padding,
    )  # fmt: skip
    return value, None, None, None


def attention_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False, *_: Any,
    attn_mask: Tensor | None = None, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """One of the fused kernels; what it returns beside the value is for its backward pass and is not made."""
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    return (found, *[None] * 8)


def attention_by_biased_kernel(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None, _: bool, dropout_p: float = 0.0,
    is_causal: bool = False, *__: Any, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """As `attention_by_kernel`, the mask in another place."""
    return attention_by_kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_bias, scale=scale)


def native_dropout(input: Tensor, p: float, train: bool | None) -> tuple[Tensor, None]:
    """Without its mask."""
    return functional.dropout(input, p, bool(train)), None


_QUANTIZED = ("quantize_per_tensor", "quantize_per_tensor_dynamic", "quantize_per_channel", "int_repr", "dequantize")


def refused(operation: str) -> Callable[..., Any] | None:
    """What raises for an operation of a quantized model, None for any other."""
    if not operation.startswith(("quantized", "onednn::")) and operation not in _QUANTIZED:
        return None

    def refuse(*_: Any, **__: Any) -> Any:
        where = next((mode.where() for mode in reversed(function_modes()) if hasattr(mode, "where")), "the model")
        raise UnsupportedOperationError(
            f"operation {operation!r} in {where} is quantized: integers pass no gradient, so no relevance leads through it; "
            "explain the float model that was quantized (before quantize_dynamic or convert)"
        )

    return refuse


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "convolution": convolution, "native_layer_norm": native_layer_norm, "native_group_norm": native_group_norm,
    "native_batch_norm_legit_no_training": batch_norm_by_running_statistics, "native_batch_norm": native_batch_norm,
    "native_batch_norm_legit": native_batch_norm, "native_dropout": native_dropout,
    "embedding_of_table": embedding_of_table, "embedding_bag_of_table": embedding_bag_of_table,
    "scaled_dot_product_flash_attention_for_cpu": attention_by_kernel,
    "scaled_dot_product_flash_attention": attention_by_kernel,
    "scaled_dot_product_cudnn_attention": attention_by_biased_kernel,
    "scaled_dot_product_efficient_attention": attention_by_biased_kernel,
}  # fmt: skip
"""By the operation's name in `spelling`."""
