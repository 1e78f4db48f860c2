"""PyHealth's spelling of layer-wise relevance propagation: inputs by keyword, one call, a dictionary back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin import attribution
from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.attribution.inputs import OutputChoice, chosen_output
from lrp_plugin.ledger import Ledger, Recorder, Row
from lrp_plugin.plan import Plan
from lrp_plugin.propagation.quiet import evaluating
from lrp_plugin.pyhealth.conservation import ConservationReport, ConservationValidator
from lrp_plugin.pyhealth.handlers import LRPHandlerRegistry, LRPLayerHandler, create_default_registry
from lrp_plugin.pyhealth.outputs import check_keywords, class_indices, logits_of

_DEFAULTS = {"rule": "epsilon", "epsilon": 0.01, "alpha": 2.0, "beta": 1.0}


class UnifiedLRP(attribution.UnifiedLRP):
    """`lrp_plugin.UnifiedLRP` under PyHealth's call (``pyhealth.interpret.methods.UnifiedLRP``).

    Args:
        model: Any ``nn.Module``. It may return a tensor ``(N, K)``, or a mapping with ``logit``, ``y_prob`` or
            ``y_pred``.
        rule: ``"epsilon"`` or ``"alphabeta"``, or any other of `lrp_plugin.UnifiedLRP`.
        epsilon: The epsilon rule's, in units of the pre-activation. The greater, the more relevance it absorbs; the
            conservation report says how much.
        alpha: alpha-beta's alpha.
        beta: alpha-beta's beta, alpha - 1.
        validate_conservation: Also keep the ledger of each explanation and check it. Costs a forward pass, and a
            backward pass per example; nothing where it is False.
        conservation_tolerance: Largest share of relevance that may go missing without account in a layer.
        custom_registry: Handlers of one's own, read now; later changes to it are not seen.
        **options: Further options of `lrp_plugin.UnifiedLRP` (``composite``, ``gamma``, ``bias``, ``strict``, ...).
            ``strict`` also raises where conservation is violated; otherwise a violation is in the report only.

    Attributes:
        report: The `ConservationReport` of the latest explanation, or None.

    Raises:
        ValueError: As `lrp_plugin.UnifiedLRP`.

    Examples::

        >>> lrp = UnifiedLRP(model, rule="epsilon", epsilon=0.1)
        >>> relevance = lrp.attribute(inputs={"x": images}, target_class=2)["x"]  # shape of images
    """

    def __init__(
        self, model: nn.Module, rule: str = "epsilon", epsilon: float = 0.01, alpha: float = 2.0, beta: float = 1.0,
        validate_conservation: bool = True, conservation_tolerance: float = 0.01,
        custom_registry: LRPHandlerRegistry | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if options.get("compile"):
            raise ValueError("compile= is not offered here: lrp_plugin.UnifiedLRP(model, output='logit', compile=True)")
        told: dict[str, Any] = {"rule": rule, "epsilon": epsilon, "alpha": alpha, "beta": beta}
        if options.get("composite") is not None:  # what is given as it is by default was not asked for
            told = {key: value for key, value in told.items() if value != _DEFAULTS[key]}
        super().__init__(model, **told, **options)
        if conservation_tolerance < 0:
            raise ValueError(f"conservation_tolerance={conservation_tolerance}: legal are numbers >= 0 (0.01 is 1 %)")
        self.rule, self.epsilon, self.alpha, self.beta = rule, epsilon, alpha, beta
        self.validate_conservation = validate_conservation
        self.conservation_tolerance = conservation_tolerance
        self.handlers = create_default_registry() if custom_registry is None else custom_registry
        self.report: ConservationReport | None = None
        self._latest: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        if self.handlers.handlers:
            told = {"epsilon": epsilon, "alpha": alpha, "beta": beta}
            self.session = self.session.with_rules(*self.handlers.applied_to(self.composite, self.registry, rule, told))

    def attribute(  # type: ignore[override]
        self, inputs: Mapping[str, Tensor], target_class: Any = None, return_intermediates: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Relevance of every entry of every named input, in the units of the explained logit.

        Args:
            inputs: Parameter name of the model's forward -> tensor ``(N, ...)``; moved to the model's device. Integer
                tensors (token ids) get one relevance per token.
            target_class: An int (NumPy's, 0-d tensors too; negative ones count from the end) for all examples,
                a list or 1-d tensor with one for each, or None for each example's highest logit. Without
                effect on a model with one logit.
            return_intermediates: Also return the relevance at each layer's input.
            **kwargs: Handed to the model; they get no relevance.

        Returns:
            Input name -> relevance of that input's shape. With ``return_intermediates`` also
            ``"_intermediates"``: layer name -> relevance at its input, for every layer without sub-layers,
            in the order of execution; a layer that runs again is ``"name#2"``; a layer of several inputs
            has a tuple. A BatchNorm that a rule folds into its convolution has no entry.

        Raises:
            ValueError: No inputs, a value that is no tensor, a name that is no parameter, a target out of range.
            ConservationError: With ``strict``, where relevance went missing without account.
        """
        call, tensors = self._by_name(inputs, target_class, kwargs)
        self._latest = dict(inputs), kwargs
        layers = _LayerRecorder(tensors[0].shape[0], self.session.chooser.ports) if return_intermediates else None
        try:
            with evaluating(self.model):
                found = call.session.using(lambda passed: passed.relevance(), tensors, Arguments(), recorder=layers)
                relevances: dict[str, Any] = dict(zip(inputs, found))
                if self.validate_conservation:
                    self.report = ConservationReport(
                        attribution.UnifiedLRP.ledger(call, tensors), self.conservation_tolerance
                    )
        finally:
            for handler in self.handlers.handlers:
                handler.clear_cache()
        if self.validate_conservation and self.session.strict and self.report is not None:
            self.report.raise_on_violation()
        if layers is not None:
            relevances["_intermediates"] = layers.by_layer(self.model)
        return relevances

    def ledger(self, inputs: Mapping[str, Tensor], target_class: Any = None, **kwargs: Any) -> Ledger:  # type: ignore[override]
        """The account of one explanation. Arguments as in `attribute`."""
        call, tensors = self._by_name(inputs, target_class, kwargs)
        with evaluating(self.model):
            return attribution.UnifiedLRP.ledger(call, tensors)

    def plan(self, inputs: Mapping[str, Tensor], **kwargs: Any) -> Plan:  # type: ignore[override]
        """Which rule each operation will get; explains nothing. Arguments as in `attribute`."""
        call, tensors = self._by_name(inputs, None, kwargs)
        with evaluating(self.model):
            return attribution.UnifiedLRP.plan(call, tensors)

    @property
    def layer_order(self) -> list[tuple[str, nn.Module, LRPLayerHandler | None]]:
        """Name, module and handler of each layer without sub-layers in the order it ran in the latest explanation.

        Empty where nothing was explained yet. The handler is None where only this package knows a rule for the layer.
        """
        if self._latest is None:
            return []
        if self.validate_conservation and self.report is not None:
            paths = [row.path for row in self.report.ledger.rows]
        else:
            inputs, kwargs = self._latest
            paths = [site.path for site, _ in self.plan(inputs, **kwargs).entries]
        modules = dict(self.model.named_modules())
        ran = [path for path in dict.fromkeys(paths) if path in modules and not list(modules[path].children())]
        return [(path, modules[path], self.handlers.get_handler(modules[path])) for path in ran]

    @property
    def validator(self) -> ConservationValidator:
        """The latest report as PyHealth's validator; what biases and stabilizers took counts as kept."""
        found = ConservationValidator(self.conservation_tolerance)
        for check in self.report.checks if self.report is not None else ():
            found.validate(check.layer_name, check.sum_input + check.absorbed, check.sum_output, check.layer_type)
        return found

    def get_conservation_summary(self) -> dict[str, Any]:
        """The latest report in numbers (`ConservationReport.summary`); ``{"total_validations": 0}`` where there is none."""
        return {"total_validations": 0} if self.report is None else self.report.summary()

    def _by_name(
        self, inputs: Mapping[str, Tensor], target: Any, kwargs: dict[str, Any]
    ) -> tuple[attribution.UnifiedLRP, tuple[Tensor, ...]]:
        """A copy whose model takes the tensors by position and returns the explained number: threads share no state."""
        if not isinstance(inputs, Mapping) or not inputs:
            given = "empty" if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
            raise ValueError(f"inputs is {given}; give a dictionary such as {{'x': images}}")
        kinds = {name: type(value).__name__ for name, value in inputs.items() if not isinstance(value, Tensor)}
        if kinds:
            raise ValueError(f"inputs must be tensors, but {kinds} are not")
        check_keywords(getattr(self.model, "forward", self.model), [*inputs, *kwargs])
        parameter = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        tensors = tuple(t if parameter is None else t.to(parameter.device) for t in inputs.values())
        call = copy.copy(self)
        # A bound method: the engine finds the module paths through __self__.
        call.session = self.session.explaining(
            MethodType(_explained_number(tuple(inputs), target, kwargs, self.session.output), self.model)
        )
        return call, tensors


def _explained_number(
    names: tuple[str, ...], target: Any, kwargs: dict[str, Any], choose: OutputChoice
) -> Callable[..., Tensor]:
    def explained_number(model: Callable[..., Any], *tensors: Tensor) -> Tensor:
        returned = Arguments(names, (), kwargs).copied().call(model, tensors)
        logits = logits_of(returned if choose is None else chosen_output(returned, choose))
        indices = class_indices(target, logits.detach())
        return logits.gather(1, indices[:, None]).squeeze(1)

    return explained_number


class _LayerRecorder(Recorder):
    """Keeps relevance itself instead of its sums: one backward pass of the whole batch fills it.

    Args:
        examples: N.
        ports: The pass carries ports: what reaches an input and what reaches its port belong together.
    """

    def __init__(self, examples: int, ports: bool) -> None:
        super().__init__(examples)
        self.ports = ports
        self._received: dict[int, list[Tensor | None]] = {}

    def clear(self) -> None:
        """The pass is made again."""
        super().clear()
        self._received.clear()

    def input_sink(self, row: Row) -> Callable[[Tensor, Tensor], None]:
        """Keeps the relevance that the row's operation sends to one input."""
        received = self._received.setdefault(id(row), [])
        place = len(received)
        received.append(None)

        def sink(tensor: Tensor, multiplier: Tensor) -> None:
            received[place] = tensor.detach() * multiplier.detach()

        return sink

    def output_sink(self, row: Row, output: int, port: bool = False) -> Callable[[Tensor, Tensor], None]:
        """Nothing is kept of outputs."""
        return lambda tensor, multiplier: None

    def by_layer(self, model: Any) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Layer name to the relevance at its input."""
        leaves = {name for name, module in model.named_modules() if not list(module.children())}
        found: dict[str, Tensor | tuple[Tensor, ...]] = {}
        times: dict[str, int] = {}
        for row in self.rows:
            received = [tensor for tensor in self._received.get(id(row), []) if tensor is not None]
            if row.path not in leaves or not received or row.operation == "port":
                continue
            times[row.path] = times.get(row.path, 0) + 1
            name = row.path if times[row.path] == 1 else f"{row.path}#{times[row.path]}"
            if self.ports and len({tensor.shape for tensor in received}) == 1:
                received = [torch.stack(received).sum(0)]
            found[name] = received[0] if len(received) == 1 else tuple(received)
        return found
