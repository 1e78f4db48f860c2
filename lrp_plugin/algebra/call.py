"""One intercepted call, as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lrp_plugin.ledger import Row


class LazyPort:
    """A port that is made when a rule asks for it: most signals' ports are never asked for.

    Args:
        make: Gives the port; called once.
    """

    def __init__(self, make: Callable[[], Tensor | None]) -> None:
        self._make: Callable[[], Tensor | None] | None = make
        self._port: Tensor | None = None

    def get(self) -> Tensor | None:
        """The port, or None where nothing leads from it to the input's."""
        if self._make is not None:
            port, self._make = self._make(), None
            self._port = port if port is not None and port.requires_grad else None
        return self._port


class Joined(NamedTuple):
    """What an operation and the one behind it do together, for one step less through memory in the backward pass.

    Args:
        rectified: Given a ReLU's value, the function from the ReLU's multiplier to the sources'.
        sources: The signals the operation read, or others from which its value is reached.
        scaled: Given the scale of each channel, the function from the scaled value's multiplier to the sources', and the
            two operations joined; None for an operation that a scale is not joined to.
        curved: Given a function f of one entry with f(0) = 0, the function from f(value)'s multiplier to the sources';
            None where nothing is won by it.
    """

    rectified: Callable[[Tensor], Callable[[Tensor], Any]]
    sources: tuple[Tensor, ...]
    scaled: Callable[[Tensor], tuple[Callable[[Tensor], Any], Joined]] | None = None
    curved: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Any]] | None = None


class Signal:
    """What is known about a tensor that depends on the explained input.

    Attributes:
        value: The tensor that stands for it from now on, where it is not the tensor itself.
        nonnegative: Proved by provenance (it came from a ReLU, a sigmoid, a pool of one), not by looking.
        gate: It came through a sigmoid-like function or a pooled path.
        port: A signal of ones whose multiplier is this tensor's relevance, or None; `lazy_port` may still have to be made.
        pending: Makes the value once the next operation is known: called with the tensor and whether only its
            positive entries matter.
        parents: The signals it was computed from, where a rule of the composite asks for them.
        depth: The longest chain of operations from the input, known together with them.
        viewed: A view of it exists.
        root: The tensor it is a view of, or None.
        token: Its entries are integers; their relevance travels by the port alone.
        settled: The values made by ``pending``, by whether only positive entries matter.
        masked: Of the one whose positive entries matter: its other entries pass no multiplier on.
        rectified: Of that one: its other entries are 0.
        free: The backward pass reads its memory nowhere.
        joined: How what reads this tensor passes its multiplier on past the operation that made it, or None.
        reads: How many calls were given it.
        watched: Its own relevance is asked for: nothing is folded into the map that made it.
    """

    # One is made for every operation: what stays as it is here is not set anew each time.
    lazy_port: Tensor | LazyPort | None = None
    pending: Pending | None = None
    settled: Mapping[bool, Tensor] = MappingProxyType({})
    masked = False
    rectified = False
    parents: tuple[Signal, ...] = ()
    depth = 0
    viewed = False
    root: Tensor | None = None
    token = False
    free = False
    joined: Joined | None = None
    reads = 0
    watched = False

    def __init__(self, value: Tensor | None = None, *, nonnegative: bool = False, gate: bool = False) -> None:
        self.value = value
        self.nonnegative = nonnegative
        self.gate = gate

    def settle(self, rectified: bool, value: Tensor) -> None:
        """Remembers the value that `pending` made."""
        self.settled = {**self.settled, rectified: value}

    def descend(self, parents: tuple[Signal, ...]) -> None:
        """Remembers what the signal was computed from."""
        self.parents = parents
        self.depth = 1 + max((parent.depth for parent in parents), default=0)

    def is_masked(self, value: Tensor) -> bool:
        """Whether this value's entries that are not positive pass no multiplier on."""
        return self.masked and self.settled.get(True) is value

    def standing(self) -> Signal:
        """The same knowledge about a tensor that stands for itself."""
        copy = Signal(nonnegative=self.nonnegative, gate=self.gate)
        copy.lazy_port, copy.parents, copy.depth = self.lazy_port, self.parents, self.depth
        return copy

    @property
    def port(self) -> Tensor | None:
        """The port, made now where it was not yet."""
        if isinstance(self.lazy_port, LazyPort):
            self.lazy_port = self.lazy_port.get()
        return self.lazy_port

    @port.setter
    def port(self, port: Tensor | LazyPort | None) -> None:
        self.lazy_port = port


class Pending:
    """A map whose rule waits for the next operation: a BatchNorm to fold in, a ReLU that follows.

    Args:
        settle: Runs the rule: given the map's value, whether only its positive entries matter, and the calls folded
            into the map, returns the differentiable value, its port, and the rule's call.
        operation: The map's operation.
        followers: The calls folded in so far.
    """

    def __init__(
        self, settle: Callable[[Tensor, bool, tuple[Call, ...]], tuple[Tensor, Tensor | LazyPort | None, Call]],
        operation: Any,
        followers: tuple[Call, ...] = (),
    ) -> None:  # fmt: skip
        self.settle = settle
        self.operation = operation
        self.followers = followers

    def followed_by(self, call: Call) -> Pending:
        """The same map with one more call folded in."""
        return Pending(self.settle, self.operation, (*self.followers, call))


_LEAVES = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))  # no call is spent on these
_TENSORS = frozenset((Tensor, torch.nn.Parameter))


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of a nest of lists, tuples and dicts with ``change`` applied to each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        changed = [
            change(item) if type(item) in _TENSORS else item if type(item) in _LEAVES else map_tensors(item, change)
            for item in value
        ]
        return tuple(changed) if type(value) is tuple else _rebuilt(value, changed)
    if isinstance(value, dict):
        if not value:
            return {}
        return {key: item if type(item) in _LEAVES else map_tensors(item, change) for key, item in value.items()}
    return value


def _rebuilt(value: Any, changed: list[Any]) -> Any:
    if isinstance(value, list):
        return changed
    # torch.return_types.max and its like are structseqs: their constructor takes one sequence.
    return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)


def tensors_in(value: Any, found: list[Tensor]) -> list[Tensor]:
    """The tensors in a nest of lists, tuples and dicts, in order, appended to ``found``."""
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            kind = type(item)
            if kind in _TENSORS:
                found.append(item)
            elif kind not in _LEAVES:
                tensors_in(item, found)
    return found


class Call:
    """One operation on at least one signal.

    Attributes:
        operation: The operation's name (``"conv2d"``), or the type of the module whose call is atomic.
        function: The torch callable; it writes to none of its arguments.
        args, kwargs: What it was called with; signals are differentiable, parameters detached.
        signals: What is known of each signal among the arguments, by the tensor's ``id``.
        row: The ledger's row, or None while no ledger is kept.
        rectified: Only the positive entries of the value matter (a ReLU follows); without ports and ledger the others
            are 0 already.
        masked: Set by a rule of a rectified map whose other entries pass no multiplier on: the ReLU need not see to it.
        free: Set by a rule whose backward pass reads the value's memory nowhere.
        joined: Set by a rule that knows how a ReLU or a scale of its value, which it reads no more then, passes on its
            multiplier.
        overwrites: The model asked for the value to be written over the first argument, whose memory no one else reads.
        ports: The pass carries ports.
        value: The value, where it is known before the rule runs (maps whose rule waited).
        followers: Calls folded into this one (a BatchNorm behind a convolution).
        out_port: Set by a rule whose value has a port.
        constant: Set by a rule whose value carries no relevance (a divisor, a normalizer).
        gate: Set by a rule whose value is a gate because an argument is one (1 - z).
    """

    rectified = False
    masked = False
    free = False
    joined: Joined | None = None
    overwrites = False
    value: Tensor | None = None
    followers: tuple[Call, ...] = ()
    out_port: Tensor | LazyPort | None = None
    constant = False
    gate = False

    def __init__(
        self, operation: Any, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any],
        signals: dict[int, Signal], names: dict[str, Any], *, row: Row | None = None, ports: bool = False,
        weights: Any = None, port_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.operation = operation
        self.function = function
        self.args = tuple(args)
        self.kwargs = dict(kwargs)
        self.signals = signals
        self.names = names
        self.row = row
        self.ports = ports
        self.weights = weights
        self._port_of = port_of

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
        value = self.valued()
        if not isinstance(value, Tensor) or value.shape != tensor.shape or not torch.equal(value, tensor):
            raise ValueError(
                f"the rule for operation {self.operation!r} returned its input, which is not the operation's value: a rule "
                "changes the backward pass alone; return call.native(), scale(call.native(), factor) or "
                "substitute(call.valued(), pullback, call['input'])"
            )

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
