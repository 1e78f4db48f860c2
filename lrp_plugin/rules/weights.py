"""Modified weights, computed once until a parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from lrp_plugin.call import Call, tensors_in

_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_AFFINE_NAMES = ("running_mean", "running_var", "weight", "bias")


class WeightCache:
    """Results by source tensors and variant, valid while the sources' storage and version stay.

    An edit through ``parameter.data`` does not change a parameter's version (torch's rule): call `clear` after one.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, tuple[tuple[int, ...], tuple[Tensor, ...], Any]] = {}
        self._constants: set[int] = set()

    @contextmanager
    def constants(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """While a tracer records a pass: what is made from these tensors alone is a constant of its graph."""
        self._constants = {tensor.data_ptr() for tensor in tensors}
        try:
            yield
        finally:
            self._constants = set()

    def get(self, sources: Sequence[Tensor], variant: Hashable, make: Callable[[], Any]) -> Any:
        """The cached result of ``make()``, made anew when a source has changed."""
        for source in sources:
            if type(source) not in _PLAIN:
                return make()  # a tracer's tensors have no memory of their own
        if torch._C._len_torch_dispatch_stack():
            if not self._constants.issuperset(source.data_ptr() for source in sources):
                return make()
            with _disable_current_modes():
                made = self.get(sources, variant, make)
            self._constants.update(tensor.data_ptr() for tensor in tensors_in(made, []))
            return made
        key = (variant, *[(s.data_ptr(), s.shape, s.dtype, s.device) for s in sources])
        try:
            versions = tuple([s._version for s in sources])
        except RuntimeError:  # made in inference mode: they do not track versions
            versions = tuple([0 if s.is_inference() else s._version for s in sources])
        entry = self._entries.get(key)
        if entry is not None and entry[0] == versions:
            return entry[2]
        with torch.no_grad():
            made = make()
        if entry is not None:
            self._forget(entry[2])
        # The sources are kept, so their memory cannot be given to another parameter under the same address.
        self._entries[key] = (versions, tuple(s.detach() for s in sources), made)
        return made

    def _forget(self, outdated: Any) -> None:
        """Drops what was made from a result that is made anew: its address will not come again."""
        gone = {tensor.data_ptr() for tensor in tensors_in(outdated, [])}
        for key in [key for key in self._entries if any(part[0] in gone for part in key[1:])]:
            del self._entries[key]

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()


def batch_norm_affine(cache: WeightCache | None, names: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale, in ``x``'s dtype, and shift of a BatchNorm that uses its running statistics, computed once.

    Both broadcast to ``x``, of shape (N, C, ...).
    """

    def make() -> tuple[Tensor, Tensor]:
        scale, shift = (vector.view(1, -1, *[1] * (x.dim() - 2)) for vector in _affine(names))
        return scale.to(x.dtype), shift

    if cache is None:
        return make()
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
    cache: WeightCache, operation: str, weight: Tensor, bias: Tensor | None, followers: tuple[Call, ...], groups: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Weight and bias of the map followed by its BatchNorms, and the tensors they were made from."""
    parts = [weight, bias]
    for follower in followers:
        parts += [follower.get(name) for name in _AFFINE_NAMES]
    sources = tuple(part.detach() for part in parts if part is not None)

    def make() -> tuple[Tensor, Tensor]:
        folded, shift = weight, bias
        for follower in followers:
            scale, move = _affine(follower.names)
            folded = _scaled(operation, folded, scale.to(weight.dtype), groups)
            shift = move if shift is None else shift * scale + move
        assert shift is not None
        return folded, shift.to(weight.dtype)

    eps = ",".join(str(follower.get("eps", 1e-5)) for follower in followers)
    folded, shift = cache.get(sources, f"folded/{operation}/{groups}/{eps}/{bias is None}", make)
    return folded, shift, (folded, shift)


def scaled_weight(cache: WeightCache, operation: str, weight: Tensor, scale: Tensor, groups: int) -> Tensor:
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
