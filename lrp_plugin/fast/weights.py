"""Modified weights, computed once until a parameter changes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import widened
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.torch_private import traced, untraced

_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_FEW = 1 << 14  # a product takes 10 us however few they are


class _Entry(NamedTuple):
    stamps: tuple[int, ...]
    sources: tuple[Tensor, ...]  # kept, so that their memory is not given to another parameter under the same address
    made: Any


class _Looked:
    """A source's content, and in which pass it was last looked at."""

    __slots__ = ("at", "content", "stamp", "version")

    def __init__(self, content: Tensor, stamp: int) -> None:
        self.at = self.version = -1
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
        if traced():
            if not self._constants.issuperset(source.data_ptr() for source in sources):
                return make()
            with untraced():
                made = self.get(sources, variant, make)
            self._constants.update(tensor.data_ptr() for tensor in tensors_in(made, []))
            return made
        places = _places(sources)
        key = (variant, *places)
        entry = self._entries.get(key)
        if entry is None and not all(map(self._is_kept, sources, places)):
            with torch.no_grad():
                return make()
        stamps = self._stamps_of(sources, places)
        if entry is not None and entry.stamps == stamps:
            return entry.made
        with torch.no_grad():
            made = make()
        if entry is not None:
            self._forget(entry.made)
        self._entries[key] = _Entry(stamps, tuple(source.detach() for source in sources), made)
        self._made.update(_places(tensors_in(made, [])))
        return made

    def stamps(self, state: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        """For each tensor where it lies, and a number that is another one when its content is.

        On other devices than the CPU the number is its version, which an edit through ``data`` does not change.
        """
        self._passes += 1
        here = [t for t in state if t.device.type == "cpu"]
        known = dict(zip(map(id, here), self._stamps_of(here, _places(here))))
        return tuple(
            (t.data_ptr(), known[id(t)] if id(t) in known else 0 if t.is_inference() else t._version) for t in state
        )

    def _is_kept(self, source: Tensor, place: Any) -> bool:
        """Whether it lies in the model's state, or was made from that here: what a pass computes is new in each."""
        if self._storages is None or place in self._made:
            return True
        return source.untyped_storage()._cdata in self._storages()

    def _stamps_of(self, sources: Sequence[Tensor], places: Sequence[Any]) -> tuple[int, ...]:
        """For each source a number that is another one when its content is."""
        found = []
        for source, place in zip(sources, places):
            if place in self._made:
                found.append(0)
                continue
            if source.device.type != "cpu":
                found.append(self._passes)
                continue
            known, version = self._contents.get(place), 0 if source.is_inference() else source._version
            if known is None or known.version != version or known.at != self._passes:
                content = _content(source)
                if known is None or not torch.equal(content, known.content):
                    known = self._contents[place] = _Looked(content.clone(), next(self._stamps))
                known.at, known.version = self._passes, version
            found.append(known.stamp)
        return tuple(found)

    def _forget(self, outdated: Any) -> None:
        """Drops what was made from a result that is made anew: its address will not come again."""
        gone = set(_places(tensors_in(outdated, [])))
        self._made -= gone
        for key in list(self._entries):
            if not gone.isdisjoint(key[1:]):
                self._entries.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._contents.clear()
        self._made.clear()


def _places(tensors: Sequence[Tensor]) -> list[Any]:
    """Where each tensor lies, and how: a square weight and its transpose lie in one memory."""
    return [(t.data_ptr(), t.shape, t.stride(), t.dtype, t.get_device()) for t in tensors]


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
