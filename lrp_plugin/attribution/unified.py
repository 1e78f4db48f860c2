"""UnifiedLRP: layer-wise relevance propagation as a Captum attribution method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

from lrp_plugin import rules as _rules  # noqa: F401  (fills the registry)
from lrp_plugin.attribution.arguments import check_flags, read_arguments
from lrp_plugin.attribution.batches import parts
from lrp_plugin.attribution.compiled import CompiledPass
from lrp_plugin.attribution.forwarding import Forwarding
from lrp_plugin.attribution.inputs import OutputChoice, check_choice, checked
from lrp_plugin.attribution.reach import tell_of_little
from lrp_plugin.attribution.session import Explained, Pass, Session, recording, total
from lrp_plugin.attribution.targets import Part, is_function
from lrp_plugin.composites import Composite, Site
from lrp_plugin.composites.asked import asked_composite
from lrp_plugin.composites.composite import Choice
from lrp_plugin.errors import TargetError, told
from lrp_plugin.ledger import Ledger, Recorder
from lrp_plugin.plan import Plan
from lrp_plugin.registry import Registry, registry
from lrp_plugin.tables import html_table
from lrp_plugin.torch_private import undynamoed

Inputs = Tensor | tuple[Tensor, ...] | list[Tensor] | Mapping[str, Tensor]
RULES = ("epsilon", "zero", "zplus", "gamma", "gamma_montavon", "alphabeta", "flat", "wsquare", "uniform")


class UnifiedLRP(Forwarding, GradientAttribution):
    r"""Explains any PyTorch model by layer-wise relevance propagation (LRP; Bach et al. 2015, PLoS ONE 10(7)).

    The model is not edited: one forward pass is intercepted call by call, each operation's backward is changed by its
    rule, one backward pass gives the relevance. Attributions sum to the explained output, less what the `ledger` says
    was absorbed.

    Args:
        model: Any ``nn.Module``, or a callable. Parameters may be frozen.
        rule: The rule of linear and convolution maps: ``"epsilon"``, ``"zero"`` (``"lrp0"``), ``"zplus"``, ``"gamma"``,
            ``"gamma_montavon"``, ``"alphabeta"``, ``"flat"``, ``"wsquare"``, ``"uniform"``, or one registered.
        epsilon: The epsilon rule's epsilon (0.01), in units of the pre-activation, also inside LSTM, GRU and RNN whatever
            the rule of the other maps (but 0 with ``"zero"``). 0 is LRP-0.
        gamma: The gamma rules' gamma (0.25).
        alpha: alpha-beta's alpha (2). beta: Its beta, alpha - 1 (1).
        stabilizer: What zplus, gamma and alphabeta add to a denominator (1e-9).
        composite: A `Composite`, or the name of a ready one, in place of ``rule``. A ready one takes those of the
            options above and below that its function has (``composite="epsilon_plus", bias="distribute"``).
        bias: ``"absorb"`` (the default), ``"ignore"`` or ``"distribute"``: what becomes of the relevance of biases.
        registry: A registry of one's own (`Registry.copy`).
        output: What is explained of what the model returns, where that is no tensor: a key or attribute (``"y_prob"``), a
            place in a tuple (an int), or a function of it that returns a tensor, shape (N, ...). None: ``logits``,
            ``logit``, ``y_prob``, ``out`` or ``last_hidden_state``, the first there is, else a tuple's first tensor.
        strict: Raise on an operation without a rule; otherwise it is warned about and keeps its native gradient.
        compile: True: the whole pass is traced once per form of call (shapes, dtypes) and run by ``torch.compile``;
            ``"reduce-overhead"``: with CUDA graphs. The first call of a form takes as long as compiling does.

    Raises:
        TypeError: For a model that is none: a class, a name, weights, several layers.
        ValueError: For an unknown rule, composite or bias mode, alpha - beta != 1, an epsilon, gamma or stabilizer that is
            negative or not finite, an option that the composite does not take.

    Examples::

        >>> lrp = UnifiedLRP(model, composite="epsilon_plus")
        >>> relevance = lrp.attribute(images, target=281)  # shape of images
    """

    def __init__(
        self, model: nn.Module | Callable[..., Any], rule: str | None = None, *, epsilon: float | None = None,
        gamma: float | None = None, alpha: float | None = None, beta: float | None = None,
        stabilizer: float | None = None, composite: Composite | str | None = None, bias: str | None = None,
        registry: Registry | None = None, output: OutputChoice = None, strict: bool = False,
        compile: bool | str = False,
    ) -> None:  # fmt: skip
        GradientAttribution.__init__(self, model)
        check_choice(output)
        if registry is not None and not isinstance(registry, Registry):
            raise ValueError(f"registry is a {type(registry).__name__}; legal are lrp_plugin.registry.copy(), or None")
        given = {
            "epsilon": epsilon,
            "gamma": gamma,
            "alpha": alpha,
            "beta": beta,
            "stabilizer": stabilizer,
            "bias": bias,
        }
        rules = _default_registry() if registry is None else registry
        self.session = Session(
            unwrapped(model), asked_composite(rule, composite, given, rules), rules, output=output, strict=strict,
            stabilizer=1e-9 if stabilizer is None else float(stabilizer),
        )  # fmt: skip
        self._compiled = CompiledPass(self.session, compile) if compile is not False else None

    def _explain_from_now(self, model: Callable[..., Any]) -> None:
        if "session" in vars(self):
            self._continue(self.session.with_model(unwrapped(model)))

    def _continue(self, session: Session) -> None:
        self.session = session
        self._compiled = None if self._compiled is None else CompiledPass(session, self._compiled.mode)

    @property
    def model(self) -> Any:
        """The explained model, out of what wrapped it."""
        return self.session.model

    @property
    def registry(self) -> Registry:
        """The rules."""
        return self.session.registry

    @property
    def composite(self) -> Composite:
        """Which rule where. Setting another counts from the next call on."""
        return self.session.composite

    @composite.setter
    def composite(self, composite: Composite | str) -> None:
        self._continue(self.session.with_rules(asked_composite(None, composite, {}, self.registry), self.registry))

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is signal times multiplier."""
        return True

    @undynamoed
    def attribute(  # type: ignore[override]
        self, inputs: Inputs, target: Any = None, additional_forward_args: Any = None,
        return_convergence_delta: bool = False, verbose: bool = False, internal_batch_size: int | None = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Relevance of every input entry, in the units of the explained output (a logit as a rule).

        Args:
            inputs: A tensor (N, ...), or a tuple of them, or a dict from the model's argument names to them
                (``{"input_ids": ids}``); integer inputs (token ids) get one relevance per token.
            target: Which output is explained, per example or for all: an int (N outputs of shape (N, classes)), a tuple of
                ints for further dimensions, a list, tensor or array with one for each example; a boolean mask of the
                output's shape, or ``(class, mask)`` with a mask of (H, W) or (N, H, W): the sum of the entries where it is
                True (segmentation); a function of the output that
                gives one number per example (`lrp_plugin.contrast`: `Difference`, `LogOdds`); None where the model gives
                one number per example.
            additional_forward_args: Further positional arguments of the model; they get no relevance.
            return_convergence_delta: Also return output - sum of attributions, per example, shape (N,). The inputs' rows count
                as the examples where they are as many; where not (graphs), it costs one backward pass for each output.
            verbose: Print the plan: which rule each operation got.
            internal_batch_size: Explain so many examples at a time, for less memory; the same relevance.
            forward_kwargs: Further arguments of the model by name (``{"attention_mask": mask}``); no relevance.

        Returns:
            Relevance of the inputs' shapes (a tensor, or a tuple or dict as ``inputs`` were one); with
            ``return_convergence_delta`` a pair of that and the delta.

        Raises:
            ValueError: For a target out of range, NaN in the input, an input that nothing differentiable reads.
            UnsupportedOperationError: With ``strict``, for an operation that has no rule.
        """
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        given = checked(inputs)
        check_flags(return_convergence_delta=return_convergence_delta, verbose=verbose)
        if internal_batch_size is not None:
            divided = list(parts(inputs, target, arguments, internal_batch_size))
            if len(divided) > 1:
                return _joined([self.attribute(*part, return_convergence_delta, verbose) for part in divided])
        plan: list[tuple[Site, Choice]] | None = [] if verbose else None

        def explain(passed: Pass) -> Explained:
            return tell_of_little(self.session, passed.explain(return_convergence_delta), passed.mode.setup.looks)

        def eager() -> Explained:
            return self.session.using(explain, inputs, arguments, target, plan=plan)

        if self._compiled is None or verbose or is_function(target):
            found = eager()
        else:
            found = self._compiled.explain(given, target, arguments, eager)
            if return_convergence_delta and any(len(one) != len(found.output) for one in given):
                found = eager()
        if plan is not None:
            print(Plan(plan))
        if isinstance(target, Part):
            _check_divided(found.output, given)
        attributions = arguments.format(found.relevances, isinstance(inputs, tuple))
        if not return_convergence_delta:
            return attributions
        return attributions, found.delta()

    @undynamoed
    def attribute_targets(
        self, inputs: Inputs, targets: Sequence[Any] | Tensor | Callable[[Tensor], Sequence[Any] | Tensor],
        additional_forward_args: Any = None, forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Relevance for several targets: one forward pass, one backward pass for each target.

        Args:
            inputs: As in `attribute`.
            targets: K targets, each in one of the forms `attribute` takes; or a function of the (detached) output, shape
                (N, ...), that returns them: ``lambda output: output.topk(3).indices.T`` explains each example's best
                three, and the forward pass that finds them is the one that is explained.
            additional_forward_args, forward_kwargs: As in `attribute`.

        Returns:
            Relevance of shape (K, N, ...) for each input: a tensor, or a tuple or dict as ``inputs`` were one.

        Raises:
            ValueError: Without a target, and as in `attribute`.
        """
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        if not callable(targets):
            _some(targets)

        def explain(passed: Pass) -> Any:
            chosen = _some(targets(passed.value.detach()) if callable(targets) else targets)
            with recording():
                selected = [passed.pick(target) for target in chosen]
            last = len(selected) - 1
            found = [passed.relevance(one, retain=k < last) for k, one in enumerate(selected)]
            return passed.explained.format([torch.stack(relevance) for relevance in zip(*found)])

        return self.session.using(explain, inputs, arguments, select=False)

    @undynamoed
    def ledger(
        self, inputs: Inputs, target: Any = None, additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Ledger:  # fmt: skip
        """The account of one explanation: where every bit of the output went. Arguments as in `attribute`.

        Costs one forward and one backward pass per example.
        """
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        recorder = Recorder(0)

        def account(passed: Pass) -> Ledger:
            sums = []
            with recording():
                recorder.count(len(passed.number))
                for example in range(recorder.examples):
                    recorder.example = example
                    sums.append(total(passed.of_example(example)))
            return Ledger(recorder.rows, passed.number, torch.stack(sums))

        try:
            return self.session.using(account, inputs, arguments, target, recorder=recorder)
        finally:
            recorder.close()

    def plan(
        self, inputs: Inputs, additional_forward_args: Any = None, forward_kwargs: Mapping[str, Any] | None = None
    ) -> Plan:
        """Which rule each operation will get, and which selector chose it; explains nothing."""
        sites: list[tuple[Site, Choice]] = []
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        self.session.using(lambda _: None, inputs, arguments, plan=sites, select=False)
        return Plan(sites)

    def __repr__(self) -> str:
        model = getattr(self.model, "__name__", None) or type(self.model).__name__
        return f"{type(self).__name__} of {model}\n{self.composite}"

    def _repr_html_(self) -> str:
        caption, *lines = repr(self).splitlines()
        rows = [tuple(part.strip() for part in line.split(" -> ")) for line in lines[1:]]
        return html_table(f"{caption}, {lines[0].rstrip(':').lower()}", ("operations", "rule"), rows)

    def has_convergence_delta(self) -> bool:
        """True: output - sum of attributions can be returned."""
        return True

    def compute_convergence_delta(  # type: ignore[override]
        self, attributions: Inputs, output: Tensor
    ) -> Tensor:
        """The explained output less the sum of its attributions, in Captum's call of LRP.

        Args:
            attributions: What `attribute` returned: each of shape (N, ...).
            output: The explained output of each example, shape (N,) or (N, 1).

        Returns:
            Shape (N,), in the output's dtype; what was absorbed (see `ledger`).

        Raises:
            ValueError: Where the attributions' examples are not the output's.
        """
        if not isinstance(output, Tensor):
            raise ValueError(f"output={told(output)}: legal is a tensor, the explained output of each example")
        held, _ = read_arguments(attributions, None, None)
        given, flat = checked(held), output.detach().flatten()
        if any(len(one) != len(flat) for one in given):
            counts = " and ".join(str(len(one)) for one in given)
            raise ValueError(f"attributions of {counts} examples for {len(flat)} outputs: pass one output for each")
        return Explained(given, flat, flat.shape).delta()

    def attribute_future(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Not offered.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("attribute_future is not offered by UnifiedLRP: call attribute")


def _some(targets: Any) -> list[Any]:
    listed = isinstance(targets, (Sequence, Tensor, np.ndarray)) and not isinstance(targets, (str, bytes))
    if not listed or getattr(targets, "shape", (1,)) == ():
        raise TargetError(
            f"targets={told(targets)}: legal are a list of targets, as [281, 285], or a tensor or array of them"
        )
    chosen = list(targets)
    if not chosen:
        raise ValueError("targets is empty: pass at least one, as [281, 285]")
    return chosen


def _default_registry() -> Registry:
    return registry


def _joined(found: list[Any]) -> Any:
    """The results of consecutive parts as one: tensors are concatenated, tuples and dicts entry by entry."""
    if isinstance(found[0], dict):
        return {name: _joined([one[name] for one in found]) for name in found[0]}
    if isinstance(found[0], tuple):
        return tuple(_joined(list(entries)) for entries in zip(*found))
    return torch.cat(found)


def _check_divided(output: Tensor, inputs: Sequence[Tensor]) -> None:
    if len(output) != len(inputs[0]):
        raise ValueError(
            f"internal_batch_size: {len(inputs[0])} rows of the input gave {len(output)} explained outputs: rows are not "
            "examples here (graphs), and the call cannot be divided by them; leave internal_batch_size out"
        )


def unwrapped(model: Any) -> Any:
    """The module behind DataParallel and torch.compile: interception belongs to one thread and to eager calls."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model
