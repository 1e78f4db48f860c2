"""Integer signals: token ids, and columns cast to ids. No gradient passes them: their relevance travels by the port alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.algebra.primitives import substitute
from lrp_plugin.algebra.signal import Port, Signal
from lrp_plugin.composites.composite import Choice
from lrp_plugin.propagation.ports import PortsNeededError, made, out_ports, tapped_port
from lrp_plugin.propagation.spelling import opened
from lrp_plugin.propagation.writes import note_view, views, write

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation
    from lrp_plugin.propagation.spelling import Spelling


_LOOKUPS = ("getitem", "index_select", "gather", "take", "take_along_dim")
_SHIFTS = ("add", "sub", "clamp", "clamp_min", "clamp_max")


def propagate(
    mode: Propagation, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
    found: dict[int, Signal],
) -> Any:  # fmt: skip
    """A call with at least one token among its arguments.

    An operation whose rule takes tokens (an embedding) runs that rule; one that moves entries moves the port as well;
    for every other (a comparison, a position, an index into another signal) tokens are constants.
    """
    rule = mode.setup.chooser.default(spelling.operation)
    if (rule is not None and rule.asks.tokens) or (rule is None and opened(func) is not None):
        return mode.dispatch(func, spelling, args, kwargs, tensors, found)
    if spelling.operation in _LOOKUPS and args and isinstance(args[0], Tensor) and _is_table(args[0], found):
        return mode.dispatch(func, spelling._replace(operation="lookup"), args, kwargs, tensors, found)
    if spelling.operation in _SHIFTS and not spelling.writes and len(found) == 1 and id(args[0]) in found:
        shifted = _shifted(mode, func, args, kwargs, found)
        if shifted is not None:
            return shifted
    if rule is not None and rule.output.port in ("routes", "keeps") and all(signal.token for signal in found.values()):
        return _routed(mode, spelling, args, kwargs, tensors, found)

    def plain(tensor: Tensor) -> Tensor:
        signal = found.get(id(tensor))
        return tensor if signal is None or not signal.token or signal.value is None else signal.value

    args, kwargs = map_tensors(tuple(args), plain), map_tensors(kwargs, plain)
    left = {key: signal for key, signal in found.items() if not signal.token}
    value = mode.dispatch(func, spelling, args, kwargs, tensors_in(kwargs, tensors_in(args, [])), left)
    if rule is not None and not spelling.writes:
        _tell_of_arithmetic(mode, spelling, value, [t for t in tensors if id(t) in found and found[id(t)].token])
    return value


def _is_table(tensor: Tensor, found: dict[int, Signal]) -> bool:
    """Whether rows of a constant are read."""
    return tensor.is_floating_point() and id(tensor) not in found


def _shifted(mode: Propagation, func: Any, args: Any, kwargs: Any, found: dict[int, Signal]) -> Tensor | None:
    """Ids moved by a constant (a table's offsets) or kept within bounds: of each entry one entry is made, with its port."""
    signal = found[id(args[0])]
    held = args[0] if signal.value is None else signal.value
    value = func(held, *args[1:], **kwargs)
    if value.shape != held.shape or value.is_floating_point():
        return None
    record = Signal()
    record.port, record.token = signal.port, True
    mode.signals.set(value, record)
    return value  # type: ignore[no-any-return]


def is_constant(value: Any) -> bool:
    """Whether an operation's value has no graph: a constant, or ids."""
    return isinstance(value, Tensor) and not value.requires_grad


def ids_of(mode: Propagation, value: Tensor, call: Call, routes: bool, given: Port | None) -> Tensor:
    """Integers that an operation made of a signal, with the signal's port where each is made of one entry.

    Raises:
        PortsNeededError: Where the pass carries no ports.
    """
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        return value
    port = made(given)
    if port is None:
        x = call.args[0] if call.args else None
        if not routes or not isinstance(x, Tensor) or not call.is_signal(x) or x.shape != value.shape:
            return value
        if not mode.ports:
            raise PortsNeededError
        port = call.port(x)
    record = Signal()
    record.port, record.token = tapped_port(mode, port, call), True
    mode.signals.set(value, record)
    return value


def _tell_of_arithmetic(mode: Propagation, spelling: Spelling, value: Any, tokens: list[Tensor]) -> None:
    """Warns where other integers were made of tokens, one for each: their relevance does not lead back."""
    for fresh in tensors_in(value, []):
        if fresh.is_floating_point() or fresh.dtype == torch.bool or fresh.shape not in [t.shape for t in tokens]:
            continue
        mode.tell(
            str(spelling.operation),
            f"operation {spelling.operation!r} in {mode.where()} computes new integers from token ids: they are constants "
            "from here on, what is read by them has no relevance at the ids; explain the embedding instead "
            "(LayerUnifiedLRP(model, embedding)), or hand the model the ids it computes",
        )


def _routed(
    mode: Propagation, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
) -> Any:
    """Entries of tokens are moved: so are their ports. Tokens made floating point become ordinary signals."""
    rule = mode.setup.chooser.default(spelling.operation)
    assert rule is not None
    if mode.storages.contents and rule.output.port == "routes" and not spelling.writes:
        seen = views(mode, spelling.function, args, kwargs, tensors, found)
        if seen is not None:
            return seen
    choice = Choice(rule, {}, "default")
    recorder = mode.recorder
    row = recorder.open_row(mode.paths.current()[0], str(spelling.operation), choice.text) if recorder else None
    call = mode.make_call(choice, spelling, args, kwargs, tensors, found, row)
    value, output = call.native(), rule.output
    # The port of a cast must not be cast.
    if isinstance(value, Tensor) and tensors[0] is args[0] and value.dtype != args[0].dtype:
        output = dataclasses.replace(output, port="keeps")
    ports = map(made, out_ports(mode, len(tensors_in(value, [])), call, output, None))

    def record(tensor: Tensor) -> Tensor:
        port = next(ports)
        if port is None or any(tensor is given for given in tensors):
            return tensor
        if not tensor.is_floating_point():
            signal = Signal()
            signal.port, signal.token = port, True
            if tensor._is_view():
                note_view(mode, tensor, signal, [(t, found[id(t)]) for t in tensors if id(t) in found])
            mode.signals.set(tensor, signal)
            return tensor
        held = tensor.detach()
        floating = substitute(held, lambda m: (held * m).to(port.dtype), port)
        signal = Signal()
        signal.port = port.to(floating.dtype) if mode.ports else None
        mode.signals.set(floating, signal)
        return floating

    value = map_tensors(value, record)
    return write(mode, args[0], value) if spelling.writes else value


def port_of_tokens(ids: Tensor) -> Tensor:
    """A port for integer ids: ones in double precision, which every model's relevance fits into."""
    dtype = torch.float32 if ids.device.type == "mps" else torch.float64
    return torch.ones_like(ids, dtype=dtype, requires_grad=True)
