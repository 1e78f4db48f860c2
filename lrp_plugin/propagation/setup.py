"""What a pass is made with, and what it remembers beside its signals."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.folding import NO_CACHE, Cache
from lrp_plugin.algebra.looks import Looks
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.composites.composite import Chooser
from lrp_plugin.propagation.signals import Records, Signals
from lrp_plugin.propagation.softmaxes import Image
from lrp_plugin.torch_private import inside_transform, traced

if TYPE_CHECKING:
    from lrp_plugin.propagation.biases import Unbiased


@dataclass(frozen=True)
class Setup:
    """What a pass is made with; nothing of it changes while it runs.

    Attributes:
        model: The explained model, for module paths.
        chooser: Gives the rule for a site.
        strict: Raise on operations without a rule.
        ports: Carry ports (a rule of the composite sends relevance to zero-valued entries).
        weights: Cache of modified weights.
        port_stabilizer: Stabilizer where a port ends.
        exact: Keep every value to the end and join no two operations, for those who look at the inside: unseen work that
            read the value of a map whose rule waits, a layer's relevance. They take memory (ResNet-18: as much again as
            the gradient needs); without them such work raises `ForgottenSourceError`, ReLUs are written over their input
            where the model asks for it, and take one backward step with the operation before.
        warned: Operations and paths warned about already.
        looks: What the pass asks of entries.
    """

    model: Any
    chooser: Chooser
    strict: bool = False
    ports: bool = False
    weights: Cache = NO_CACHE
    port_stabilizer: float = 1e-9
    exact: bool = True
    warned: set[tuple[str, str]] = field(default_factory=set)
    looks: Looks = field(default_factory=Looks)


class Remembered:
    """What is known of tensors that are no signals, or not by themselves.

    Attributes:
        constants: Tensors with a graph that nothing explained made. aliases: What custom Functions handed on.
        images: What tensors are of an exponential; follows: one was taken.
        unbiased: The calls of maps without a bias whose values nothing has read yet.
        depth: How often the mode was entered. vmaps: How many of torch's own are under way.
        held: Unseen work is found by the autograd nodes of what it read: those tensors must outlive their last reader.
    """

    def __init__(self) -> None:
        self.constants = Signals()
        self.aliases = Signals()
        self.images: Records[Image] = Records()
        self.unbiased: dict[Signal, Unbiased] = {}
        self.follows = False
        self.depth = self.vmaps = 0
        self.held: list[Tensor] = []


class Count:
    """Numbers the linear maps in the order in which they are first executed.

    A weight that is applied again (a backbone's, to the next slice of a volume; a cell's, to the next step) keeps its number,
    so a loop and one call over the whole batch get the same rules. The parts of one operation share theirs, which ends with
    the next map.
    """

    def __init__(self) -> None:
        self.maps = 0
        self._parted = False
        self._known: dict[Any, tuple[int, Tensor]] = {}  # the weight too: its address must stay its own

    def place(self, part: bool, weight: Tensor) -> int:
        """The number of the map with that weight."""
        plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.layout is torch.strided
        address = 0 if not plain or traced() or inside_transform(weight) else weight.data_ptr()
        key = (address or id(weight), weight.shape, weight.stride() if address else None)
        known = self._known.get(key)
        if known is not None:
            return known[0]
        place = self.maps + (self._parted and not part)
        self.maps, self._parted = place + (not part), part
        self._known[key] = place, weight
        return place

    def forget(self) -> None:
        """The pass is over: weights that it computed are held no longer."""
        self._known.clear()

    def branch(self) -> Count:
        """A count that goes on from here by itself."""
        other = copy(self)
        other._known = dict(self._known)
        return other
