"""What a pass is made with, and what it remembers beside its signals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lrp_plugin.algebra.folding import NO_CACHE, Cache
from lrp_plugin.algebra.looks import Looks
from lrp_plugin.composites.composite import Chooser
from lrp_plugin.propagation.signals import Records, Signals
from lrp_plugin.propagation.softmaxes import Image


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
        depth: How often the mode was entered.
        held: Unseen work is found by the autograd nodes of what it read: those tensors must outlive their last reader.
    """

    def __init__(self) -> None:
        self.constants = Signals()
        self.aliases = Signals()
        self.images: Records[Image] = Records()
        self.follows = False
        self.depth = 0
        self.held: list[Tensor] = []


class Count:
    """How many linear maps were executed; the parts of one share their place, which ends with the next map."""

    def __init__(self) -> None:
        self.maps = 0
        self._parted = False

    def place(self, part: bool) -> int:
        """Counts one and gives its place."""
        place = self.maps + (self._parted and not part)
        self.maps, self._parted = place + (not part), part
        return place
