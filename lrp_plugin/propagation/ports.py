"""Ports of an operation's signals and outputs, with the ledger's taps on them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.blockwise import observed
from lrp_plugin.algebra.call import Call, LazyPort, Signal, tensors_in
from lrp_plugin.algebra.primitives import end_port, tap
from lrp_plugin.ledger import Recorder, Row


class Ports:
    """The part of `Propagation` that carries ports."""

    recorder: Recorder | None
    port_stabilizer: float

    def _port(self, tensor: Tensor, signal: Signal, row: Row | None) -> Tensor:
        if signal.port is None:
            signal.port = end_port(tensor, self.port_stabilizer)
            if self.recorder is not None:
                ended = self.recorder.open_row(row.path if row else "", "port", "end")
                value, bound = tensor.detach(), self.port_stabilizer
                closed = (value == 0) | torch.isinf(value)
                taken = torch.where(closed, 1, value / torch.where(value >= 0, value + bound, value - bound))
                ended.absorptions.append(("port:no_receiver", 0, lambda r: r * closed))
                ended.absorptions.append(("port:stabilizer", 0, lambda r: r * (1 - taken)))
                source = tap(tensor, self.recorder.input_sink(ended))
                signal.port = tap(end_port(source, bound), self.recorder.output_sink(ended, 0, port=True))
        if row is not None and self.recorder is not None:
            return tap(signal.port, self.recorder.input_sink(row))
        return signal.port

    def out_ports(self, value: Any, call: Call, rule: Any) -> list[Tensor | LazyPort | None]:
        """The ports of an operation's outputs; without a ledger those of a routing operation are made when asked for."""
        count = len(tensors_in(value, []))  # a port that is still to be made must not hold the value: it would for ever
        if self.recorder is not None or call.out_port is not None or rule.port in ("ends", "keeps"):
            return self._out_ports(count, call, rule)
        if not any(signal.lazy_port is not None for signal in call.signals.values()):
            return [None] * count
        if any(signal.token for signal in call.signals.values()):
            return self._out_ports(count, call, rule)
        made: list[Tensor | LazyPort | None] = []

        def make(place: int) -> Tensor | None:
            if not made:
                made.extend(self._out_ports(count, call, rule))
            port = made[place]
            return port.get() if isinstance(port, LazyPort) else port

        return [LazyPort(partial(make, place)) for place in range(count)]

    def _out_ports(self, count: int, call: Call, rule: Any) -> list[Tensor | LazyPort | None]:
        if call.out_port is not None:
            return [self._tapped_port(call)] + [None] * (count - 1)
        ports = {key: signal.lazy_port for key, signal in call.signals.items()}
        if rule.port == "ends" or not any(port is not None for port in ports.values()):
            return [None] * count
        if rule.port == "keeps":
            tensor = next(iter(call.signals))
            return [self._passed(ports[tensor], call)] + [None] * (count - 1)

        known = [port for signal in call.signals.values() if (port := signal.port) is not None]
        if not known:
            return [None] * count
        dtype = known[0].dtype

        def constant(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                return torch.zeros_like(tensor)
            # Integers are places as a rule; those written to, or put first, hold content, and take a port's dtype.
            content = tensor is call.args[0] and tensor.dtype != torch.bool
            return torch.zeros_like(tensor, dtype=dtype) if content else tensor

        def routed(tensor: Tensor) -> Tensor:
            return call.port(tensor) if id(tensor) in call.signals else constant(tensor)

        def emptied(tensor: Tensor) -> Tensor:
            return torch.zeros_like(call.port(tensor)) if id(tensor) in call.signals else constant(tensor)

        found = tensors_in(call.replaced(routed) if rule.port == "routes" else rule.port(call, routed), [])
        if rule.affine:  # what a constant adds (the value of padding) is not relevance's way
            with torch.no_grad():
                added = tensors_in(call.replaced(emptied), [])
            found = [torch.where(zero.isfinite(), port - zero, 0) for port, zero in zip(found, added)]
        return [self._tap_out_port(port, call, place) for place, port in enumerate(found)]

    def _passed(self, port: Tensor | LazyPort | None, call: Call) -> Tensor | LazyPort | None:
        if port is None or call.row is None or self.recorder is None or isinstance(port, LazyPort):
            return port
        inside = tap(port, self.recorder.input_sink(call.row))
        return tap(inside, self.recorder.output_sink(call.row, 0, port=True))

    def _tap_out_port(self, port: Tensor, call: Call, place: int) -> Tensor | None:
        if not port.requires_grad:
            return None
        if call.row is None or self.recorder is None:
            return port
        return tap(port, self.recorder.output_sink(call.row, place, port=True))

    def tapped_out_port(self, port: Tensor | LazyPort, call: Call) -> Tensor | None:
        """The port of a call's only output, as the ledger sees it."""
        made = port.get() if isinstance(port, LazyPort) else port
        return None if made is None else self._tap_out_port(made, call, 0)

    def _tapped_port(self, call: Call) -> Tensor | LazyPort | None:
        port, call.out_port = call.out_port, None  # what makes a lazy one may hold the call: no cycle of them
        return port if port is None or isinstance(port, LazyPort) else self._tap_out_port(port, call, 0)

    def _tapped(self, tensor: Tensor, call: Call, place: int) -> Tensor:
        if id(tensor) in call.signals and not observed():  # contiguous() of what is contiguous
            call.check_returned(tensor)
        if call.row is None or self.recorder is None:
            return tensor
        return tap(tensor, self.recorder.output_sink(call.row, place))
