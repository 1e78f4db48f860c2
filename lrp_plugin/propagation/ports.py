"""Ports of an operation's signals and outputs, with the ledger's taps on them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.nests import tensors_in
from lrp_plugin.algebra.primitives import end_port, tap
from lrp_plugin.algebra.signal import Port, Signal
from lrp_plugin.torch_private import observed

if TYPE_CHECKING:
    from lrp_plugin.ledger import Row
    from lrp_plugin.propagation.mode import Propagation
    from lrp_plugin.registry import Output


class PortsNeededError(BaseException):
    """A signal was cast to integers in a pass without ports: it must run again and carry them.

    No ``Exception``: the model's own ``except`` must not swallow it.
    """


def carry_on(mode: Propagation, index: int) -> None:
    """Ports are carried up to the last linear map whose rule may ask for one; the map of this number runs now.

    Raises:
        PortsNeededError: Where a map that may ask runs again, behind operations that were not asked for theirs.
    """
    final = mode.setup.chooser.final_port
    if not mode.setup.ports or final is None:
        return
    if not mode.ports and index <= final:
        raise PortsNeededError
    mode.ports = mode.ports and mode.count.maps <= final


def port_of(mode: Propagation, tensor: Tensor, signal: Signal, row: Row | None) -> Tensor:
    """A signal's port for one of its readers; where it has none, one that ends at the signal itself."""
    port = signal.port
    if port is None:
        port = signal.port = _ended(mode, tensor, row)
    if row is not None and mode.recorder is not None:
        return tap(port, mode.recorder.input_sink(row))
    return port


def _ended(mode: Propagation, tensor: Tensor, row: Row | None) -> Tensor:
    bound = mode.setup.port_stabilizer
    if mode.recorder is None:
        return end_port(tensor, bound)
    ended = mode.recorder.open_row(row.path if row else "", "port", "end")
    value = tensor.detach()
    closed = (value == 0) | torch.isinf(value)
    taken = torch.where(closed, 1, value / torch.where(value >= 0, value + bound, value - bound))
    ended.absorptions.append(("port:no_receiver", 0, lambda r: r * closed))
    ended.absorptions.append(("port:stabilizer", 0, lambda r: r * (1 - taken)))
    source = tap(tensor, mode.recorder.input_sink(ended))
    return tap(end_port(source, bound), mode.recorder.output_sink(ended, 0, port=True))


def out_ports(mode: Propagation, count: int, call: Call, output: Output, given: Port | None) -> list[Port | None]:
    """The ports of an operation's outputs; without a ledger those of a routing operation are made when asked for.

    Args:
        mode: The pass. count: How many outputs there are. call: The operation's. output: What its rule
            makes of it.
        given: The port that the rule itself gave to its only output.
    """
    if mode.recorder is not None or given is not None or output.port in ("ends", "keeps"):
        return _out_ports(mode, count, call, output, given)
    if not any(signal.ported for signal in call.signals.values()):
        return [None] * count
    if any(signal.token for signal in call.signals.values()):
        return _out_ports(mode, count, call, output, None)
    made: list[Port | None] = []

    def make(place: int) -> Tensor | None:  # it must not hold the value: it would for ever
        if not made:
            made.extend(_out_ports(mode, count, call, output, None))
        port = made[place]
        return port if port is None or isinstance(port, Tensor) else port()

    return [partial(make, place) for place in range(count)]


def _out_ports(mode: Propagation, count: int, call: Call, output: Output, given: Port | None) -> list[Port | None]:
    if given is not None:
        return [tapped_port(mode, given, call)] + [None] * (count - 1)
    if output.port == "ends" or not any(signal.ported for signal in call.signals.values()):
        return [None] * count
    if output.port == "keeps":
        return [_passed(mode, next(iter(call.signals.values()))._port, call)] + [None] * (count - 1)
    known = [port for signal in call.signals.values() if (port := signal.port) is not None]
    if not known:
        return [None] * count
    dtype = known[0].dtype

    def constant(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.zeros_like(tensor)
        # Integers are places as a rule; those written to, or put first, hold content, and take a port's dtype.
        content = tensor is (call.args[0] if call.args else call.get("input")) and tensor.dtype != torch.bool
        return torch.zeros_like(tensor, dtype=dtype) if content else tensor

    def routed(tensor: Tensor) -> Tensor:
        return call.port(tensor) if id(tensor) in call.signals else constant(tensor)

    def emptied(tensor: Tensor) -> Tensor:
        return torch.zeros_like(call.port(tensor)) if id(tensor) in call.signals else constant(tensor)

    found = tensors_in(output.port(call, routed) if callable(output.port) else call.replaced(routed), [])
    if output.affine:  # what a constant adds (the value of padding) is not relevance's way
        with torch.no_grad():
            added = tensors_in(call.replaced(emptied), [])
        found = [torch.where(zero.isfinite(), port - zero, 0) for port, zero in zip(found, added)]
    return [_tapped_out(mode, port, call, place) for place, port in enumerate(found)]


def _passed(mode: Propagation, port: Port | None, call: Call) -> Port | None:
    if port is None or call.row is None or mode.recorder is None or not isinstance(port, Tensor):
        return port
    inside = tap(port, mode.recorder.input_sink(call.row))
    return tap(inside, mode.recorder.output_sink(call.row, 0, port=True))


def _tapped_out(mode: Propagation, port: Tensor, call: Call, place: int) -> Tensor | None:
    if not port.requires_grad:
        return None
    if call.row is None or mode.recorder is None:
        return port
    return tap(port, mode.recorder.output_sink(call.row, place, port=True))


def made(port: Port | None) -> Tensor | None:
    """The port itself, made now where it was not yet."""
    return port if port is None or isinstance(port, Tensor) else port()


def tapped_port(mode: Propagation, port: Port | None, call: Call) -> Port | None:
    """The port that a rule gave to its only output, as the ledger sees it."""
    return _tapped_out(mode, port, call, 0) if isinstance(port, Tensor) else port


def tapped(mode: Propagation, tensor: Tensor, call: Call, place: int) -> Tensor:
    """One of an operation's outputs, as the ledger sees it."""
    if id(tensor) in call.signals and not observed():  # contiguous() of what is contiguous
        call.check_returned(tensor)
    if call.row is None or mode.recorder is None:
        return tensor
    return tap(tensor, mode.recorder.output_sink(call.row, place))
