"""In-place writes: what a tensor holds now, and who shares its memory; memory itself is never written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import relevance_of
from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.algebra.primitives import tap
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.propagation.ports import port_of
from lrp_plugin.propagation.signals import shares_memory
from lrp_plugin.propagation.steps import settled
from lrp_plugin.torch_private import inside_transform, observed

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation


def value_of(mode: Propagation, tensor: Tensor) -> Tensor:
    """The differentiable tensor that stands for what the model returned."""
    signal = mode.find(tensor)
    if signal is not None:
        return settled(mode, tensor, signal, False)
    return current(mode, tensor)


def write(mode: Propagation, target: Tensor, value: Any) -> Tensor:
    """Records that ``target`` now holds ``value``; its memory is not written."""
    if value is None or value is target:  # dropout that drops nothing
        return target
    signal, place = mode.signals.get(target), place_of(mode, target)
    if shares_memory(value, place) and (value.shape, value.stride()) != (place.shape, place.stride()):
        known = mode.signals.get(value)  # the same entries seen another way (unsqueeze_, t_)
        if known is not None:
            known.value = value
            mode.signals.set(target, known)
            return target
    known = mode.signals.get(value)
    if known is None or signal is None or signal.memory.viewed or signal.memory.root is not None or target._is_view():
        root = signal.memory.root if signal is not None and signal.memory.root is not None else target
        if signal is None and target._base is not None:
            root = target._base
        place, held = place_of(mode, target), value_of(mode, value)
        whole = place_of(mode, root)
        ports = _written_ports(mode, value, root, place)
        mode.storages.write(place, held, whole, lambda: value_of(mode, root))
        if ports is not None:
            mode.storages.write_port(place, ports[0], whole, ports[1])
        return target
    if known.waits:
        known.value, known.step = settled(mode, value, known, False), None
    elif known.value is None:
        known.value = value
    mode.signals.set(target, known)
    if known.value is value:  # nobody else sees it: its own record would keep it, and itself, to the end of the pass
        mode.signals.drop(known.value)
    return target


def booking_constants(mode: Propagation, written: Tensor, constants: Tensor | None) -> Tensor:
    """A written tensor's value; what reaches its constant entries is booked, each time it is read."""
    if constants is None or mode.recorder is None:
        return written
    row = mode.recorder.open_row(mode.paths.current()[0], "write", "constants")
    held = written.detach()
    row.absorptions.append(("constant", 0, lambda m: relevance_of(held, m) * constants))
    signals = tap(torch.where(constants, 0, written), mode.recorder.input_sink(row))
    return tap(signals + torch.where(constants, held, 0), mode.recorder.output_sink(row, 0))


def written_signal(mode: Propagation, tensor: Tensor, place: Tensor) -> Signal | None:
    """What is known of a tensor whose memory was written to; ``place``: the tensor that lies there."""
    held, port = mode.storages.read(place), mode.storages.port(place)
    if mode.recorder is not None and held.requires_grad:
        held = booking_constants(mode, held, mode.storages.constants(place))
    written = Signal(held)
    written.port, written.token = port, port is not None and not tensor.is_floating_point()
    return written if written.token or held.requires_grad else None


def is_spare(mode: Propagation, tensor: Tensor, signal: Signal) -> bool:
    """Whether a call that asks to write there may: the memory is a rule's own, and this call is its first reader."""
    memory, step = signal.memory, signal.step
    if mode.setup.exact or mode.ports or memory.reads > 1 or memory.viewed or memory.root is not None:
        return False
    if step is None or step.settled or tensor._is_view() or signal.ported:
        return False
    if step.waits or step.pull is None:
        return step.waits
    return signal.value is None or (not observed() and signal.value.data_ptr() == tensor.data_ptr())


def is_state(mode: Propagation, tensor: Any) -> bool:
    """Whether the tensor lies in the memory of a parameter or buffer of the model."""
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
        return False
    if inside_transform(tensor):  # inside vmap no tensor has memory
        return False
    return tensor.untyped_storage()._cdata in mode.paths.state()


def _written_ports(
    mode: Propagation, value: Any, root: Tensor, place: Tensor
) -> tuple[Tensor | None, Tensor | None] | None:
    """The ports of what is written and of the memory before; None where neither has one: the reader ends it then."""
    written, before = mode.find(value) if isinstance(value, Tensor) else None, mode.find(root)
    sides = [signal for signal in (written, before) if signal is not None and (signal.token or mode.ports)]
    if not mode.storages.has_port(place) and not any(signal.port is not None for signal in sides):
        return None
    return tuple(  # type: ignore[return-value]
        None if signal is None else signal.port if signal.token else port_of(mode, value_of(mode, tensor), signal, None)
        for tensor, signal in ((value, written), (root, before))
    )


def views(mode: Propagation, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]) -> Any:
    """Views of memory that was written to, as views of that memory, so that both see later writes; else None."""
    if not any(mode.storages.holds(place_of(mode, t)) for t in tensors if id(t) in found):
        return None
    with torch.no_grad():
        args, kwargs = (map_tensors(given, lambda t: place_of(mode, t).detach()) for given in (tuple(args), kwargs))
        views = func(*args, **kwargs)
    return views if all(mode.storages.holds(view) for view in tensors_in(views, [])) else None


def place_of(mode: Propagation, tensor: Tensor) -> Tensor:
    """The tensor whose memory stands for this one's."""
    signal = mode.signals.get(tensor)
    return tensor if signal is None or signal.value is None else signal.value


def current(mode: Propagation, tensor: Tensor) -> Tensor:
    """What a tensor holds now, also where its memory was written to."""
    place = place_of(mode, tensor)
    return mode.storages.read(place) if mode.storages.holds(place) else tensor


def note_view(mode: Propagation, view: Tensor, signal: Signal, sources: list[tuple[Tensor, Signal]]) -> None:
    """Remembers whose memory a view shares: a write to either is seen by both."""
    for tensor, known in sources:
        if tensor is not view and shares_memory(view, place_of(mode, tensor)):
            known.memory.viewed = True
            signal.memory.root = tensor if known.memory.root is None else known.memory.root
            return
