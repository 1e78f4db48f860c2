"""One intercepted call, as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.binding import bind
from lrp_plugin.algebra.folding import NO_CACHE, Cache
from lrp_plugin.algebra.looks import Looks, same
from lrp_plugin.algebra.nests import map_tensors
from lrp_plugin.algebra.signal import Signal

if TYPE_CHECKING:
    from lrp_plugin.ledger import Row


class Waited(NamedTuple):
    """What is known of a map whose rule waited for the operation that reads it.

    Args:
        value: The map's value, followers included.
        followers: The calls folded into the map (a BatchNorm behind a convolution).
        rectified: A ReLU follows: only the positive entries of the value matter, and the others are 0 already.
    """

    value: Tensor
    followers: tuple[Call, ...] = ()
    rectified: bool = False


class Call:
    """One operation on at least one signal: what a rule is given; a rule writes nothing to it.

    Attributes:
        operation: The operation's name (``"conv2d"``), or the type of the module whose call is atomic.
        function: The torch callable; it writes to none of its arguments.
        args, kwargs: What it was called with; signals are differentiable, parameters detached.
        signals: What is known of each signal among the arguments, by the tensor's ``id``.
        row: The ledger's row, or None while no ledger is kept.
        ports: The pass carries ports.
        weights: Keeps modified weights.
        looks: What the pass asks of entries.
        waited: Of a map whose rule waited, what is known of its reader.
    """

    ports = False
    weights: Cache = NO_CACHE
    looks = Looks(at_once=True)
    waited: Waited | None = None

    def __init__(
        self, operation: Any, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any],
        signals: dict[int, Signal], row: Row | None = None, port_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.operation = operation
        self.function = function
        self.args = tuple(args)
        self.kwargs = kwargs
        self.signals = signals
        self.row = row
        self._port_of = port_of

    @cached_property
    def names(self) -> dict[str, Any]:
        """The arguments by name."""
        return bind(self.function, self.args, self.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument by its name, or the default where the call does not give it."""
        return self.names.get(name, default)

    def is_signal(self, value: Any) -> bool:
        """Whether an argument depends on the explained input."""
        return isinstance(value, Tensor) and id(value) in self.signals

    def signal(self, tensor: Tensor) -> Signal:
        """What is known of one of the call's signals."""
        return self.signals[id(tensor)]

    def native(self) -> Any:
        """The operation's own value with its own backward."""
        return self.function(*self.args, **self.kwargs)

    def valued(self) -> Any:
        """The operation's own value without a graph."""
        # no_grad would take longer than the rest of this.
        if self.args and len(self.signals) == 1 and id(self.args[0]) in self.signals:
            return self.function(self.args[0].detach(), *self.args[1:], **self.kwargs)
        with torch.no_grad():
            return self.native()

    def replaced(self, change: Callable[[Tensor], Tensor]) -> Any:
        """The operation's value with ``change`` applied to every tensor argument."""
        return self.function(*map_tensors(self.args, change), **map_tensors(self.kwargs, change))

    def check_returned(self, tensor: Tensor) -> None:
        """Raises ``ValueError`` where a rule returned its input though the operation changes entries."""

        def refuse() -> None:
            raise ValueError(
                f"the rule for operation {self.operation!r} returned its input, which is not the operation's value: a rule "
                "changes the backward pass alone; return call.native(), scale(call.native(), factor) or "
                "substitute(call.valued(), pullback, call['input'])"
            )

        value = self.valued()
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            refuse()
        self.looks.ask(lambda: ~same(value, tensor)(), refuse)

    def at_zero(self) -> Any:
        """The operation's value with every signal set to zero: f(0), the constants' share."""
        with torch.no_grad():
            return self.replaced(lambda t: torch.zeros_like(t) if id(t) in self.signals else t)

    def port(self, tensor: Tensor) -> Tensor:
        """The port of one of the call's signals: a signal of ones, whose multiplier is relevance."""
        if self._port_of is None:
            raise RuntimeError("this call has no ports: register the rule with ports=True")
        return self._port_of(tensor)

    def absorb(self, column: str, formula: Callable[[Tensor], Tensor | float], output: int = 0) -> None:
        """Books what the operation absorbs; nothing is computed while no ledger is kept.

        Args:
            column: The ledger's column (``"bias"``, ``"constant"``, ``"stabilizer"``, ``"no_receiver"``, ``"other"``,
                ``"distributed"``).
            formula: Given the multiplier of the operation's output, returns the relevance absorbed (any shape: summed).
            output: Which of several outputs is meant.
        """
        if self.row is not None:
            self.row.absorptions.append((column, output, formula))


def _refuse(call: Call, value: Any) -> None:
    raise AttributeError(
        "a rule writes nothing to its call: return Result(value, port=..., constant=..., gate=...) from lrp_plugin.primitives"
    )


for _name in ("constant", "gate", "out_port"):  # how a rule said so before: not in silence
    setattr(Call, _name, property(None, _refuse))
