"""Propagation: sees every torch call of a forward pass and lets a rule change its backward.

It names no operation: what to do with one stands in the registry.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lrp_plugin.algebra.binding import bind
from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.linear_map import LINEAR_MAPS
from lrp_plugin.algebra.nests import map_tensors, replaced, tensors_in
from lrp_plugin.algebra.parts import Shares, evaluate
from lrp_plugin.algebra.primitives import tap
from lrp_plugin.algebra.result import Result
from lrp_plugin.algebra.signal import Signal
from lrp_plugin.composites.composite import Choice
from lrp_plugin.composites.site import Site
from lrp_plugin.errors import UnsupportedOperationError, UnsupportedOperationWarning, warn
from lrp_plugin.fast import maps, operations
from lrp_plugin.ledger import Recorder, Row
from lrp_plugin.propagation.biases import MAPS_OF_UNITS, MAY_BE_OTHERS, note_map, written_instead
from lrp_plugin.propagation.checkpoints import keeping_what_is_saved
from lrp_plugin.propagation.gates import ENTRYWISE, note_curve
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.propagation.ports import carry_on, port_of
from lrp_plugin.propagation.results import register
from lrp_plugin.propagation.setup import Count, Remembered, Setup
from lrp_plugin.propagation.signals import Signals, Storages
from lrp_plugin.propagation.softmaxes import MAKES, follow
from lrp_plugin.propagation.spelling import DESCRIPTIONS, Spelling, on_a_clone, spelling_of, unwritten, writing
from lrp_plugin.propagation.steps import constant_of, defer, follow_on, follows, settled
from lrp_plugin.propagation.tokens import propagate
from lrp_plugin.propagation.transforms import SignalInVmapError
from lrp_plugin.propagation.unruled import handed_on, refuse, shown, unregistered, unseen_signal
from lrp_plugin.propagation.unseen import HANDED_ON, is_handed_on
from lrp_plugin.propagation.writes import current, is_spare, is_state, views, write, written_signal
from lrp_plugin.registry import Operation, Rule
from lrp_plugin.torch_private import refuse_vmap, saved_hooks

_REMEDY = (
    "register a rule for it (register_rule), or the module that contains it as one atomic operation; with "
    "strict=False it runs with its native gradient and the ledger books what that loses"
)


class Propagation(TorchFunctionMode):
    """Intercepts the calls of one forward pass in this thread.

    Args:
        setup: What the pass is made with.
        recorder: Keeps the ledger, or None.
        plan: A list that receives ``(site, choice)`` of each operation.

    Attributes:
        ports: Whether a rule may still ask for a port: they hold what they were made from, and none is made in vain.
    """

    def __init__(
        self, setup: Setup, *, recorder: Recorder | None = None, plan: list[tuple[Site, Choice]] | None = None
    ) -> None:
        super().__init__()
        self.setup = setup
        self.recorder = recorder
        self.plan = plan
        self.paths = ModulePaths(setup.model)
        self.signals = Signals()
        self.storages = Storages()
        self.remembered = Remembered()
        self.count = Count()
        self.ports = setup.ports
        self.suspended = False

    # ---- what the front end uses -------------------------------------------------------------------------------
    def start(self, tensor: Tensor, port: Tensor | None = None, token: bool = False) -> None:
        """Declares a tensor an explained input; ``token``: integers whose relevance their port carries."""
        signal = Signal()
        signal.port = port
        signal.token = token
        self.signals.set(tensor, signal)

    def forget(self) -> None:
        """Drops what only the forward pass needs."""
        self.remembered.held.clear()
        self.remembered.unbiased.clear()
        self.count.forget()

    def depends_on_input(self, tensor: Tensor) -> bool:
        """Whether a tensor the model returned is a signal."""
        return self.find(tensor) is not None

    def __enter__(self) -> Propagation:
        self.remembered.depth += 1
        super().__enter__()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.remembered.depth -= 1
        super().__exit__(kind, *rest)
        if self.remembered.depth or kind is not None:
            return
        for mistake in self.setup.chooser.mistakes():
            if self.setup.strict:
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
        tensors = tensors_in(args, [])
        if kwargs:
            tensors_in(kwargs, tensors)
        found = self.signals_among(tensors)
        if found and self.remembered.vmaps:
            raise SignalInVmapError
        act: Any = self.dispatch
        for signal in found.values():
            act = partial(propagate, self) if signal.token else act
        spelling = spelling_of(func)
        if self.remembered.follows or spelling.operation in MAKES:
            act = partial(follow, self, act)
        if saved_hooks(True) is None:
            return act(func, spelling, args, kwargs, tensors, found)
        return keeping_what_is_saved(act, func, spelling, args, kwargs, tensors, found)

    def dispatch(
        self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor], found: dict[int, Signal]
    ) -> Any:
        """Carries one call out, given what is known of the signals among its arguments."""
        if not found:
            return self._constant(func, spelling, args, kwargs, tensors)
        if torch.is_inference_mode_enabled() or kwargs.get("out") is not None:
            refuse(self, spelling)
        if func in HANDED_ON and is_handed_on(func, args):
            return handed_on(self, func, args, found[id(args[0])])
        if spelling.observes:
            return func(*map_tensors(args, partial(shown, found)), **kwargs)
        rule = self.setup.chooser.defaults.get(spelling.operation)
        if rule is None:
            value = unregistered(self, unwritten(func, spelling), spelling, args, kwargs, tensors, found)
            return write(self, args[0], value) if spelling.writes else value
        if spelling.operation in MAY_BE_OTHERS:
            instead = written_instead(self, spelling, args, kwargs, tensors, found)
            if instead is not None:
                value = instead()
                return write(self, args[0], value) if spelling.writes else value
        unbiased = self.remembered.unbiased
        for signal in found.values():
            signal.memory.reads += 1
            if unbiased:
                unbiased.pop(signal, None)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
            spelling = writing(spelling)
        if self.storages.contents and rule.output.port == "routes" and not spelling.writes:
            seen = views(self, func, args, kwargs, tensors, found)
            if seen is not None:
                return seen
        value = self.apply(spelling, rule, args, kwargs, tensors, found)
        if spelling.operation in MAPS_OF_UNITS:
            note_map(self, spelling, args, kwargs, tensors, found, value)
        elif spelling.operation in ENTRYWISE:
            note_curve(self, spelling, tensors, found, value)
        return write(self, args[0], value) if spelling.writes else value

    def carry_out(self, spelling: Spelling, args: Any, kwargs: Any) -> Any:
        """Carries out an operation that is no torch call (an atomic module's); None where no argument is a signal."""
        tensors = tensors_in(kwargs, tensors_in(args, []))
        found = self.signals_among(tensors)
        rule = self.setup.chooser.default(spelling.operation)
        return self.apply(spelling, rule, args, kwargs, tensors, found) if found else None

    def signals_among(self, tensors: list[Tensor]) -> dict[int, Signal]:
        """What is known now, by ``id``, of those of the tensors that depend on the input."""
        found = {}
        for tensor in tensors:
            entry = self.signals.records.get(id(tensor))
            signal = entry[1] if entry is not None and entry[0]() is tensor else None
            if self.storages.contents or (signal is None and tensor.grad_fn is not None):  # seldom
                signal = self._looked_for(tensor, signal)
            if signal is not None:
                found[id(tensor)] = signal
        return found

    def find(self, tensor: Tensor) -> Signal | None:
        """What is known of a tensor now; None where it does not depend on the input."""
        return self.signals_among([tensor]).get(id(tensor))

    def _looked_for(self, tensor: Tensor, signal: Signal | None) -> Signal | None:
        """What is known where memory was written to, or a graph was made by what was not seen."""
        written = self.storages.contents
        place = tensor if signal is None or signal.value is None else signal.value
        if written and self.storages.holds(place):
            return written_signal(self, tensor, place)
        if signal is not None or tensor.grad_fn is None or self.remembered.constants.get(tensor) is not None:
            return signal
        return unseen_signal(self, tensor)

    def _constant(self, func: Any, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        now = partial(current, self)
        # nn.init names all of its arguments.
        target = args[0] if spelling.writes and args and isinstance(args[0], Tensor) else None
        if target is not None and (self.storages.holds(target) or is_state(self, target)):
            function = on_a_clone(spelling.function) if spelling.clones else spelling.function
            value = function(*map_tensors(args, now), **map_tensors(kwargs, now))
            if isinstance(value, Tensor) and value.shape != target.shape:  # resize_
                self.signals.set(target, Signal(value))
                return target
            return write(self, target, value)
        if self.storages.contents:
            args, kwargs = map_tensors(args, now), map_tensors(kwargs, now)
        refuse_vmap(tensors)
        value = func(*args, **kwargs)
        for tensor in tensors_in(value, []):
            if tensor.grad_fn is not None:
                self.remembered.constants.set(tensor, Signal())
        return value

    # ---- operations on signals ---------------------------------------------------------------------------------
    def apply(
        self, spelling: Spelling, default: Rule | None, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal],
    ) -> Any:  # fmt: skip
        """Carries one call out by the rule that its place asks for."""
        operation = spelling.operation
        if default is None:
            return self.carry(Choice.native(operation), spelling, args, kwargs, tensors, found, self.unknown(operation))
        if default.transparent is not None and default.transparent(bind(spelling.function, args, kwargs)):
            return args[0]
        # Not a product of two signals, nor an einsum of one tensor alone.
        linear = operation in LINEAR_MAPS and len(found) == 1 and len(tensors) > 1 and tensors[0] is not tensors[1]
        chooser = self.setup.chooser
        index = None
        if linear:
            index = self.count.place(spelling.part, tensors[1] if id(tensors[0]) in found else tensors[0])
            carry_on(self, index)
        site = Site(operation, self.paths.current, linear=linear, index=index, count=chooser.linear_maps)
        choice = chooser.choose(site)
        before = found.get(id(args[0])) if default.waits.follows is not None and args else None
        if before is not None and follows(default, spelling, args, kwargs, before):
            return follow_on(self, spelling, args, kwargs, before, site, choice)
        if self.plan is not None:
            self.plan.append((site.located(), choice))
        if choice.folds and choice.rule.waits.defers(bind(spelling.function, args, kwargs), found):
            return defer(self, choice, spelling, args, kwargs, tensors, found, site)
        row = None
        if self.recorder is not None:  # a map that waits opens its row when it is settled: before its reader's
            for tensor in tensors:
                if id(tensor) in found:
                    settled(self, tensor, found[id(tensor)], choice.rule.form == "rectifier")
            row = self.recorder.open_row(site.path, site.name, choice.text)
        return self.carry(choice, spelling, args, kwargs, tensors, found, row)

    def carry(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None,
    ) -> Any:  # fmt: skip
        """Carries one call out by the rule chosen."""
        target = found.get(id(args[0])) if spelling.writes else None
        spare = target is not None and is_spare(self, args[0], target)
        call = self.make_call(choice, spelling, args, kwargs, tensors, found, row, spare)
        # Whether the backward pass reads that memory is known once the rule that made it has run.
        overwrites = spare and target is not None and (choice.rule.form == "rectifier" or target.memory.free)
        return register(self, self.run(choice, call, overwrites), call, choice, tensors, found)

    def make_call(
        self, choice: Choice, spelling: Spelling, args: Any, kwargs: Any, tensors: list[Tensor],
        found: dict[int, Signal], row: Row | None, spare: bool = False,
    ) -> Call:  # fmt: skip
        """What a rule is given: signals as differentiable tensors, everything else without a graph."""
        given: dict[int, Tensor] = {}
        signals: dict[int, Signal] = {}
        sources: dict[int, Tensor] = {}  # a port that starts here must not lead back through this call's taps
        for tensor in tensors:
            key = id(tensor)
            if key in given:
                continue
            signal = found.get(key)
            if signal is None:
                given[key] = constant_of(current(self, tensor) if self.storages.contents else tensor)
                continue
            written = spare and tensor is args[0]
            value = untapped = settled(self, tensor, signal, choice.rule.form == "rectifier", written)
            if row is not None and self.recorder is not None and value.requires_grad:
                value = tap(value, self.recorder.input_sink(row))
            elif id(value) in signals:  # two tensors with one current value
                value = value.view_as(value)
            given[key] = value
            signals[id(value)] = signal
            sources[id(value)] = untapped
        args, kwargs = replaced(tuple(args), given), replaced(kwargs, given) if kwargs else kwargs
        function = on_a_clone(spelling.function) if spelling.clones else spelling.function
        call = Call(
            spelling.operation, function, args, kwargs, signals, row,
            lambda tensor: port_of(self, sources[id(tensor)], signals[id(tensor)], row),
        )  # fmt: skip
        call.ports, call.weights, call.looks = self.ports, self.setup.weights, self.setup.looks
        return call

    def run(self, choice: Choice, call: Call, overwrites: bool) -> Result:
        """A rule's result, by the specialisation that fits it or by its formula as it is written."""
        rule = choice.rule
        if rule.formula is None:
            return Result(call.native())
        if rule.form is not None and (found := operations.specialised(rule, call, choice.parameters, overwrites)):
            return found
        answer = rule.formula(call, **choice.parameters)
        if type(answer) is Shares:
            return maps.specialised(answer) or evaluate(answer)
        return answer if type(answer) is Result else Result(answer)

    def hold(self, tensor: Tensor) -> None:
        """Keeps a tensor to the end of the forward pass."""
        self.remembered.held.append(tensor)

    # ---- warnings ----------------------------------------------------------------------------------------------
    def tell(self, operation: str, message: str) -> None:
        """Warns, once for each operation and module."""
        key = (operation, self.where())
        if key not in self.setup.warned:
            self.setup.warned.add(key)
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
        if self.setup.strict:
            raise UnsupportedOperationError(message)
        self.tell(operation, message)
        if self.recorder is None:
            return None
        return self.recorder.open_row(self.paths.current()[0], operation, "native gradient", unknown=True)
