"""Work no rule knows: operations without one, and what is not seen as a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.algebra.primitives import tap
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.composites.composite import Choice
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.propagation.functions import by_name
from lrp_plugin.propagation.spelling import Spelling, opened
from lrp_plugin.propagation.unseen import cut, find_sources, refuse_reentrant_checkpoint
from lrp_plugin.propagation.writes import value_of

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation


def handed_on(mode: Propagation, function: Any, args: Any, signal: Signal) -> Tensor:
    """What a custom Function may return: a tensor as it is (backward hooks of modules, gradient reversal), or a copy.

    Where it does, its value is the signal's and so is its relevance, whatever gradient it defines.
    """
    signal.memory.reads += 1
    if not signal.waits and signal.value is None:
        signal.value = args[0]
    alias: Tensor = function(*args)
    mode.remembered.aliases.set(alias, signal)
    return alias


def refuse(mode: Propagation, spelling: Spelling) -> None:
    """Raises where autograd records nothing, or a signal is written into ``out=``."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"{mode.where()} enters torch.inference_mode in its forward: autograd records nothing there; leave it out"
        )
    raise UnsupportedOperationError(
        f"operation {spelling.operation!r} in {mode.where()} writes a signal into out=; assign its result instead"
    )


def shown(found: dict[int, Signal], tensor: Tensor) -> Tensor:
    """What one who looks at a tensor is shown: what they hang on it never takes part in the backward pass."""
    signal = found.get(id(tensor))
    stands_in = signal is None or signal.waits or signal.value is not None
    return tensor if stands_in or not tensor.requires_grad else tensor.view_as(tensor)


def unregistered(
    mode: Propagation,
    func: Any,
    spelling: Spelling,
    args: Any,
    kwargs: Any,
    tensors: list[Tensor],
    found: dict[int, Signal],
) -> Any:
    """An operation without a rule: opened where torch wrote it in others, else with its native gradient, which is told."""
    inner = opened(func)
    if inner is not None:
        with mode:
            return inner(*args, **{name: value for name, value in kwargs.items() if name != "out"})

    def plain(tensor: Tensor) -> Tensor:  # a pending map's value is right already: nothing need be settled
        signal = found.get(id(tensor))
        return tensor if signal is None or signal.value is None else signal.value

    value = func(*map_tensors(args, plain), **map_tensors(kwargs, plain))
    outputs = [t for t in tensors_in(value, []) if t.requires_grad]
    if not outputs or all(any(t is given for given in tensors) for t in outputs):
        return value
    for signal in found.values():  # autograd may keep what it reads
        signal.memory.reads += 1
    operation = spelling.operation
    return mode.carry(Choice.native(operation), spelling, args, kwargs, tensors, found, mode.unknown(operation))


def unseen_signal(mode: Propagation, tensor: Tensor) -> Signal | None:
    """What is known of a tensor with a graph that no call was seen to make; None where nothing explained made it.

    Warns, or raises under ``strict``, as for any operation without a rule.
    """
    signal = mode.remembered.aliases.get(tensor)
    if signal is None:
        sources = find_sources(tensor, [t for t, _ in mode.signals.live()])
        if not sources:
            mode.remembered.constants.set(tensor, Signal())
            return None
        refuse_reentrant_checkpoint(_maker(tensor), mode.where())
        if by_name(mode, tensor, sources):
            return mode.signals.get(tensor)
        signal = _native(mode, tensor, sources)
    mode.signals.set(tensor, signal)
    return signal


def _maker(tensor: Tensor) -> str:
    return tensor.grad_fn.name() if tensor.grad_fn is not None else "?"


def _native(mode: Propagation, tensor: Tensor, sources: list[Tensor]) -> Signal:
    what = "a custom autograd.Function, a scripted or traced part, or what ran in another thread"
    row = mode.unknown(f"{_maker(tensor)} ({what})")
    receivers = [value_of(mode, source) for source in sources]
    if row is not None and mode.recorder is not None:
        tapped = [tap(receiver, mode.recorder.input_sink(row)) for receiver in receivers]
        return Signal(tap(cut(tensor, sources, tapped), mode.recorder.output_sink(row, 0)))
    if any(source is not receiver for source, receiver in zip(sources, receivers)):
        return Signal(cut(tensor, sources, receivers))
    return Signal()
