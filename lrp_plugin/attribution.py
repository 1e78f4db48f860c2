"""UnifiedLRP: layer-wise relevance propagation as a Captum attribution method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

from lrp_plugin import rules as _rules  # noqa: F401  (fills the registry)
from lrp_plugin.arguments import Arguments, read_arguments
from lrp_plugin.batches import parts
from lrp_plugin.compiled import CompiledPass, Explained
from lrp_plugin.composites import Chooser, Composite, Site, anything, linear_maps, operation, ready_composite, rule
from lrp_plugin.composites.composite import Choice
from lrp_plugin.composites.ready import READY as COMPOSITES
from lrp_plugin.composites.ready import handing_on
from lrp_plugin.explained import ExplainedInputs, OutputChoice, check_choice, checked, pick_target, select_output
from lrp_plugin.ledger import Ledger, Recorder
from lrp_plugin.plan import Plan
from lrp_plugin.propagation import Propagation
from lrp_plugin.propagation.atomic import atomic_modules
from lrp_plugin.propagation.quiet import evaluating, uncompiled
from lrp_plugin.propagation.unseen import ForgottenSourceError
from lrp_plugin.registry import Registry, registry
from lrp_plugin.rules.linear import check_alpha_beta
from lrp_plugin.rules.recurrent import CELLS, SEQUENCES
from lrp_plugin.rules.weights import WeightCache

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
RULES = ("epsilon", "zero", "zplus", "gamma", "gamma_montavon", "alphabeta", "flat", "wsquare", "uniform")


class UnifiedLRP(GradientAttribution):
    r"""Explains any PyTorch model by layer-wise relevance propagation (LRP; Bach et al. 2015, PLoS ONE 10(7)).

    The model is not edited: one forward pass is intercepted call by call, each operation's backward is changed by its
    rule, one backward pass gives the relevance. Attributions sum to the explained output, less what the `ledger` says
    was absorbed.

    Args:
        model: Any ``nn.Module``, or a callable. Parameters may be frozen.
        rule: The rule of linear and convolution maps: ``"epsilon"``, ``"zero"``, ``"zplus"``, ``"gamma"``,
            ``"gamma_montavon"``, ``"alphabeta"``, ``"flat"``, ``"wsquare"``, ``"uniform"``, or one registered.
        epsilon: The epsilon rule's epsilon, in units of the pre-activation, also inside LSTM, GRU and RNN whatever the
            rule of the other maps (but 0 with ``"zero"``). 0 is LRP-0.
        gamma: The gamma rules' gamma.
        alpha: alpha-beta's alpha. beta: Its beta, alpha - 1.
        stabilizer: What zplus, gamma and alphabeta add to a denominator.
        composite: A `Composite`, or the name of a ready one; replaces ``rule``.
        bias: ``"absorb"``, ``"ignore"`` or ``"distribute"``: what becomes of the relevance of biases.
        registry: A registry of one's own (`Registry.copy`).
        output: What is explained of what the model returns, where that is no tensor: a key or attribute (``"y_prob"``), a
            place in a tuple (an int), or a function of it that returns a tensor, shape (N, ...). None: ``logits``,
            ``logit``, ``y_prob``, ``out`` or ``last_hidden_state``, the first there is, else a tuple's first tensor.
        strict: Raise on an operation without a rule; otherwise it is warned about and keeps its native gradient.
        compile: True: the whole pass is traced once per form of call (shapes, dtypes) and run by ``torch.compile``;
            ``"reduce-overhead"``: with CUDA graphs. The first call of a form takes as long as compiling does.

    Raises:
        ValueError: For an unknown rule, composite or bias mode, alpha - beta != 1, a negative epsilon, gamma or
            stabilizer.

    Examples::

        >>> lrp = UnifiedLRP(model, composite="epsilon_plus")
        >>> relevance = lrp.attribute(images, target=281)  # shape of images
    """

    def __init__(
        self, model: nn.Module | Callable[..., Any], rule: str = "epsilon", *, epsilon: float = 0.01,
        gamma: float = 0.25, alpha: float = 2.0, beta: float = 1.0, stabilizer: float = 1e-9,
        composite: Composite | str | None = None, bias: str = "absorb", registry: Registry | None = None,
        output: OutputChoice = None, strict: bool = False, compile: bool | str = False,
    ) -> None:  # fmt: skip
        GradientAttribution.__init__(self, model)
        self.model = _unwrapped(model)
        self.registry = registry if registry is not None else _default_registry()
        self.output = output
        self.strict = strict
        self.stabilizer = stabilizer
        for name, value in (("epsilon", epsilon), ("gamma", gamma), ("stabilizer", stabilizer)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: legal are numbers >= 0")
        check_alpha_beta(alpha, beta)
        check_choice(output)
        if bias not in ("absorb", "ignore", "distribute"):
            raise ValueError(f"bias={bias!r}; legal are 'absorb', 'ignore', 'distribute'")
        if isinstance(composite, str):
            composite = ready_composite(composite)
        given = {
            "epsilon": epsilon,
            "gamma": gamma,
            "alpha": alpha,
            "beta": beta,
            "stabilizer": stabilizer,
            "bias": bias,
        }
        self.composite = composite if composite is not None else self._single(rule, given)
        self.chooser = Chooser(self.composite, self.registry)
        self.weights = WeightCache()
        self._warned: set[tuple[str, str]] = set()
        self._compiled = CompiledPass(self, compile) if compile else None

    def _single(self, name: str, given: dict[str, Any]) -> Composite:
        known = [found for found in self.registry if found.name == name]
        maps = [found for found in known if found.operation in ("linear", "conv2d")]
        if not maps:
            legal = sorted({found.name for found in self.registry if found.operation in ("linear", "conv2d")})
            hint = f" ({name!r} is a composite: composite={name!r})" if name in COMPOSITES else ""
            raise ValueError(f"unknown rule {name!r}{hint}; legal are {', '.join(legal)}")
        taken = {key: value for key, value in given.items() if key in maps[0].parameters}
        pairs = [(linear_maps(), rule(name, **taken)), *handing_on(given["bias"])]
        if self.registry.find("lstm", "signal") is not None:  # the maps inside a recurrent kernel are maps too
            inside = rule("signal", epsilon=0.0 if name == "zero" else given["epsilon"])
            pairs.append((operation(*SEQUENCES, *CELLS), inside))
        return Composite(pairs, name)

    @torch._disable_dynamo  # type: ignore[attr-defined,misc]
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
                ints for further dimensions, a list or tensor with one for each example; None where the model gives
                one number per example.
            additional_forward_args: Further positional arguments of the model; they get no relevance.
            return_convergence_delta: Also return output - sum of attributions, per example, shape (N,).
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
        if internal_batch_size is not None and given[0].shape[0] > internal_batch_size:
            divided = parts(inputs, target, arguments, internal_batch_size)
            return _joined([self.attribute(*part, return_convergence_delta, verbose) for part in divided])
        plan: list[tuple[Site, Choice]] | None = [] if verbose else None

        def eager() -> Explained:
            explained, selected, mode = self._forward(inputs, target, arguments, plan=plan)
            return Explained(explained.relevance(mode, selected), selected.detach())

        if self._compiled is None or verbose:
            relevances, output = eager()
        else:
            relevances, output = self._compiled.explain(given, target, arguments, eager)
        if plan is not None:
            print(Plan(plan))
        attributions = arguments.format(relevances, isinstance(inputs, tuple))
        if not return_convergence_delta:
            return attributions
        totals = sum(r.detach().double().flatten(1).sum(1) for r in relevances)
        return attributions, output.double() - totals

    @torch._disable_dynamo  # type: ignore[attr-defined,misc]
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
        explained, value, mode = self._forward(inputs, None, arguments, select=False)
        chosen = _some(targets(value.detach()) if callable(targets) else targets)
        examples = explained.handed[0].shape[0]
        with torch.enable_grad():
            selected = [pick_target(value, target, examples) for target in chosen]
        last = len(selected) - 1
        found = [explained.relevance(mode, one, retain=k < last) for k, one in enumerate(selected)]
        return explained.format([torch.stack(relevance) for relevance in zip(*found)])

    def ledger(
        self, inputs: Inputs, target: Any = None, additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Ledger:  # fmt: skip
        """The account of one explanation: where every bit of the output went. Arguments as in `attribute`.

        Costs one forward and one backward pass per example.
        """
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        examples = checked(inputs)[0].shape[0]
        recorder = Recorder(examples)
        explained, selected, mode = self._forward(inputs, target, arguments, recorder=recorder)
        sums = []
        for example in range(examples):
            recorder.example = example
            seed = torch.zeros_like(selected)
            seed[example] = 1
            relevances = explained.relevance(mode, selected, seed, retain=example + 1 < examples)
            sums.append(sum(r.detach().double().sum() for r in relevances))
        return Ledger(recorder.rows, selected, torch.stack([torch.as_tensor(s) for s in sums]))

    def plan(
        self, inputs: Inputs, additional_forward_args: Any = None, forward_kwargs: Mapping[str, Any] | None = None
    ) -> Plan:
        """Which rule each operation will get, and which selector chose it; explains nothing."""
        sites: list[tuple[Site, Choice]] = []
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        self._forward(inputs, None, arguments, plan=sites, select=False)
        return Plan(sites)

    def has_convergence_delta(self) -> bool:
        """True: output - sum of attributions can be returned."""
        return True

    def _forward(
        self, inputs: Any, target: Any, arguments: Arguments, *, recorder: Recorder | None = None,
        plan: list[tuple[Site, Choice]] | None = None, select: bool = True, keep: bool = False,
    ) -> tuple[ExplainedInputs, Tensor, Propagation]:  # fmt: skip
        if self.chooser.counts:
            self.chooser.linear_maps = self._count(inputs, arguments)
        run = partial(self._run, inputs, target, arguments, recorder=recorder, plan=plan, select=select)
        try:
            return run(keep=keep or recorder is not None or plan is not None)
        except ForgottenSourceError:  # rare: a custom autograd.Function read the value of a map directly
            return run(keep=True)

    def _run(
        self, inputs: Any, target: Any, arguments: Arguments, *, recorder: Recorder | None,
        plan: list[tuple[Site, Choice]] | None, select: bool, keep: bool,
    ) -> tuple[ExplainedInputs, Tensor, Propagation]:  # fmt: skip
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.model), uncompiled():
            explained = ExplainedInputs(inputs, arguments, ports=self.chooser.ports)
            mode = Propagation(
                self.model, self.chooser, recorder=recorder, strict=self.strict, ports=self.chooser.ports,
                weights=self.weights, port_stabilizer=self.stabilizer, plan=plan, warned=self._warned, keep=keep,
            )  # fmt: skip
            explained.declare(mode)
            with atomic_modules(mode, self.model, self.registry), mode:
                output = explained.run(self.model, self.output)
            return explained, select_output(mode, output, target, explained, select), mode

    def _count(self, inputs: Any, arguments: Arguments) -> int:
        """How many linear maps a pass executes, for selectors that count from the output."""
        counting = UnifiedLRP(self.model, composite=Composite([(anything(), rule("epsilon"))]), registry=self.registry)
        return sum(site.linear for site, _ in counting.plan(inputs, arguments).entries)


def _some(targets: Any) -> list[Any]:
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


def _unwrapped(model: Any) -> Any:
    """The module behind DataParallel and torch.compile: interception belongs to one thread and to eager calls."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model
