"""BatchNorm folded into the map before it, and its affine map: weights made from weights, computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lrp_plugin.algebra.call import Call

_AFFINE_NAMES = ("running_mean", "running_var", "weight", "bias")


class Cache(Protocol):
    """Keeps what is made from parameters as long as these hold the same."""

    def get(self, sources: Sequence[Tensor], variant: Hashable, make: Callable[[], Any]) -> Any:
        """``make()``, or what it gave before for these sources and this variant."""


class _NoCache:
    def get(self, sources: Sequence[Tensor], variant: Hashable, make: Callable[[], Any]) -> Any:
        with torch.no_grad():
            return make()


NO_CACHE: Cache = _NoCache()
"""Makes everything anew."""


def batch_norm_affine(cache: Cache, names: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale, in ``x``'s dtype, and shift of a BatchNorm that uses its running statistics, computed once.

    Both broadcast to ``x``, of shape (N, C, ...).
    """

    def make() -> tuple[Tensor, Tensor]:
        scale, shift = (vector.view(1, -1, *[1] * (x.dim() - 2)) for vector in _affine(names))
        return scale.to(x.dtype), shift

    given = [names.get(name) for name in _AFFINE_NAMES]
    sources = [tensor for tensor in given if tensor is not None]
    variant = "affine", names.get("eps", 1e-5), given[2] is None, given[3] is None, x.dim(), x.dtype
    return cache.get(sources, variant, make)  # type: ignore[no-any-return]


def _affine(names: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    mean, variance = names["running_mean"], names["running_var"]
    scale = torch.rsqrt(variance + names.get("eps", 1e-5))
    if names.get("weight") is not None:
        scale = scale * names["weight"].detach()
    shift = -mean * scale
    return scale, shift if names.get("bias") is None else shift + names["bias"].detach()


def folded_weights(
    cache: Cache, operation: str, weight: Tensor, bias: Tensor | None, followers: tuple[Call, ...], groups: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Weight and bias of the map followed by its BatchNorms, and the tensors they were made from."""
    parts, eps = [weight, bias], []
    for follower in followers:
        names = follower.names
        parts += map(names.get, _AFFINE_NAMES)
        eps.append(str(names.get("eps", 1e-5)))
    sources = [part.detach() for part in parts if part is not None]

    def make() -> tuple[Tensor, Tensor]:
        folded, shift = weight, bias
        for follower in followers:
            scale, move = _affine(follower.names)
            folded = _scaled(operation, folded, scale.to(weight.dtype), groups)
            shift = move if shift is None else shift * scale + move
        assert shift is not None
        return folded, shift.to(weight.dtype)

    variant = "folded", operation, groups, *eps, bias is None
    folded, shift = cache.get(sources, variant, make)
    return folded, shift, (folded, shift)


def scaled_weight(cache: Cache, operation: str, weight: Tensor, scale: Tensor, groups: int) -> Tensor:
    """The weight of the map followed by a scale of each channel, computed once; shape as ``weight``'s."""
    return cache.get(  # type: ignore[no-any-return]
        (weight, scale),
        ("scaled", operation, groups),
        lambda: _scaled(operation, weight, scale.to(weight.dtype), groups),
    )


def _scaled(operation: str, weight: Tensor, scale: Tensor, groups: int) -> Tensor:
    if not operation.startswith("conv_transpose"):
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))
    grouped = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])  # (in, out / groups, ...) by groups
    return (grouped * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))).view_as(weight)
