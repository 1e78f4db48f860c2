"""Propagation: sees every torch call of a forward pass and lets a rule change its backward.

It names no operation: what to do with one stands in the registry.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lrp_plugin.algebra.call import Call, Signal, map_tensors, tensors_in
from lrp_plugin.algebra.primitives import tap
from lrp_plugin.composites.composite import Choice, Chooser
from lrp_plugin.composites.site import LINEAR_MAPS, Site
from lrp_plugin.errors import UnsupportedOperationError, UnsupportedOperationWarning, warn
from lrp_plugin.ledger import Recorder, Row
from lrp_plugin.propagation.checkpoints import keeping_what_is_saved
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.propagation.signals import Records, Signals, Storages
from lrp_plugin.propagation.softmaxes import MAKES, Image, follow
from lrp_plugin.propagation.spelling import DESCRIPTIONS, Spelling, bind, on_a_clone, spelling_of, writing
from lrp_plugin.propagation.tokens import ids_of, is_constant, propagate
from lrp_plugin.propagation.unruled import handed_on, shown, unregistered, unseen_signal
from lrp_plugin.propagation.unseen import is_handed_on
from lrp_plugin.propagation.waiting import Waiting, constant_of
from lrp_plugin.propagation.writes import Writes
from lrp_plugin.propagation.written_out import WITH_SIGNAL_ADDED
from lrp_plugin.registry import Operation

_REMEDY = (
    "register a rule for it (register_rule), or the module that contains it as one atomic operation; with "
    "strict=False it runs with its native gradient and the ledger books what that loses"
)


class Propagation(Waiting, Writes, TorchFunctionMode):
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
        keep: Keep every value to the end, for those who look at the inside: unseen work that read the value of a map
            whose rule waits, a layer's relevance. They take memory (ResNet-18: as much again as the gradient needs);
            without them such work raises `ForgottenSourceError`, ReLUs are written over their input where the model
            asks for it, and take one backward step with the operation before.
    """

    def __init__(
        self, model: Any, chooser: Chooser, *, recorder: Recorder | None = None, strict: bool = False,
        ports: bool = False, weights: Any = None, port_stabilizer: float = 1e-9,
        plan: list[tuple[Site, Choice]] | None = None, warned: set[tuple[str, str]] | None = None, keep: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.chooser = chooser
        self.recorder = recorder
        self.strict = strict
        self._ports = ports
        self.weights = weights
        self.port_stabilizer = port_stabilizer
        self.plan = plan
        self.keep = keep
        self.paths = ModulePaths(model)
        if weights is not None:
            weights.begin(self.paths.state)
        self.signals = Signals()
        self.storages = Storages()
        self.images: Records[Image] = Records()
        self.linear_maps = 0
        self._parted = False
        self.suspended = self.follows = False
        self._depth = 0
        self._model = model
        self.constants = Signals()
        self.aliases = Signals()
        self._warned = warned if warned is not None else set()
        # Unseen work is found by the autograd nodes of what it read: those tensors must outlive their last reader.
        self._kept: list[Tensor] = []

    # ---- what the front end uses -------------------------------------------------------------------------------
    def start(self, tensor: Tensor, port: Tensor | None = None, token: bool = False) -> None:
        """Declares a tensor an explained input; ``token``: integers whose relevance their port carries."""
        signal = Signal()
        signal.port = port
        signal.token = token
        self.signals.set(tensor, signal)

    @property
    def ports(self) -> bool:
        """Whether a rule may still ask for a port: they hold what they were made from, and none is made in vain."""
        final = self.chooser.final_port
        return self._ports and (final is None or self.linear_maps <= final)

    def forget(self) -> None:
        """Drops what only the forward pass needs."""
        self._kept.clear()

    def depends_on_input(self, tensor: Tensor) -> bool:
        """Whether a tensor the model returned is a signal."""
        return self._find(tensor) is not None

    def __enter__(self) -> Propagation:
        self._depth += 1
        super().__enter__()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._depth -= 1
        super().__exit__(kind, *rest)
        if self._depth or kind is not None:
            return
        for mistake in self.chooser.mistakes():
            if self.strict:
                raise ValueError(f"composite: {mistake}")
            warn(f"composite: {mistake}")

    # ---- interception ------------------------------------------------------------------------------------------
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.suspended:
            return func(*args, **kwargs)
        if func in DESCRIPTIONS and len(args) == 1 and not kwargs:  # BatchNorm asks each input
            known = self.signals.get(args[0])
            return func(args[0] if known is None or known.value is None else known.value)
        tensors = tensors_in(kwargs, tensors_in(args, []))
        found: dict[int, Signal] = {}
        act: Any = self.dispatch
        for tensor in tensors:
            if (signal := self._find(tensor)) is not None:
                found[id(tensor)] = signal
                act = partial(propagate, self) if signal.token else act
        spelling = spelling_of(func)
        if self.follows or spelling.operation in MAKES:
            act = partial(follow, self, act)
        return keeping_what_is_saved(act, func, spelling, args, kwargs, tensors, found)

    def dispatch(
        self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
    ) -> Any:
        """Carries one call out, given what is known of the signals among its arguments."""
        if not found:
            return self._constant(func, spelling, args, kwargs, tensors)
        if torch.is_inference_mode_enabled():
            raise ValueError(
                f"{self.where()} enters torch.inference_mode in its forward: autograd records nothing there; "
                "leave it out"
            )
        if kwargs.get("out") is not None:
            raise UnsupportedOperationError(
                f"operation {spelling.operation!r} in {self.where()} writes a signal into out=; "
                "assign its result instead"
            )
        if is_handed_on(func, args):
            return handed_on(self, func, args, found[id(args[0])])
        if spelling.observes:
            return func(*map_tensors(args, partial(shown, found)), **kwargs)
        rule = self.chooser.default(spelling.operation)
        if rule is None:
            function = (
                func if not spelling.writes else on_a_clone(spelling.function) if spelling.clones else spelling.function
            )
            value = unregistered(self, function, spelling, args, kwargs, tensors, found)
            return self.write(args[0], value) if spelling.writes else value
        added = WITH_SIGNAL_ADDED.get(spelling.operation)
        if added is not None and id(args[0] if args else kwargs["input"]) in found:
            with self:
                value = added(*args, **kwargs)
            return self.write(args[0], value) if spelling.writes else value
        for signal in found.values():
            signal.reads += 1
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
            spelling = writing(spelling)
        if self.storages and rule.port == "routes" and not spelling.writes:
            views = self.views(func, args, kwargs, tensors, found)
            if views is not None:
                return views
        value = self._apply(spelling, args, kwargs, tensors, found)
        return self.write(args[0], value) if spelling.writes else value

    def carry_out(self, spelling: Spelling, args: Any, kwargs: Any) -> Any:
        """Carries out an operation that is no torch call (an atomic module's); None where no argument is a signal."""
        tensors = tensors_in(kwargs, tensors_in(args, []))
        found = {id(tensor): signal for tensor in tensors if (signal := self._find(tensor)) is not None}
        return self._apply(spelling, args, kwargs, tensors, found) if found else None

    def _find(self, tensor: Tensor) -> Signal | None:
        signal = self.signals.get(tensor)
        if not self.storages and (signal is not None or tensor.grad_fn is None):  # the usual case
            return signal
        place = tensor if signal is None or signal.value is None else signal.value
        if self.storages.holds(place):
            current, port = self.storages.read(place), self.storages.port(place)
            if self.recorder is not None and current.requires_grad:
                current = self.booking_constants(current, self.storages.constants(place))
            written = Signal(current)
            written.port, written.token = port, port is not None and not tensor.is_floating_point()
            return written if written.token or current.requires_grad else None
        if signal is not None or tensor.grad_fn is None or self.constants.get(tensor) is not None:
            return signal
        return unseen_signal(self, tensor)

    def _constant(self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if (
            spelling.writes
            and args  # nn.init names all of them
            and isinstance(args[0], Tensor)
            and (self.storages.holds(args[0]) or self._is_state(args[0]))
        ):
            function = on_a_clone(spelling.function) if spelling.clones else spelling.function
            value = function(*map_tensors(args, self._current), **map_tensors(kwargs, self._current))
            if isinstance(value, Tensor) and value.shape != args[0].shape:  # resize_
                self.signals.set(args[0], Signal(value))
                return args[0]
            return self.write(args[0], value)
        if self.storages:
            args, kwargs = map_tensors(args, self._current), map_tensors(kwargs, self._current)
        value = func(*args, **kwargs)
        for tensor in tensors_in(value, []):
            if tensor.grad_fn is not None:
                self.constants.set(tensor, Signal())
        return value

    # ---- operations on signals ---------------------------------------------------------------------------------
    def _apply(
        self, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
    ) -> Any:
        operation = spelling.operation
        default = self.chooser.default(operation)
        if default is None:
            return self.carry(Choice.native(operation), spelling, args, kwargs, tensors, found, self.unknown(operation))
        if default.transparent is not None and default.transparent(bind(spelling.function, args, kwargs)):
            return args[0]
        # Not a product of two signals, nor an einsum of one tensor alone.
        linear = operation in LINEAR_MAPS and len(found) == 1 and len(tensors) > 1 and tensors[0] is not tensors[1]
        site = Site(operation, self.paths.current, linear=linear, index=self._count(spelling.part) if linear else None,
                    count=self.chooser.linear_maps)  # fmt: skip
        choice = self.chooser.choose(site)
        waiting = found.get(id(args[0])) if default.follows is not None and args else None
        if (
            default.follows is not None
            and waiting is not None
            and waiting.pending is not None
            and not waiting.watched
            and default.follows(bind(spelling.function, args, kwargs), waiting.pending.operation)
        ):
            return self._follow(spelling, args, kwargs, waiting, site, choice)
        if self.plan is not None:
            self.plan.append((site.located(), choice))
        if choice.folds and choice.rule.defers(bind(spelling.function, args, kwargs), found):
            return self._defer(choice, spelling, args, kwargs, tensors, found, site)
        if self.recorder is not None:  # a map that waits opens its row when it is settled: before its reader's
            for tensor in tensors:
                if id(tensor) in found:
                    self._settled(tensor, found[id(tensor)], choice.rule.rectifies)
        row = self._row(site.path, site.name, choice) if self.recorder is not None else None
        return self.carry(choice, spelling, args, kwargs, tensors, found, row)

    def _count(self, part: bool) -> int:
        """Counts a linear map and gives its place; the parts of one share theirs, which ends with the next map."""
        place = self.linear_maps + (self._parted and not part)
        self.linear_maps, self._parted = place + (not part), part
        return place

    def carry(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None,
    ) -> Any:  # fmt: skip
        """Carries one call out by the rule chosen."""
        call = self.make_call(choice, spelling, args, kwargs, tensors, found, row)
        value = call.native() if choice.rule.formula is None else choice.rule.formula(call, **choice.parameters)
        return self._register(value, call, choice, [(t, found[id(t)]) for t in tensors if id(t) in found])

    def make_call(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None, rectified: bool = False,
    ) -> Call:  # fmt: skip
        """What a rule is given: signals as differentiable tensors, everything else without a graph."""
        given: dict[int, Tensor] = {}
        signals: dict[int, Signal] = {}
        spare = False
        sources: dict[int, Tensor] = {}  # a port that starts here must not lead back through this call's taps
        for tensor in tensors:
            if id(tensor) in given:
                continue
            signal = found.get(id(tensor))
            if signal is None:
                given[id(tensor)] = constant_of(self._current(tensor) if self.storages else tensor)
                continue
            written = spelling.writes and tensor is args[0] and self.is_spare(tensor, signal)
            value = untapped = self._settled(tensor, signal, choice.rule.rectifies, written)
            spare = spare or (written and (choice.rule.rectifies or signal.free))
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
        call.rectified, call.overwrites = rectified and not self.ports, spare  # a port reaches the others too
        if spelling.clones:
            call.function = on_a_clone(spelling.function)
        return call

    # ---- results -----------------------------------------------------------------------------------------------
    def _register(self, value: Any, call: Call, choice: Choice, sources: list[tuple[Tensor, Signal]]) -> Any:
        if call.constant:
            return map_tensors(value, lambda t: t.detach())
        place = 0
        rule = choice.rule
        carried = (self.ports or call.out_port is not None) and not is_constant(value)  # ids ask for theirs
        ports = iter(self.out_ports(value, call, rule)) if carried else None

        def record(tensor: Tensor) -> Tensor:
            nonlocal place
            if not tensor.requires_grad:
                return ids_of(self, tensor, call, rule.port == "routes")
            out = self._tapped(tensor, call, place)
            signal = Signal(
                nonnegative=rule.sign == "nonnegative"
                or (rule.sign == "keeps" and all(s.nonnegative for s in call.signals.values())),
                gate=rule.gate or call.gate or (rule.sign == "keeps" and rule.port == "routes" and self._gated(call)),
            )
            signal.port = next(ports) if ports is not None else None
            signal.joined, call.joined = (call.joined if call.row is None and not self.keep else None), None
            signal.free = call.free and call.row is None
            if self.chooser.lineage:
                signal.descend(tuple(parent for _, parent in sources))
            if rule.port == "routes" or tensor._is_view():
                self.note_view(out, signal, sources)
            self.signals.set(out, signal)
            if self.recorder is not None:
                self._kept.append(out)
            place += 1
            return out

        return map_tensors(value, record)

    @staticmethod
    def _gated(call: Call) -> bool:
        return any(signal.gate for signal in call.signals.values())

    # ---- rows, warnings ----------------------------------------------------------------------------------------
    def open_row(self, operation: Operation, choice: Choice) -> Row | None:
        """A row for the operation at the running module, or None while no ledger is kept."""
        return None if self.recorder is None else self._row(self.paths.current()[0], str(operation), choice)

    def _row(self, path: str, operation: str, choice: Choice) -> Row:
        assert self.recorder is not None
        return self.recorder.open_row(path, operation, choice.text)

    def tell(self, operation: str, message: str) -> None:
        """Warns, once for each operation and module."""
        key = (operation, self.where())
        if key not in self._warned:
            self._warned.add(key)
            warn(message, UnsupportedOperationWarning)

    def where(self) -> str:
        """The running module, for messages."""
        path = self.paths.current()[0]
        return f"module {path!r}" if path else "the model's own forward"

    def unknown(self, kind: Operation) -> Row | None:
        """Says that an operation has no rule: raises under ``strict``, else warns and gives its row."""
        operation = str(kind)
        where = self.where()
        message = f"no rule carries relevance through operation {operation!r} in {where}: {_REMEDY}"
        if self.strict:
            raise UnsupportedOperationError(message)
        self.tell(operation, message)
        if self.recorder is None:
            return None
        return self.recorder.open_row(self.paths.current()[0], operation, "native gradient", unknown=True)
