"""Which tensors depend on the explained input, and what stands for a tensor that the model wrote to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from lrp_plugin.algebra.primitives import overwrite
from lrp_plugin.algebra.signal import Signal

Known = TypeVar("Known")


class Records(Generic[Known]):
    """What is known by tensor identity; an entry goes when its tensor does."""

    def __init__(self) -> None:
        self.records: dict[int, tuple[weakref.ref[Tensor], Known]] = {}

    def __bool__(self) -> bool:
        return bool(self.records)

    def get(self, tensor: Tensor) -> Known | None:
        """What is known of the tensor, or None."""
        entry = self.records.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def set(self, tensor: Tensor, known: Known) -> None:
        """Records the tensor, replacing what was known."""
        key = id(tensor)
        # Called with the dead reference, which is pop's default; one that was replaced is never called.
        self.records[key] = (weakref.ref(tensor, partial(self.records.pop, key)), known)  # type: ignore[arg-type]

    def drop(self, tensor: Tensor) -> None:
        """Forgets what is known of the tensor."""
        self.records.pop(id(tensor), None)


class Signals(Records[Signal]):
    """Which tensors depend on the explained input."""

    def live(self) -> list[tuple[Tensor, Signal]]:
        """The tensors that still exist, with their records."""
        found = [(reference(), signal) for reference, signal in list(self.records.values())]
        return [(tensor, signal) for tensor, signal in found if tensor is not None]


class Content(NamedTuple):
    """What a written storage holds now.

    Args:
        holder: Keeps the storage, so that its address stays its own.
        flat: All entries, shape (n,), differentiable.
        alive: Which of them are signals, shape (n,); read on every access, so it stays on the host.
    """

    holder: Tensor
    flat: Tensor
    alive: Any


class Storages:
    """In-place writes made functional where views share memory: memory is never written, every view sees the write.

    For a written storage the current content is a flat differentiable tensor; a tensor on that storage is read from
    it by its own size, strides and offset.
    """

    def __init__(self) -> None:
        self.contents: dict[int, Content] = {}
        self._ports: dict[int, Tensor] = {}

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor's memory was written to."""
        return bool(self.contents) and tensor.layout is torch.strided and self._key(tensor) in self.contents

    def read(self, tensor: Tensor) -> Tensor:
        """The tensor's current value; without a graph where all of its entries are constants."""
        content = self.contents[self._key(tensor)]
        current = content.flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        return current if _region(content.alive, tensor).any() else current.detach()

    def constants(self, tensor: Tensor) -> Tensor | None:
        """Which of the tensor's entries are constants, of its shape; None where none is."""
        alive = _region(self.contents[self._key(tensor)].alive, tensor)
        return None if alive.all() else torch.as_tensor(~alive).to(tensor.device)

    def has_port(self, tensor: Tensor) -> bool:
        """Whether a port was written to the tensor's memory."""
        return self._key(tensor) in self._ports

    def port(self, tensor: Tensor) -> Tensor | None:
        """The current port of the entries, or None."""
        flat = self._ports.get(self._key(tensor))
        return None if flat is None else flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def write_port(self, tensor: Tensor, port: Tensor | None, root: Tensor, content: Tensor | None) -> None:
        """Writes the port of what was written where ``tensor`` lies; None: a constant was.

        Args:
            tensor: Where.
            port: Of ``tensor``'s shape, or broadcastable to it.
            root: The tensor whose port ``content`` is.
            content: The port of the memory before its first write, where it had one.
        """
        key = self._key(tensor)
        if key not in self._ports:
            dtype = next(p.dtype for p in (port, content) if p is not None)
            flat = torch.zeros(self.contents[key].flat.shape, dtype=dtype, device=tensor.device)
            self._ports[key] = flat if content is None else overwrite(flat, content, root)
        flat = self._ports[key]
        held = flat.new_zeros(tensor.shape) if port is None else port.expand(tensor.size())
        self._ports[key] = overwrite(flat, held, tensor)

    def write(self, tensor: Tensor, value: Tensor, root: Tensor, content: Callable[[], Tensor]) -> None:
        """Writes ``value`` where ``tensor`` lies.

        Args:
            tensor: Where.
            value: What, broadcastable to ``tensor``'s shape.
            root: The tensor that ``tensor`` is a view of, or itself.
            content: Gives the root's value before the memory's first write.
        """
        key = self._key(tensor)
        if key in self.contents:
            _, flat, alive = self.contents[key]
        else:
            if self._key(root) != key:
                root, content = tensor, tensor.detach
            whole, before = torch.empty(0, dtype=root.dtype, device=root.device).set_(root.untyped_storage()), content()
            flat = overwrite(whole.detach(), before, root) if whole.numel() else whole
            alive = numpy.zeros(whole.numel(), dtype=bool)
            _region(alive, root)[...] = before.requires_grad
        value = value.to(tensor.dtype).expand(tensor.size())
        _region(alive, tensor)[...] = value.requires_grad
        self.contents[key] = Content(tensor, overwrite(flat, value, tensor), alive)


def _region(alive: Any, tensor: Tensor) -> Any:
    """The part of an array over a storage where a tensor lies."""
    return as_strided(alive[tensor.storage_offset() :], tensor.shape, tensor.stride())


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two strided tensors lie in one storage."""
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return False
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata
