"""What becomes of a rule's result: its value is a signal, with its port, its step, and whose memory it shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.algebra.result import Result
from lrp_plugin.algebra.signal import Lineage, Port, Signal
from lrp_plugin.composites.composite import Choice
from lrp_plugin.propagation.ports import out_ports, tapped
from lrp_plugin.propagation.steps import Step
from lrp_plugin.propagation.tokens import ids_of, is_constant
from lrp_plugin.propagation.writes import note_view

if TYPE_CHECKING:
    from lrp_plugin.propagation.mode import Propagation


def register(
    mode: Propagation, result: Result, call: Call, choice: Choice, tensors: list[Tensor], found: dict[int, Signal]
) -> Any:
    """Records what a rule made of an operation; the value, a signal from now on."""
    value = result.value
    if result.constant:
        return map_tensors(value, lambda t: t.detach())
    if type(value) is Tensor and value.requires_grad:  # the usual case
        port = _ports_of(mode, 1, result, call, choice)[0] if call.ports or result.port is not None else None
        return _record(mode, value, 0, port, result, call, choice, tensors, found)
    count = len(tensors_in(value, []))
    carried = (call.ports or result.port is not None) and not is_constant(value)  # ids ask for theirs
    ports = _ports_of(mode, count, result, call, choice) if carried else [None] * count
    places = iter(range(count))
    routes = choice.rule.output.port == "routes"

    def record(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return ids_of(mode, tensor, call, routes, result.port)
        place = next(places)
        return _record(mode, tensor, place, ports[place], result, call, choice, tensors, found)

    return map_tensors(value, record)


def _ports_of(mode: Propagation, count: int, result: Result, call: Call, choice: Choice) -> list[Port | None]:
    return out_ports(mode, count, call, choice.rule.output, result.port)


def _record(
    mode: Propagation, tensor: Tensor, place: int, port: Port | None, result: Result, call: Call, choice: Choice,
    tensors: list[Tensor], found: dict[int, Signal],
) -> Tensor:  # fmt: skip
    output = choice.rule.output
    out = tapped(mode, tensor, call, place)
    nonnegative, gate = output.sign == "nonnegative", output.gate or result.gate
    if output.sign == "keeps":
        nonnegative, routes = True, output.port == "routes"
        for known in call.signals.values():
            nonnegative = nonnegative and known.nonnegative
            gate = gate or (routes and known.gate)
    signal = Signal(nonnegative=nonnegative, gate=gate)
    signal._port = port
    if call.row is None:
        signal.memory.free = result.free
        if result.pull is not None and not mode.setup.exact:
            signal.step = Step(call.operation, pull=result.pull)
            _let_go(result.pull.sources, call)
    if mode.setup.chooser.lineage:
        signal.lineage = Lineage.of(tuple(found[id(t)] for t in tensors if id(t) in found))
    if output.port == "routes" or tensor._is_view():
        note_view(mode, out, signal, [(t, found[id(t)]) for t in tensors if id(t) in found])
    mode.signals.set(out, signal)
    if mode.recorder is not None:
        mode.hold(out)
    return out


def _let_go(sources: tuple[Tensor, ...], call: Call) -> None:
    """A sum's addends are held from here on, but not, along a residual stream, all that they were made from."""
    if len(sources) < 2:
        return
    for source in sources:
        signal = call.signal(source)
        if not signal.waits:
            signal.step = None
