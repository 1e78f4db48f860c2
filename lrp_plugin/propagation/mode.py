"""Propagation: sees every torch call of a forward pass and lets a rule change its backward.

It names no operation: what to do with one stands in the registry.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lrp_plugin.call import Call, Pending, Signal, map_tensors, tensors_in
from lrp_plugin.composites.composite import Choice, Chooser
from lrp_plugin.composites.site import LINEAR_MAPS, Site
from lrp_plugin.errors import UnsupportedOperationError, UnsupportedOperationWarning
from lrp_plugin.ledger import Recorder, Row
from lrp_plugin.primitives import end_port, tap
from lrp_plugin.propagation.checkpoints import kept_as_they_are
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.propagation.signals import Signals, Storages, shares_memory
from lrp_plugin.propagation.spelling import Spelling, bind, opened, spelling_of
from lrp_plugin.propagation.tokens import propagate
from lrp_plugin.propagation.unseen import cut, find_sources, refuse_reentrant_checkpoint

_REMEDY = (
    "register a rule for it (register_rule), or the module that contains it as one atomic operation; with "
    "strict=False it runs with its native gradient and the ledger books what that loses"
)


def _on_a_clone(function: Any) -> Any:
    """An operation that only exists in place (item assignment), as one that returns what it would have written."""

    def written(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        fresh = target.clone()
        function(fresh, *args, **kwargs)
        return fresh

    return written


def _constant_of(tensor: Tensor) -> Tensor:
    """A parameter as a constant; one made in inference mode as a copy, since autograd may not save it."""
    if tensor.is_inference():
        return tensor.clone()
    return tensor.detach() if tensor.requires_grad else tensor


class Propagation(TorchFunctionMode):
    """Intercepts the calls of one forward pass in this thread.

    Args:
        model: The explained model, for module paths.
        chooser: Gives the rule for a site.
        recorder: Keeps the ledger, or None.
        strict: Raise on operations without a rule.
        ports: Carry ports (a rule of the composite sends relevance to zero-valued entries).
        weights: Cache of modified weights.
        port_stabilizer: Stabilizer where a port ends.
        plan: A list that receives ``(site, choice)`` of each operation.
        warned: Operations and paths warned about already.
    """

    def __init__(
        self, model: Any, chooser: Chooser, *, recorder: Recorder | None = None, strict: bool = False,
        ports: bool = False, weights: Any = None, port_stabilizer: float = 1e-9,
        plan: list[tuple[Site, Choice]] | None = None, warned: set[tuple[str, str]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.chooser = chooser
        self.recorder = recorder
        self.strict = strict
        self.ports = ports
        self.weights = weights
        self.port_stabilizer = port_stabilizer
        self.plan = plan
        self.paths = ModulePaths(model)
        self.signals = Signals()
        self.storages = Storages()
        self.linear_maps = 0
        self.suspended = False
        self._model = model
        self._constants = Signals()
        self._warned = warned if warned is not None else set()
        self._state: set[int] | None = None
        # Unseen work is found by the autograd nodes of what it read: those tensors must outlive their last reader.
        self._kept: list[Tensor] = []

    # ---- what the front end uses -------------------------------------------------------------------------------
    def start(self, tensor: Tensor, port: Tensor | None = None, token: bool = False) -> None:
        """Declares a tensor an explained input; ``token``: integers whose relevance their port carries."""
        signal = Signal()
        signal.port = port
        signal.token = token
        self.signals.set(tensor, signal)

    def forget(self) -> None:
        """Drops what only the forward pass needs."""
        self._kept.clear()

    def value_of(self, tensor: Tensor) -> Tensor:
        """The differentiable tensor that stands for what the model returned."""
        signal = self._find(tensor)
        if signal is not None:
            return self._settled(tensor, signal, False)
        return self._current(tensor)

    def depends_on_input(self, tensor: Tensor) -> bool:
        """Whether a tensor the model returned is a signal."""
        return self._find(tensor) is not None

    # ---- interception ------------------------------------------------------------------------------------------
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.suspended:
            return func(*args, **kwargs)
        tensors = tensors_in(kwargs, tensors_in(args, []))
        found = {id(tensor): signal for tensor in tensors if (signal := self._find(tensor)) is not None}
        spelling = spelling_of(func)
        act = partial(propagate, self) if any(signal.token for signal in found.values()) else self.dispatch
        with kept_as_they_are():
            return act(func, spelling, args, kwargs, tensors, found)

    def dispatch(
        self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
    ) -> Any:
        """Carries one call out, given what is known of the signals among its arguments."""
        if not found:
            return self._constant(func, spelling, args, kwargs, tensors)
        if torch.is_inference_mode_enabled():
            raise ValueError(
                f"{self._where()} enters torch.inference_mode in its forward: autograd records nothing there; leave it out"
            )
        rule = self.chooser.default(spelling.operation)
        if rule is None and not spelling.writes:
            return self._unregistered(func, spelling, args, kwargs, tensors, found)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
            return self.write(args[0], self._apply(spelling, args, kwargs, tensors, found))
        if kwargs.get("out") is not None:
            raise UnsupportedOperationError(
                f"operation {spelling.operation!r} in {self._where()} writes a signal into out=; assign its result instead"
            )
        if self.storages and rule is not None and rule.port == "routes" and not spelling.writes:
            views = self._views(func, args, kwargs, tensors, found)
            if views is not None:
                return views
        value = self._apply(spelling, args, kwargs, tensors, found)
        return self.write(args[0], value) if spelling.writes else value

    def _views(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]) -> Any:
        """Views of memory that was written to, as views of that memory, so that both see later writes; else None."""
        if not any(self.storages.holds(self._place(t)) for t in tensors if id(t) in found):
            return None
        with torch.no_grad():
            args, kwargs = (map_tensors(given, lambda t: self._place(t).detach()) for given in (tuple(args), kwargs))
            views = func(*args, **kwargs)
        return views if all(self.storages.holds(view) for view in tensors_in(views, [])) else None

    def carry_out(self, spelling: Spelling, args: Any, kwargs: Any) -> Any:
        """Carries out an operation that is no torch call (an atomic module's); None where no argument is a signal."""
        tensors = tensors_in(kwargs, tensors_in(args, []))
        found = {id(tensor): signal for tensor in tensors if (signal := self._find(tensor)) is not None}
        return self._apply(spelling, args, kwargs, tensors, found) if found else None

    def _find(self, tensor: Tensor) -> Signal | None:
        signal = self.signals.get(tensor)
        place = tensor if signal is None or signal.value is None else signal.value
        if self.storages.holds(place):
            current = self.storages.read(place)
            return Signal(current) if current.requires_grad else None
        if signal is not None or tensor.grad_fn is None or self._constants.get(tensor) is not None:
            return signal
        return self._unseen(tensor)

    def _place(self, tensor: Tensor) -> Tensor:
        """The tensor whose memory stands for this one's."""
        signal = self.signals.get(tensor)
        return tensor if signal is None or signal.value is None else signal.value

    def _unseen(self, tensor: Tensor) -> Signal | None:
        sources = find_sources(tensor, [t for t, _ in self.signals.live()])
        if not sources:
            self._constants.set(tensor, Signal())
            return None
        node = tensor.grad_fn.name() if tensor.grad_fn is not None else "?"
        refuse_reentrant_checkpoint(node, self._where())
        what = f"{node} (a custom autograd.Function, or a scripted or traced part)"
        row = self._unknown(what)
        receivers = [self.value_of(source) for source in sources]
        if row is not None and self.recorder is not None:
            tapped = [tap(receiver, self.recorder.input_sink(row)) for receiver in receivers]
            signal = Signal(tap(cut(tensor, sources, tapped), self.recorder.output_sink(row, 0)))
        elif any(source is not receiver for source, receiver in zip(sources, receivers)):
            signal = Signal(cut(tensor, sources, receivers))
        else:
            signal = Signal()
        self.signals.set(tensor, signal)
        return signal

    def _constant(self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if spelling.writes and isinstance(args[0], Tensor) and (self.storages.holds(args[0]) or self._is_state(args[0])):
            function = _on_a_clone(spelling.function) if spelling.clones else spelling.function
            value = function(*map_tensors(args, self._current), **map_tensors(kwargs, self._current))
            return self.write(args[0], value)
        if self.storages:
            args, kwargs = map_tensors(args, self._current), map_tensors(kwargs, self._current)
        value = func(*args, **kwargs)
        for tensor in tensors_in(value, []):
            if tensor.grad_fn is not None:
                self._constants.set(tensor, Signal())
        return value

    def _current(self, tensor: Tensor) -> Tensor:
        place = self._place(tensor)
        return self.storages.read(place) if self.storages.holds(place) else tensor

    def _is_state(self, tensor: Any) -> bool:
        if self._state is None:
            owner = self._model if isinstance(self._model, nn.Module) else getattr(self._model, "__self__", None)
            held = [*owner.parameters(), *owner.buffers()] if isinstance(owner, nn.Module) else []
            self._state = {t.untyped_storage()._cdata for t in held if t.layout is torch.strided}
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._state

    # ---- operations on signals ---------------------------------------------------------------------------------
    def _unregistered(
        self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
    ) -> Any:
        inner = opened(func)
        if inner is not None:
            with self:
                return inner(*args, **kwargs)

        def plain(tensor: Tensor) -> Tensor:  # a pending map's value is right already: nothing need be settled
            signal = found.get(id(tensor))
            return tensor if signal is None or signal.value is None else signal.value

        value = func(*map_tensors(args, plain), **map_tensors(kwargs, plain))
        outputs = [t for t in tensors_in(value, []) if t.requires_grad]
        if not outputs or all(any(t is given for given in tensors) for t in outputs):
            return value
        row = self._unknown(spelling.operation)
        return self._run(Choice.native(spelling.operation), spelling, args, kwargs, tensors, found, row)

    def _apply(
        self, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
    ) -> Any:
        default = self.chooser.default(spelling.operation)
        if default is None:
            row = self._unknown(spelling.operation)
            return self._run(Choice.native(spelling.operation), spelling, args, kwargs, tensors, found, row)
        if default.transparent is not None and default.transparent(bind(spelling.function, args, kwargs)):
            return args[0]
        linear = spelling.operation in LINEAR_MAPS
        site = Site(spelling.operation, self.paths.current, linear=linear, index=self.linear_maps if linear else None,
                    count=self.chooser.linear_maps)  # fmt: skip
        self.linear_maps += linear
        choice = self.chooser.choose(site)
        waiting = found.get(id(args[0])) if default.follows is not None and args else None
        # A map that was settled already (a hook asked for its value) has its own relevance: nothing is folded into it.
        if default.follows is not None and waiting is not None and waiting.pending is not None and not waiting.settled:
            if default.follows(bind(spelling.function, args, kwargs), waiting.pending.operation):
                return self._follow(spelling, args, kwargs, waiting, site, choice)
        if self.plan is not None:
            self.plan.append((site.located(), choice))
        if choice.folds and choice.rule.defers(bind(spelling.function, args, kwargs), found):
            return self._defer(choice, spelling, args, kwargs, tensors, found, site)
        row = self._row(site.path, site.name, choice) if self.recorder is not None else None
        return self._run(choice, spelling, args, kwargs, tensors, found, row)

    def _run(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None,
    ) -> Any:  # fmt: skip
        call = self.make_call(choice, spelling, args, kwargs, tensors, found, row)
        value = call.native() if choice.rule.formula is None else choice.rule.formula(call, **choice.parameters)
        return self._register(value, call, choice, {t: found[id(t)] for t in tensors if id(t) in found})

    def make_call(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None, rectified: bool = False,
    ) -> Call:  # fmt: skip
        """What a rule is given: signals as differentiable tensors, everything else without a graph."""
        given: dict[int, Tensor] = {}
        signals: dict[int, Signal] = {}
        sources: dict[int, Tensor] = {}  # a port that starts here must not lead back through this call's taps
        for tensor in tensors:
            if id(tensor) in given:
                continue
            signal = found.get(id(tensor))
            if signal is None:
                given[id(tensor)] = _constant_of(self._current(tensor))
                continue
            value = untapped = self._settled(tensor, signal, choice.rule.rectifies)
            if row is not None and self.recorder is not None and value.requires_grad:
                value = tap(value, self.recorder.input_sink(row))
            elif id(value) in signals:  # two tensors with one current value
                value = value.view_as(value)
            given[id(tensor)] = value
            signals[id(value)] = signal
            sources[id(value)] = untapped

        def replace(tensor: Tensor) -> Tensor:
            return given[id(tensor)]

        args, kwargs = map_tensors(tuple(args), replace), map_tensors(kwargs, replace)
        call = Call(
            spelling.operation, spelling.function, args, kwargs, signals, bind(spelling.function, args, kwargs),
            row=row, ports=self.ports, weights=self.weights,
            port_of=lambda tensor: self._port(sources[id(tensor)], signals[id(tensor)], row),
        )  # fmt: skip
        call.rectified = rectified
        if spelling.clones:
            call.function = _on_a_clone(spelling.function)
        return call

    def _port(self, tensor: Tensor, signal: Signal, row: Row | None) -> Tensor:
        if signal.port is None:
            signal.port = end_port(tensor, self.port_stabilizer)
            if self.recorder is not None:
                ended = self.recorder.open_row(row.path if row else "", "port", "end")
                value, bound = tensor.detach(), self.port_stabilizer
                taken = value / torch.where(value >= 0, value + bound, value - bound)
                ended.absorptions.append(("port:no_receiver", 0, lambda r: r * (value == 0)))
                ended.absorptions.append(("port:stabilizer", 0, lambda r: r * (1 - taken) * (value != 0)))
                source = tap(tensor, self.recorder.input_sink(ended))
                signal.port = tap(end_port(source, bound), self.recorder.output_sink(ended, 0, port=True))
        if row is not None and self.recorder is not None:
            return tap(signal.port, self.recorder.input_sink(row))
        return signal.port

    # ---- maps whose rule waits for the next operation ----------------------------------------------------------
    def _defer(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], site: Site,
    ) -> Any:  # fmt: skip
        held = {id(t): t if (s := found.get(id(t))) is None else self._settled(t, s, False) for t in tensors}
        records = {id(held[key]): signal for key, signal in found.items()}
        args = map_tensors(args, lambda t: held[id(t)])
        kwargs = map_tensors(kwargs, lambda t: held[id(t)])
        settled_signals = {key: signal.standing() for key, signal in records.items()}
        path, name = (site.path, site.name) if self.recorder is not None else ("", "")

        def settle(value: Tensor, rectified: bool, followers: tuple[Call, ...] = ()) -> tuple[Tensor, Tensor | None]:
            joined = "+".join([name, *(str(follower.operation) for follower in followers)])
            row = self._row(path, joined, choice) if self.recorder is not None else None
            call = self.make_call(choice, spelling, args, kwargs, list(held.values()), settled_signals, row, rectified)
            call.value, call.followers = value, followers
            out = choice.rule.formula(call, **choice.parameters)
            return self._tapped(out, call, 0), self._tapped_port(call)

        native = spelling.function(*self._detached(args, records), **self._detached(kwargs, records))
        return self._pending(native, Pending(settle, spelling.operation), tuple(found.values()))

    def _detached(self, value: Any, signals: dict[int, Signal]) -> Any:
        return map_tensors(value, lambda t: t if id(t) in signals else _constant_of(t))

    def _follow(
        self, spelling: Spelling, args: Any, kwargs: Any, signal: Signal, site: Site, choice: Choice
    ) -> Any:  # fmt: skip
        pending = signal.pending
        assert pending is not None
        value = spelling.function(*self._detached(args, {id(args[0]): signal}), **self._detached(kwargs, {}))
        if self.plan is not None:
            self.plan.append((site.located(), Choice.folded(choice)))
        follower = Call(spelling.operation, spelling.function, args, kwargs, {},
                        bind(spelling.function, args, kwargs))  # fmt: skip
        return self._pending(value, pending.followed_by(follower), (signal,))

    def _pending(self, value: Tensor, pending: Pending, parents: tuple[Signal, ...]) -> Tensor:
        record = Signal()
        record.pending = pending
        record.parents = parents if self.chooser.lineage else ()
        record.depth = 1 + max(parent.depth for parent in parents)
        self.signals.set(value, record)
        self._kept.append(value)
        return value

    def _settled(self, tensor: Tensor, signal: Signal, rectified: bool) -> Tensor:
        if signal.pending is None:
            return tensor if signal.value is None else signal.value
        for known in (rectified, False):
            if known in signal.settled:
                return signal.settled[known]
        value, port = signal.pending.settle(tensor.detach(), rectified, signal.pending.followers)
        signal.settled[rectified] = value
        signal.port = port if port is not None else signal.port
        return value

    # ---- results -----------------------------------------------------------------------------------------------
    def _register(self, value: Any, call: Call, choice: Choice, sources: dict[Tensor, Signal]) -> Any:
        if call.constant:
            return map_tensors(value, lambda t: t.detach())
        place = 0
        rule = choice.rule
        ports = iter(self.out_ports(value, call, rule)) if self.ports or call.out_port is not None else None

        def record(tensor: Tensor) -> Tensor:
            nonlocal place
            if not tensor.requires_grad:
                return tensor
            out = self._tapped(tensor, call, place)
            signal = Signal(
                nonnegative=rule.sign == "nonnegative"
                or (rule.sign == "keeps" and all(s.nonnegative for s in call.signals.values())),
                gate=rule.gate or call.gate or (rule.sign == "keeps" and rule.port == "routes" and self._gated(call)),
            )
            signal.port = next(ports) if ports is not None else None
            signal.parents = tuple(sources.values()) if self.chooser.lineage else ()
            signal.depth = 1 + max((parent.depth for parent in sources.values()), default=0)
            if rule.port == "routes" or tensor._is_view():
                self._note_view(out, signal, sources)
            self.signals.set(out, signal)
            if self.recorder is not None:
                self._kept.append(out)
            place += 1
            return out

        return map_tensors(value, record)

    def _note_view(self, view: Tensor, signal: Signal, sources: dict[Tensor, Signal]) -> None:
        """Remembers whose memory a view shares: a write to either is seen by both."""
        for tensor, known in sources.items():
            if tensor is not view and shares_memory(view, self._place(tensor)):
                known.viewed = True
                signal.root = tensor if known.root is None else known.root
                return

    @staticmethod
    def _gated(call: Call) -> bool:
        return any(signal.gate for signal in call.signals.values())

    def out_ports(self, value: Any, call: Call, rule: Any) -> list[Tensor | None]:
        """The ports of an operation's outputs."""
        count = len(tensors_in(value, []))
        if call.out_port is not None:
            return [self._tapped_port(call)] + [None] * (count - 1)
        ports = {key: signal.port for key, signal in call.signals.items()}
        if rule.port == "ends" or not any(port is not None for port in ports.values()):
            return [None] * count
        if rule.port == "keeps":
            tensor = next(iter(call.signals))
            return [self._passed(ports[tensor], call)] + [None] * (count - 1)

        def routed(tensor: Tensor) -> Tensor:
            if id(tensor) not in call.signals:
                return torch.zeros_like(tensor) if tensor.is_floating_point() else tensor
            return call.port(tensor)

        found = tensors_in(call.replaced(routed) if rule.port == "routes" else rule.port(call, routed), [])
        if rule.affine:  # what a constant adds (the value of padding) is not relevance's way
            found = [port - zero for port, zero in zip(found, tensors_in(call.at_zero(), []))]
        return [self._tap_out_port(port, call, place) for place, port in enumerate(found)]

    def _passed(self, port: Tensor | None, call: Call) -> Tensor | None:
        if port is None or call.row is None or self.recorder is None:
            return port
        inside = tap(port, self.recorder.input_sink(call.row))
        return tap(inside, self.recorder.output_sink(call.row, 0, port=True))

    def _tap_out_port(self, port: Tensor, call: Call, place: int) -> Tensor | None:
        if not port.requires_grad:
            return None
        if call.row is None or self.recorder is None:
            return port
        return tap(port, self.recorder.output_sink(call.row, place, port=True))

    def _tapped_port(self, call: Call) -> Tensor | None:
        if call.out_port is None:
            return None
        return self._tap_out_port(call.out_port, call, 0)

    def _tapped(self, tensor: Tensor, call: Call, place: int) -> Tensor:
        if call.row is None or self.recorder is None:
            return tensor
        return tap(tensor, self.recorder.output_sink(call.row, place))

    def write(self, target: Tensor, value: Any) -> Tensor:
        """Records that ``target`` now holds ``value``; its memory is not written."""
        if value is None or value is target:  # dropout that drops nothing
            return target
        signal = self.signals.get(target)
        if signal is None or signal.viewed or signal.root is not None or target._is_view():
            root = signal.root if signal is not None and signal.root is not None else target
            if signal is None and target._base is not None:
                root = target._base
            self.storages.write(self._place(target), self.value_of(value), self._place(root), lambda: self.value_of(root))
            return target
        if (known := self.signals.get(value)) is None:  # a constant was written over the whole signal
            self.signals.set(target, Signal(value))
            return target
        known.value = known.value if known.value is not None or known.pending is not None else value
        if known.pending is not None:
            self._settled(value, known, False)
            known.value, known.pending = known.settled[False], None
        self.signals.set(target, known)
        return target

    # ---- rows, warnings ----------------------------------------------------------------------------------------
    def open_row(self, operation: str, choice: Choice) -> Row | None:
        """A row for the operation at the running module, or None while no ledger is kept."""
        return None if self.recorder is None else self._row(self.paths.current()[0], operation, choice)

    def _row(self, path: str, operation: str, choice: Choice) -> Row:
        assert self.recorder is not None
        return self.recorder.open_row(path, operation, choice.text)

    def _where(self) -> str:
        path = self.paths.current()[0]
        return f"module {path!r}" if path else "the model's own forward"

    def _unknown(self, operation: str) -> Row | None:
        where = self._where()
        message = f"no rule carries relevance through operation {operation!r} in {where}: {_REMEDY}"
        if self.strict:
            raise UnsupportedOperationError(message)
        if (operation, where) not in self._warned:
            self._warned.add((operation, where))
            warnings.warn(message, UnsupportedOperationWarning, stacklevel=4)
        if self.recorder is None:
            return None
        return self.recorder.open_row(self.paths.current()[0], operation, "native gradient", unknown=True)

