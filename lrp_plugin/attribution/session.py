"""The one way to run a pass: eager, compiled, with a ledger, at a layer, for a unit, in PyHealth's spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lrp_plugin.algebra.looks import Looks, WronglySupposedError
from lrp_plugin.algebra.primitives import ForgottenSourceError
from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.attribution.inputs import ExplainedInputs, OutputChoice, explained_value
from lrp_plugin.attribution.targets import pick_target
from lrp_plugin.composites import Chooser, Composite, Site, anything, rule
from lrp_plugin.composites.captum_rules import at, captum_rules
from lrp_plugin.composites.composite import Choice
from lrp_plugin.errors import UnsupportedOperationError, warn
from lrp_plugin.fast.weights import WeightCache
from lrp_plugin.ledger import Recorder
from lrp_plugin.propagation import Propagation, Setup
from lrp_plugin.propagation.atomic import atomic_modules
from lrp_plugin.propagation.nans import FirstNan
from lrp_plugin.propagation.ports import PortsNeededError
from lrp_plugin.propagation.quiet import evaluating, uncompiled
from lrp_plugin.propagation.restored import BuffersWritten, restored
from lrp_plugin.propagation.transforms import vmap_as_loop
from lrp_plugin.registry import Registry

Found = TypeVar("Found")
Watch = Callable[[Propagation], AbstractContextManager[Any]]
"""Opened around a forward pass, which it may look into; opened anew where the pass is made again."""


class Explained(NamedTuple):
    """An explanation.

    Attributes:
        relevances: Of each input.
        output: The explained output of each example, shape (N,).
        shape: Of what the model returned.
        received: The sum of relevance for each of them, shape (N,), float64; None where the inputs' rows are the examples.
    """

    relevances: tuple[Tensor, ...]
    output: Tensor
    shape: torch.Size
    received: Tensor | None = None

    def delta(self) -> Tensor:
        """Output less the sum of relevance, shape (N,), in the output's dtype."""
        received = self.received
        if received is None:
            received = torch.stack([r.detach().double().reshape(len(r), -1).sum(1) for r in self.relevances]).sum(0)
        return (self.output.double() - received.to(self.output.device)).to(self.output.dtype)


class Pass(NamedTuple):
    """A forward pass, and what its backward passes need.

    Attributes:
        explained: The inputs' stand-ins.
        value: What the model returned, differentiable.
        selected: The explained number of each example, shape (N,), or None where no target was asked for.
        mode: What the operations were seen by.
    """

    explained: ExplainedInputs
    value: Tensor
    selected: Tensor | None
    mode: Propagation

    @property
    def number(self) -> Tensor:
        """The explained number of each example, shape (N,)."""
        assert self.selected is not None
        return self.selected

    def pick(self, target: Any) -> Tensor:
        """The number that a target names, of each example; shape (N,)."""
        return pick_target(self.value, target, self.explained.originals, self.mode.setup.looks)

    def settle(self) -> None:
        """The call is over: what it asked of another device's entries is read, once."""
        with nothing_lost(self.mode):
            self.mode.setup.looks.settle()

    def relevance(
        self, selected: Tensor | None = None, seed: Tensor | None = None, retain: bool = False
    ) -> tuple[Tensor, ...]:
        """One backward pass from ``selected`` (None: the target's number): relevance of each input."""
        chosen = self.number if selected is None else selected
        with recording(), nothing_lost(self.mode):
            return self.explained.relevance(self.mode, chosen, seed, retain)

    def explain(self, by_example: bool) -> Explained:
        """Relevance of each input and the explained outputs.

        Args:
            by_example: Relevance of each explained output alone is asked for. That is one backward pass for each where the
                inputs' rows are not the outputs' examples (graphs), else none more.
        """
        output = self.number.detach()
        if not by_example or all(len(one) == len(output) for one in self.explained.originals):
            return Explained(self.relevance(), output, self.value.shape)
        found = [self.of_example(example) for example in range(len(output))]
        received = torch.stack([total(one) for one in found])
        return Explained(tuple(torch.stack(each).sum(0) for each in zip(*found)), output, self.value.shape, received)

    def of_example(self, example: int) -> tuple[Tensor, ...]:
        """Relevance of each input for one explained number alone; asked for one after another, in order."""
        seed = torch.zeros_like(self.number)
        seed[example] = 1
        return self.relevance(seed=seed, retain=example + 1 < len(self.number))


def total(relevances: tuple[Tensor, ...]) -> Tensor:
    """The sum of all entries, in double precision; a scalar on the first one's device."""
    return torch.stack([r.detach().double().sum().to(relevances[0].device) for r in relevances]).sum()


@contextmanager
def recording() -> Iterator[None]:
    """Autograd records, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def nothing_lost(mode: Propagation) -> Iterator[None]:
    """A backward pass whose relevance must arrive.

    Raises:
        ForgottenSourceError: Where it did not, in a pass that kept no values: it is to be made again.
        UnsupportedOperationError: In one that kept them.
    """
    mode.forget()
    try:
        yield
    except ForgottenSourceError:
        if not mode.setup.exact:
            raise
        raise UnsupportedOperationError(
            "relevance of the output was lost on its way: something read a value inside the model that autograd sees and "
            "the explanation does not (a C++ extension, torch.autograd.grad in a forward); register the module that "
            "contains it as one atomic operation (register_rule)"
        ) from None


class Session:
    """A model and its rules: what all passes of one explainer share.

    Args:
        model: Any ``nn.Module``, or a callable.
        composite: Which rule where.
        registry: The rules.
        output: What is explained of what the model returns.
        strict: Raise on an operation without a rule.
        stabilizer: Where a port ends.
    """

    def __init__(
        self, model: Any, composite: Composite, registry: Registry, *, output: OutputChoice = None,
        strict: bool = False, stabilizer: float = 1e-9,
    ) -> None:  # fmt: skip
        self.model = model
        self.composite = composite
        self.registry = registry
        self.output = output
        self.strict = strict
        self.stabilizer = stabilizer
        self._begin()

    def with_rules(self, composite: Composite, registry: Registry) -> Session:
        """A session of the same model under other rules; its modified weights are the same."""
        other = copy(self)
        other.composite, other.registry = composite, registry
        other._begin()
        other.weights = self.weights
        return other

    def with_model(self, model: Any) -> Session:
        """A session of another model under the same rules."""
        other = copy(self)
        other.model = model
        other._begin()
        return other

    def explaining(self, model: Any) -> Session:
        """A session of another callable around the same modules, explained at what it returns."""
        other = copy(self)
        other.model, other.output = model, None
        other.chooser, other.weights, other.warned = self.chooser, self.weights, self.warned
        return other

    def _begin(self) -> None:
        self.chooser = Chooser(self.composite, self.registry)
        self.weights = WeightCache()
        self.warned: set[tuple[str, str]] = set()
        self.lent: list[Tensor] = []
        self.looking = self.carries = False
        self._marked: tuple[Any, Chooser] | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(self.__dict__)
        for made in ("chooser", "weights", "warned", "lent", "looking", "carries", "_marked"):
            del kept[made]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def using(
        self, use: Callable[[Pass], Found], *given: Any, exact: bool = False, recorder: Recorder | None = None,
        plan: list[tuple[Site, Choice]] | None = None, **options: Any,
    ) -> Found:  # fmt: skip
        """What ``use`` makes of a forward pass; of another one where the first proves void, as `forward` says."""
        while True:
            try:
                passed = self.forward(*given, exact=exact, recorder=recorder, plan=plan, **options)
                found = use(passed)
                passed.settle()
                return found
            except (ForgottenSourceError, WronglySupposedError, BuffersWritten) as reason:
                exact = self._again(reason, exact, recorder, plan)

    def _again(
        self, reason: BaseException, exact: bool, recorder: Recorder | None, plan: list[tuple[Site, Choice]] | None
    ) -> bool:
        """Makes ready for another pass, for a reason that is rare; returns whether that one must keep its values."""
        if isinstance(reason, BuffersWritten):  # known from now on
            self.lent = [*self.lent, *reason.buffers]
        elif isinstance(reason, WronglySupposedError):
            self.looking = True
        elif isinstance(reason, ForgottenSourceError) and exact:
            raise reason
        for kept in (recorder, plan):
            if kept is not None:
                kept.clear()
        # A custom autograd.Function read the value of a map directly.
        return exact or isinstance(reason, ForgottenSourceError)

    def forward(
        self, inputs: Any, arguments: Arguments, target: Any = None, *, select: bool = True,
        recorder: Recorder | None = None, plan: list[tuple[Site, Choice]] | None = None, exact: bool = False,
        watch: Watch | None = None, maps: int | None = None,
    ) -> Pass:  # fmt: skip
        """One forward pass, seen call by call.

        Args:
            inputs: A tensor or a tuple of them. arguments: What else the model is called with.
            target: Which output is explained; with ``select`` False none is.
            recorder: Keeps the ledger. plan: Receives each operation's rule.
            exact: Keep every value to the end: the inside is looked at.
            watch: Opened around the pass.
            maps: How many linear maps the pass executes, where that is known and a selector counts them.

        Raises:
            ValueError: For wrong inputs or targets, an output that does not depend on the input.
            UnsupportedOperationError: With ``strict``, for an operation without a rule.
        """
        chooser = self._chooser()
        if self.carries:
            chooser = chooser.carrying_ports()
        if chooser.counts:
            chooser = chooser.counting(self.count(inputs, arguments) if maps is None else maps)
        exact = exact or recorder is not None or plan is not None
        while True:
            try:
                return self._once(inputs, arguments, target, select, recorder, plan, exact, watch, chooser)
            except (ForgottenSourceError, WronglySupposedError, BuffersWritten, PortsNeededError) as reason:
                if isinstance(reason, PortsNeededError):  # a column was cast to ids, the first map runs again
                    chooser, self.carries = chooser.carrying_ports(), True
                exact = self._again(reason, exact, recorder, plan)

    def _chooser(self) -> Chooser:
        """The composite's, or one in which rules come first that the model's modules have as attributes, as in Captum."""
        marked = captum_rules(self.model)
        if not marked:
            return self.chooser
        if self._marked is None or self._marked[0] != marked:
            pairs = [(at(path), spec) for path, spec in marked]
            composite = Composite([*pairs, *self.composite.pairs], self.composite.name)
            self._marked = marked, Chooser(composite, self.registry)
        return self._marked[1]

    def _once(
        self, inputs: Any, arguments: Arguments, target: Any, select: bool, recorder: Recorder | None,
        plan: list[tuple[Site, Choice]] | None, exact: bool, watch: Watch | None, chooser: Chooser,
    ) -> Pass:  # fmt: skip
        looks = Looks(at_once=self.looking)
        with recording(), evaluating(self.model), uncompiled(), restored(self.model, self.lent, looks):
            explained = ExplainedInputs(inputs, arguments, chooser.ports, looks)
            setup = Setup(
                self.model, chooser, self.strict, chooser.ports, self.weights, self.stabilizer, exact, self.warned, looks,
            )  # fmt: skip
            mode = Propagation(setup, recorder=recorder, plan=plan)
            self.weights.begin(mode.paths.state)
            explained.declare(mode)
            with ExitStack() as around:
                if watch is not None:
                    around.enter_context(watch(mode))
                around.enter_context(atomic_modules(mode, self.model, self.registry))
                around.enter_context(vmap_as_loop())
                around.enter_context(mode)
                output = explained.run(self.model, self.output)
            value = explained_value(mode, output)
            passed = Pass(explained, value, None, mode)
            if not select:
                return passed
            passed = passed._replace(selected=passed.pick(target))
            looks.ask(lambda: torch.isnan(passed.number).any(), lambda: self._tell_of_nan(passed))
            return passed

    def _tell_of_nan(self, passed: Pass) -> None:
        """Warns of explained outputs that are NaN, naming the operation that made the first, found in a second pass."""
        first = FirstNan(self.model)
        given = [one.detach().clone() for one in passed.explained.originals]
        with torch.no_grad(), first:
            passed.explained.arguments.call(self.model, given)
        rows = torch.isnan(passed.number.detach()).nonzero().flatten().tolist()
        where = f"{first.found} made the first NaN" if first.found else "a parameter, buffer or input holds NaN"
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        warn(
            f"the explained output of example {shown} is NaN, and so is its relevance: {where}; look at what it is given "
            "there, or leave these examples out"
        )

    def count(self, inputs: Any, arguments: Arguments) -> int | None:
        """How many linear maps a pass executes, for selectors that count from the output; None where none does."""
        if not self._chooser().counts:
            return None
        counting = Session(self.model, Composite([(anything(), rule("epsilon"))]), self.registry, output=self.output)
        return counting.using(lambda passed: passed.mode.count.maps, inputs, arguments, select=False)
