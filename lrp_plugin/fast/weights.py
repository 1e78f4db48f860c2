"""Modified weights, computed once until a parameter changes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from lrp_plugin.algebra.call import Call, tensors_in
from lrp_plugin.algebra.formulas import widened

_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_FEW = 1 << 14  # a product takes 10 us however few they are
_AFFINE_NAMES = ("running_mean", "running_var", "weight", "bias")


class _Entry(NamedTuple):
    stamps: tuple[int, ...]
    sources: tuple[Tensor, ...]  # kept, so that their memory is not given to another parameter under the same address
    made: Any


class _Looked:
    """A source's content, and in which pass it was last looked at."""

    __slots__ = ("at", "content", "stamp", "version")

    def __init__(self, at: int, version: int, content: Tensor, stamp: int) -> None:
        self.at = at
        self.version = version
        self.content = content
        self.stamp = stamp


class WeightCache:
    """Results by source tensors and variant, for tensors that lie in the model's state, as long as these hold the same.

    An edit through ``parameter.data`` has no version, so the content of every source is looked at once a pass: a product
    with fixed random numbers reads it once (44 MB: 3 ms, where making such weights anew takes 30). On other devices than
    the CPU such a look would wait for the device, and making is quick: there results are kept for the length of a pass.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, _Entry] = {}
        self._contents: dict[Any, _Looked] = {}
        self._made: set[Any] = set()
        self._constants: set[int] = set()
        self._storages: Callable[[], set[int]] | None = None
        self._passes = 0
        self._stamps = itertools.count(1)

    def __reduce__(self) -> tuple[type[WeightCache], tuple[()]]:
        return WeightCache, ()  # a copy's parameters lie elsewhere

    def begin(self, storages: Callable[[], set[int]]) -> None:
        """A pass begins; ``storages`` tells where the model's state lies."""
        self._storages = storages
        self._passes += 1

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
        places = [_place(source) for source in sources]
        key = (variant, *places)
        entry = self._entries.get(key)
        if entry is None and not all(map(self._is_kept, sources, places)):
            with torch.no_grad():
                return make()
        stamps = tuple(map(self._stamp, sources, places))
        if entry is not None and entry.stamps == stamps:
            return entry.made
        with torch.no_grad():
            made = make()
        if entry is not None:
            self._forget(entry.made)
        self._entries[key] = _Entry(stamps, tuple(source.detach() for source in sources), made)
        self._made.update(map(_place, tensors_in(made, [])))
        return made

    def stamps(self, state: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        """For each tensor where it lies, and a number that is another one when its content is.

        On other devices than the CPU the number is its version, which an edit through ``data`` does not change.
        """
        self._passes += 1
        return tuple(
            (
                t.data_ptr(),
                self._stamp(t, _place(t)) if t.device.type == "cpu" else 0 if t.is_inference() else t._version,
            )
            for t in state
        )

    def _is_kept(self, source: Tensor, place: Any) -> bool:
        """Whether it lies in the model's state, or was made from that here: what a pass computes is new in each."""
        if self._storages is None or place in self._made:
            return True
        return source.untyped_storage()._cdata in self._storages()

    def _stamp(self, source: Tensor, place: Any) -> int:
        """A number that is another one when the source's content is."""
        if place in self._made:
            return 0
        if source.device.type != "cpu":
            return self._passes
        known, version = self._contents.get(place), 0 if source.is_inference() else source._version
        if known is not None:
            if known.version == version and known.at == self._passes:
                return known.stamp
            if torch.equal(_content(source), known.content):
                known.at, known.version = self._passes, version
                return known.stamp
        found = _content(source)
        self._contents[place] = _Looked(self._passes, version, found.clone(), next(self._stamps))
        return self._contents[place].stamp

    def _forget(self, outdated: Any) -> None:
        """Drops what was made from a result that is made anew: its address will not come again."""
        gone = set(map(_place, tensors_in(outdated, [])))
        self._made -= gone
        for key in list(self._entries):
            if not gone.isdisjoint(key[1:]):
                self._entries.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._contents.clear()
        self._made.clear()


def _place(tensor: Tensor) -> Any:
    """Where a tensor lies, and how: a square weight and its transpose lie in one memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.get_device()


def _content(source: Tensor) -> Tensor:
    """What stands for a tensor's entries: themselves where they are few, else their sums with fixed weights, by rows."""
    held = source.detach()
    if held.dim() < 2 or held.numel() <= _FEW or not held.is_floating_point():
        return held
    rows = held.flatten(1)
    return torch.mv(
        widened(rows), _weights(rows.shape[1], torch.float64 if rows.dtype == torch.float64 else torch.float32)
    )


@functools.lru_cache(maxsize=256)
def _weights(count: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, generator=generator, dtype=dtype, device="cpu") + 0.5


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
