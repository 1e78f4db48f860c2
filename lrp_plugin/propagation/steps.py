"""Steps: operations whose rule waits for what reads their value (a BatchNorm, a ReLU), or which that is joined to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.binding import bind
from lrp_plugin.algebra.call import Call, Waited
from lrp_plugin.algebra.formulas import cast_of
from lrp_plugin.algebra.nests import map_tensors, replaced
from lrp_plugin.algebra.primitives import mark
from lrp_plugin.algebra.result import Result
from lrp_plugin.algebra.signal import Lineage, Port, Signal
from lrp_plugin.composites.composite import Choice
from lrp_plugin.composites.site import Site
from lrp_plugin.fast import switches
from lrp_plugin.propagation.ports import tapped, tapped_port
from lrp_plugin.propagation.spelling import Spelling
from lrp_plugin.torch_private import observed

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation
    from lrp_plugin.registry import Rule

Settle = Callable[[Waited], tuple[Tensor, Port | None, Result]]
"""Runs a rule that waited: the differentiable value, its port, and the rule's result."""


class Step:
    """The operation that made a signal.

    Attributes:
        operation: Its name.
        settle: Runs its rule, which waits for the next operation to be known; None where it has run.
        followers: The calls folded into it so far.
        settled: The values made, by whether only positive entries matter.
        masked: Of the one whose positive entries matter: its other entries pass no multiplier on.
        rectified: Of that one: its other entries are 0.
        pull: How its multiplier passes on, for what is joined to it (`lrp_plugin.fast.pulls`).
    """

    __slots__ = ("followers", "masked", "operation", "pull", "rectified", "settle", "settled")

    def __init__(
        self, operation: Any, settle: Settle | None = None, followers: tuple[Call, ...] = (), pull: Any = None
    ) -> None:
        self.operation = operation
        self.settle = settle
        self.followers = followers
        self.settled: dict[bool, Tensor] = {}
        self.masked = self.rectified = False
        self.pull = pull

    @property
    def waits(self) -> bool:
        """Its rule waits for the next operation."""
        return self.settle is not None

    def is_masked(self, value: Tensor) -> bool:
        """Whether this value's entries that are not positive pass no multiplier on."""
        return self.masked and self.settled.get(True) is value


def constant_of(tensor: Tensor) -> Tensor:
    """A parameter as a constant; one made in inference mode as a copy, since autograd may not save it."""
    if tensor.is_inference():
        return tensor.clone()
    return tensor.detach() if tensor.requires_grad else tensor


def casting(device: str, cast: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast as it was then, where that is not how it is now."""
    if cast_of(device) == cast:
        return nullcontext()
    return torch.autocast(device, dtype=cast, enabled=cast is not None)


def defer(
    mode: Propagation, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
    found: dict[int, Signal], site: Site,
) -> Tensor:  # fmt: skip
    """A map's value without its rule, which runs when the first reader is known."""
    held: dict[int, Tensor] = {}
    plain: dict[int, Tensor] = {}
    records: dict[int, Signal] = {}
    for tensor in tensors:
        signal, key = found.get(id(tensor)), id(tensor)
        if signal is None:
            held[key], plain[key] = tensor, constant_of(tensor)
            continue
        held[key] = value = settled(mode, tensor, signal, False)
        plain[key] = value.detach()
        records[id(value)] = signal.standing()
    native = spelling.function(*replaced(tuple(args), plain), **(replaced(kwargs, plain) if kwargs else {}))
    args, kwargs = replaced(tuple(args), held), replaced(kwargs, held) if kwargs else kwargs
    path, name = (site.path, site.name) if mode.recorder is not None else ("", "")
    device = tensors[0].device.type
    cast, given = cast_of(device), list(held.values())

    def settle(waited: Waited) -> tuple[Tensor, Port | None, Result]:
        joined = "+".join([name, *(str(follower.operation) for follower in waited.followers)])
        row = mode.recorder.open_row(path, joined, choice.text) if mode.recorder is not None else None
        call = mode.make_call(choice, spelling, args, kwargs, given, records, row)
        call.waited = waited
        with casting(device, cast):  # the reader may stand behind the end of a region, or at the start of one
            result = mode.run(choice, call, False)
        return tapped(mode, result.value, call, 0), tapped_port(mode, result.port, call), result

    native = mark(native, [tensor for tensor in given if id(tensor) in records], mode.setup.looks)
    return _waiting(mode, native, Step(spelling.operation, settle), tuple(found.values()))


def _detached(value: Any, signals: dict[int, Signal]) -> Any:
    return map_tensors(value, lambda t: t.detach() if id(t) in signals else constant_of(t))


def follows(rule: Rule, spelling: Spelling, args: Any, kwargs: Any, before: Signal) -> bool:
    """Whether a call is folded into the map that made its input, whose rule waits."""
    step = before.step
    if step is None or not step.waits or before.watched or rule.waits.follows is None:
        return False
    return rule.waits.follows(bind(spelling.function, args, kwargs), step.operation)


def follow_on(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, signal: Signal, site: Site, choice: Choice
) -> Tensor:
    """The value of a call that is folded into the map before it, whose rule waits on."""
    step = signal.step
    assert step is not None
    value = spelling.function(*_detached(args, {id(args[0]): signal}), **_detached(kwargs, {}))
    value = mark(value, args[:1], mode.setup.looks)
    if mode.plan is not None:
        mode.plan.append((site.located(), Choice.folded(choice)))
    follower = Call(spelling.operation, spelling.function, args, kwargs, {})
    return _waiting(mode, value, Step(step.operation, step.settle, (*step.followers, follower)), (signal,))


def _waiting(mode: Propagation, value: Tensor, step: Step, parents: tuple[Signal, ...]) -> Tensor:
    record = Signal()
    record.step = step
    if mode.setup.chooser.lineage:
        record.lineage = Lineage.of(parents)
    mode.signals.set(value, record)
    if mode.setup.exact:
        mode.hold(value)
    return value


def settled(mode: Propagation, tensor: Tensor, signal: Signal, rectified: bool, spare: bool = False) -> Tensor:
    """The differentiable tensor that stands for a signal; a rule that waits for its reader runs now.

    Args:
        mode: The pass. tensor: The signal's tensor. signal: What is known of it.
        rectified: Only its positive entries matter to the reader.
        spare: The tensor's memory may be written over.
    """
    step = signal.step
    if step is None or step.settle is None:
        return tensor if signal.value is None else signal.value
    for known in (rectified, False):
        if known in step.settled:
            return step.settled[known]
    value = tensor.detach()
    only = rectified and mode.recorder is None and not mode.ports and "waiting" not in switches.off
    if only:  # a port or the ledger would ask for the other entries' values
        value = value.clamp_(min=0) if spare and not observed() else value.clamp(min=0)
        step.rectified = True
    # A custom autograd.Function may be the first to look, and its forward records nothing.
    with torch.enable_grad():
        made, port, result = step.settle(Waited(value, step.followers, only))
    step.settled[rectified] = made
    step.masked = step.masked or result.masked
    signal.memory.free = result.free and mode.recorder is None
    signal.port = port if port is not None else signal._port
    return made
