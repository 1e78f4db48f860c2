"""What is known about a tensor that depends on the explained input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from lrp_plugin.propagation.steps import Step

Port = Tensor | Callable[[], Tensor | None]
"""A signal of ones whose multiplier is relevance; or a function that makes it: most are never asked for."""


class Lineage(NamedTuple):
    """What a signal was computed from, where a rule of the composite asks for it.

    Args:
        parents: The signals it was computed from.
        depth: The longest chain of operations from the input.
    """

    parents: tuple[Signal, ...] = ()
    depth: int = 0

    @classmethod
    def of(cls, parents: tuple[Signal, ...]) -> Lineage:
        """Of what is computed from these."""
        return cls(parents, 1 + max((parent.lineage.depth for parent in parents), default=0))


class Memory:
    """Who shares a signal's memory, and who reads it.

    Attributes:
        viewed: A view of it exists.
        root: The tensor it is a view of, or None.
        free: The backward pass reads it nowhere.
        reads: How many calls were given it.
    """

    viewed = False
    root: Tensor | None = None
    free = False
    reads = 0


class Signal:
    """What is known about a tensor that depends on the explained input.

    Attributes:
        value: The tensor that stands for it from now on, where it is not the tensor itself.
        nonnegative: Proved by provenance (it came from a ReLU, a sigmoid, a pool of one), not by looking.
        gate: It came through a sigmoid-like function or a pooled path.
        token: Its entries are integers; their relevance travels by the port alone.
        watched: Its own relevance is asked for: nothing is folded into the map that made it.
        step: The operation that made it, where its rule still waits, or where what reads it may be joined to it.
        curves: Of which signals (by their ``itself``) it is a function, entry by entry; whether it is that times constants.
        lineage: What it was computed from.
        memory: Who shares and reads its memory.
    """

    # One is made for every operation: what stays as it is here is not set anew each time.
    token = False
    watched = False
    step: Step | None = None
    curves: Mapping[object, bool] = MappingProxyType({})
    lineage = Lineage()
    _port: Port | None = None

    def __init__(self, value: Tensor | None = None, *, nonnegative: bool = False, gate: bool = False) -> None:
        self.value = value
        self.nonnegative = nonnegative
        self.gate = gate
        self.memory = Memory()

    def standing(self) -> Signal:
        """The same knowledge about a tensor that stands for itself."""
        copy = Signal(nonnegative=self.nonnegative, gate=self.gate)
        copy._port, copy.lineage = self._port, self.lineage
        return copy

    @cached_property
    def itself(self) -> object:
        """What stands for it where it is remembered: it would keep what its memory keeps."""
        return object()

    @property
    def waits(self) -> bool:
        """The rule of the map that made it still waits for what reads it."""
        return self.step is not None and self.step.waits

    @property
    def ported(self) -> bool:
        """It has a port, or a function that may make one."""
        return self._port is not None

    @property
    def port(self) -> Tensor | None:
        """The port, made now where it was not yet; None where nothing leads from it to the input's."""
        if self._port is not None and not isinstance(self._port, Tensor):
            made = self._port()
            self._port = made if made is not None and made.requires_grad else None
        return self._port

    @port.setter
    def port(self, port: Port | None) -> None:
        self._port = port
