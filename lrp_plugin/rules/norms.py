"""Normalizations: the deviation, the norm, the divisor are held constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.folding import batch_norm_affine
from lrp_plugin.algebra.formulas import cast_of, widened
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.routing import distributed


def _over_channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (x.dim() - 2))


def _uses_running_statistics(names: Any) -> bool:
    return not names.get("training", False) and names.get("running_mean") is not None


def _folds_into(names: Any, operation: Any) -> bool:
    """Whether the channels are the map's outputs: of a linear layer over the last of several dimensions they are not."""
    fits = str(operation).startswith("conv") or (operation == "linear" and names["input"].dim() == 2)
    return fits and _uses_running_statistics(names)


@register_rule("affine", "batch_norm", port="keeps", follows=_folds_into, form="scale")
def batch_norm(call: Call, *, bias: str = "absorb") -> Tensor | Result:
    """BatchNorm with running statistics is an affine map of each channel; its shift is booked as bias.

    ``bias="distribute"`` hands the shift's relevance on to the entry of the same place (by its port).

    Directly behind a convolution or linear layer whose rule looks at weight signs it is folded into that layer.
    Without running statistics the batch's deviation is held constant.
    """
    if not _uses_running_statistics(call.names):
        return _normalized(call, [0, *range(2, call["input"].dim())], bias)
    x, value = call["input"], call.valued()
    factor, shift = batch_norm_affine(call.weights, call.names, x)
    if bias == "distribute":
        return distributed(call, value, lambda m: m * factor, shift.to(x.dtype))
    if call.row is not None:
        call.absorb("bias", lambda m: widened(m) * shift)
    return substitute(value, lambda m: m * factor, x)


def _centred(x: Tensor, dims: Sequence[int], eps: float) -> Callable[[Tensor], Tensor]:
    wide = widened(x.detach())
    return _centred_by(torch.rsqrt(wide.var(tuple(dims), unbiased=False, keepdim=True) + eps), dims)


def _centred_by(rstd: Tensor, dims: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Centring over ``dims`` and a scale, back to front, written over nothing but what it makes itself."""
    return lambda m: (m - m.mean(tuple(dims), keepdim=True)).mul_(rstd)


def _affine(
    call: Call, value: Tensor, pull: Callable[[Tensor], Tensor], weight: Tensor | None, shift: Tensor | None, mode: str
) -> Tensor | Result:
    """The value; its multiplier goes through the scale and then ``pull``, the shift's relevance by ``mode``."""
    x, dtype = call["input"], call["input"].dtype  # the pullback must not hold x itself

    def pullback(m: Tensor) -> Tensor:
        return pull(widened(m if weight is None else m * weight.detach())).to(dtype)

    if mode == "distribute":
        return distributed(call, value, pullback, x.new_zeros(()) if shift is None else shift.detach())
    if shift is not None:
        held = shift.detach()
        call.absorb("bias", lambda m: m * held)
    return substitute(value, pullback, x)


def _normalized(call: Call, dims: Sequence[int], mode: str) -> Tensor | Result:
    """Centred over ``dims``, divided by a deviation that is held constant, then the channels' affine map."""
    x = call["input"]
    with torch.no_grad():
        value = call.native()
        pull = _centred(x, dims, call.get("eps", 1e-5))
    weight, shift = (None if v is None else _over_channels(v, x) for v in (call.get("weight"), call.get("bias")))
    return _affine(call, value, pull, weight, shift, mode)


@register_rule("identity", "layer_norm")
def layer_norm(call: Call, *, bias: str = "absorb") -> Tensor | Result:
    """LayerNorm, its standard deviation held constant; the shift is booked as bias.

    The identity rule of AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, Proposition 3.4) for the normalization, exact
    for the centring.
    """
    x, shape, weight, shift = call["input"], call["normalized_shape"], call.get("weight"), call.get("bias")
    eps = call.get("eps", call.get("esp", 1e-5))  # torch 2.6 states torch.layer_norm's own signature with "esp"
    dims = range(-len(tuple(shape)), 0)
    if cast_of(x.device.type) is not None:  # it would not see the operation below, and cast nothing
        return _affine(call, call.valued(), _centred(x, dims, eps), weight, shift, bias)
    # What layer_norm returns the first of.
    value, _, rstd = torch.native_layer_norm(x.detach(), shape, weight, shift, eps)
    return _affine(call, value, _centred_by(widened(rstd), dims), weight, shift, bias)


@register_rule("identity", "rms_norm")
def rms_norm(call: Call, *, bias: str = "absorb") -> Tensor | Result:
    """RMSNorm, its root mean square held constant."""
    x, shape = call["input"], tuple(call["normalized_shape"])
    wide = widened(x.detach())
    eps = call.get("eps") if call.get("eps") is not None else torch.finfo(x.dtype).eps
    with torch.no_grad():
        value = call.native()
        root = torch.rsqrt(wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True) + eps)
    return _affine(call, value, lambda m: m * root, call.get("weight"), None, bias)


@register_rule("identity", "group_norm")
def group_norm(call: Call, *, bias: str = "absorb") -> Tensor | Result:
    """GroupNorm, its standard deviation held constant; the shift is booked as bias."""
    x, groups = call["input"], call["num_groups"]
    with torch.no_grad():
        value = call.native()
        grouped = x.detach().reshape(x.shape[0], groups, -1)
        pull = _centred(grouped, [-1], call.get("eps", 1e-5))
    weight, shift = (None if v is None else _over_channels(v, x) for v in (call.get("weight"), call.get("bias")))
    parted, whole = grouped.shape, x.shape
    return _affine(call, value, lambda m: pull(m.reshape(parted)).reshape(whole), weight, shift, bias)


@register_rule("identity", "instance_norm")
def instance_norm(call: Call, *, bias: str = "absorb") -> Tensor | Result:
    """InstanceNorm, its standard deviation held constant; with running statistics an affine map."""
    if call.get("running_mean") is None or call.get("use_input_stats", True):
        return _normalized(call, range(2, call["input"].dim()), bias)
    return batch_norm(call, bias=bias)


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
