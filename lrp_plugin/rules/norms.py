"""Normalizations: the deviation, the norm, the divisor are held constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_plugin.call import Call
from lrp_plugin.primitives import substitute, widened
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.weights import batch_norm_affine


def _over_channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (x.dim() - 2))


def _uses_running_statistics(names: Any) -> bool:
    return not names.get("training", False) and names.get("running_mean") is not None


@register_rule("affine", "batch_norm", port="keeps", follows=_uses_running_statistics)
def batch_norm(call: Call) -> Tensor:
    """BatchNorm with running statistics is an affine map of each channel; its shift is booked as bias.

    Directly behind a convolution or linear layer whose rule looks at weight signs it is folded into that layer.
    Without running statistics the batch's deviation is held constant.
    """
    if not _uses_running_statistics(call.names):
        return _normalized(call, [0, *range(2, call["input"].dim())])
    x = call["input"]
    with torch.no_grad():
        value = call.native()
        scale, shift = batch_norm_affine(call.names)
    factor = _over_channels(scale, x).to(x.dtype)
    call.absorb("bias", lambda m: widened(m) * _over_channels(shift, x))
    return substitute(value, lambda m: m * factor, x)


def _centred(x: Tensor, dims: Sequence[int], eps: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    wide = widened(x.detach())
    rstd = torch.rsqrt(wide.var(tuple(dims), unbiased=False, keepdim=True) + eps)
    return (lambda m: (m - m.mean(tuple(dims), keepdim=True)) * rstd), rstd


def _affine(call: Call, weight: Tensor | None, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Books the shift; returns what the scale makes of a multiplier."""
    if bias is not None:
        shift = bias.detach()
        call.absorb("bias", lambda m: m * shift)
    if weight is None:
        return lambda m: m
    factor = weight.detach()
    return lambda m: m * factor


def _normalized(call: Call, dims: Sequence[int]) -> Tensor:
    """Centred over ``dims``, divided by a deviation that is held constant, then the channels' affine map."""
    x, weight, bias = call["input"], call.get("weight"), call.get("bias")
    with torch.no_grad():
        value = call.native()
        pull, _ = _centred(x, dims, call.get("eps", 1e-5))
    places = [None if vector is None else _over_channels(vector, x) for vector in (weight, bias)]
    lift = _affine(call, *places)
    return substitute(value, lambda m: pull(widened(lift(m))).to(x.dtype), x)


@register_rule("identity", "layer_norm")
def layer_norm(call: Call) -> Tensor:
    """LayerNorm, its standard deviation held constant; the shift is booked as bias.

    The identity rule of AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, Proposition 3.4) for the normalization, exact
    for the centring.
    """
    x, shape = call["input"], call["normalized_shape"]
    with torch.no_grad():
        value = call.native()
        pull, _ = _centred(x, range(-len(tuple(shape)), 0), call.get("eps", 1e-5))
    lift = _affine(call, call.get("weight"), call.get("bias"))
    return substitute(value, lambda m: pull(widened(lift(m))).to(x.dtype), x)


@register_rule("identity", "rms_norm")
def rms_norm(call: Call) -> Tensor:
    """RMSNorm, its root mean square held constant."""
    x, shape = call["input"], tuple(call["normalized_shape"])
    wide = widened(x.detach())
    eps = call.get("eps") if call.get("eps") is not None else torch.finfo(x.dtype).eps
    with torch.no_grad():
        value = call.native()
        root = torch.rsqrt(wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True) + eps)
    lift = _affine(call, call.get("weight"), None)
    return substitute(value, lambda m: (widened(lift(m)) * root).to(x.dtype), x)


@register_rule("identity", "group_norm")
def group_norm(call: Call) -> Tensor:
    """GroupNorm, its standard deviation held constant; the shift is booked as bias."""
    x, groups = call["input"], call["num_groups"]
    with torch.no_grad():
        value = call.native()
        grouped = x.detach().reshape(x.shape[0], groups, -1)
        pull, _ = _centred(grouped, [-1], call.get("eps", 1e-5))
    places = [None if v is None else _over_channels(v, x) for v in (call.get("weight"), call.get("bias"))]
    lift = _affine(call, *places)
    return substitute(
        value, lambda m: pull(widened(lift(m)).reshape(grouped.shape)).reshape(x.shape).to(x.dtype), x
    )


@register_rule("identity", "instance_norm")
def instance_norm(call: Call) -> Tensor:
    """InstanceNorm, its standard deviation held constant; with running statistics an affine map."""
    if call.get("running_mean") is None or call.get("use_input_stats", True):
        return _normalized(call, range(2, call["input"].dim()))
    return batch_norm(call)


@register_rule("identity", "normalize")
def normalize(call: Call) -> Tensor:
    """Division by a norm that is held constant."""
    x, p, dim = call["input"], call.get("p", 2.0), call.get("dim", 1)
    with torch.no_grad():
        value = call.native()
        norm = x.detach().norm(p, dim, keepdim=True).clamp(min=call.get("eps", 1e-12))
    return substitute(value, lambda m: m / norm, x)


@register_rule("identity", "local_response_norm")
def local_response_norm(call: Call) -> Tensor:
    """Local response normalization, its divisor held constant."""
    x = call["input"]
    with torch.no_grad():
        value = call.native()
        ones = torch.where(x.detach() == 0, 1, x.detach())
        factor = torch.where(x.detach() == 0, _lrn_factor(call, x.detach()), value / ones)
    return substitute(value, lambda m: m * factor, x)


def _lrn_factor(call: Call, x: Tensor) -> Tensor:
    """1 / divisor, for entries that are zero."""
    size, alpha, beta, k = call["size"], call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("k", 1.0)
    squares = x.square().unsqueeze(1).flatten(3)
    padded = functional.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    mean = functional.avg_pool2d(padded, (size, 1), stride=1).squeeze(1).view_as(x)
    return (mean * alpha + k).pow(-beta)
