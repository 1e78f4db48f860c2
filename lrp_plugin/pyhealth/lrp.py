"""PyHealth's spellings of layer-wise relevance propagation: inputs by keyword, one call, a dictionary back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from lrp_plugin import attribution
from lrp_plugin.attribution.arguments import Arguments, read_arguments
from lrp_plugin.attribution.every_layer import LayerRecorder
from lrp_plugin.attribution.inputs import check_choice
from lrp_plugin.attribution.inputs import checked as tensors_of
from lrp_plugin.attribution.session import Pass
from lrp_plugin.kinds import at_least, checked
from lrp_plugin.ledger import Ledger
from lrp_plugin.plan import Plan
from lrp_plugin.propagation.quiet import evaluating
from lrp_plugin.pyhealth.conservation import ConservationReport, ConservationValidator
from lrp_plugin.pyhealth.handlers import LRPHandlerRegistry, LRPLayerHandler, create_default_registry
from lrp_plugin.pyhealth.outputs import check_keywords, device_of, logits_of, number_of, takes_keyword
from lrp_plugin.pyhealth.visualizer import visualize_attribution

_DEFAULTS = {"rule": "epsilon", "epsilon": 0.01, "alpha": 2.0, "beta": 1.0}


class UnifiedLRP(attribution.UnifiedLRP):
    """`lrp_plugin.UnifiedLRP` under PyHealth's call (``pyhealth.interpret.methods.UnifiedLRP``).

    Args:
        model: Any ``nn.Module``. It may return a tensor ``(N, K)``, or a mapping with ``logit``, ``y_prob`` or ``y_pred``.
        rule, epsilon, alpha, beta: As there. The greater epsilon, the more relevance it absorbs; the report says how much.
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

    @checked
    def __init__(
        self, model: nn.Module | Callable[..., Any], rule: str = "epsilon", epsilon: float = 0.01, alpha: float = 2.0,
        beta: float = 1.0, validate_conservation: bool = True, conservation_tolerance: float = 0.01,
        custom_registry: LRPHandlerRegistry | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if options.get("compile"):
            raise ValueError("compile= is not offered here: lrp_plugin.UnifiedLRP(model, output='logit', compile=True)")
        told: dict[str, Any] = {"rule": rule, "epsilon": epsilon, "alpha": alpha, "beta": beta}
        if options.get("composite") is not None:  # what is given as it is by default was not asked for
            told = {key: value for key, value in told.items() if value != _DEFAULTS[key]}
        check_choice(choose := options.pop("output", None))
        super().__init__(model, **told, output=partial(logits_of, choose=choose), **options)
        at_least(0, conservation_tolerance=conservation_tolerance)
        self.rule, self.epsilon, self.alpha, self.beta = rule, epsilon, alpha, beta
        self.validate_conservation, self.conservation_tolerance = validate_conservation, conservation_tolerance
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
            target_class: An int (NumPy's, 0-d tensors too; negative ones count from the end) for all examples, a list or 1-d
                tensor with one for each, or None for each example's highest logit. Without effect on a model with one logit.
            return_intermediates: Also return the relevance at each layer's input.
            **kwargs: Handed to the model; they get no relevance.

        Returns:
            Input name -> relevance of that input's shape. With ``return_intermediates`` also ``"_intermediates"``: layer
            name -> relevance at its input, for every layer without sub-layers, in the order of execution; a layer that runs
            again is ``"name#2"``; one of several inputs has a tuple; a BatchNorm folded into its convolution has no entry.

        Raises:
            ValueError: No inputs, a value that is no tensor, a name that is no parameter, a target out of range.
            ConservationError: With ``strict``, where relevance went missing without account.
        """
        tensors, arguments = self._read(inputs, kwargs)
        self._latest, target = (dict(inputs), kwargs), partial(number_of, target_class)
        layers = LayerRecorder(len(tensors[0]), self.session.chooser.ports) if return_intermediates else None
        try:
            with evaluating(self.model):
                found = self.session.using(Pass.relevance, tensors, arguments, target, recorder=layers)
                if self.validate_conservation:
                    ledger = super().ledger(tensors, target, arguments)
                    self.report = ConservationReport(ledger, self.conservation_tolerance)
        finally:
            for handler in self.handlers.handlers:
                handler.clear_cache()
            if layers is not None:
                layers.close()
        if self.validate_conservation and self.session.strict and self.report is not None:
            self.report.raise_on_violation()
        relevances: dict[str, Any] = dict(zip(inputs, found))
        return relevances if layers is None else {**relevances, "_intermediates": layers.by_layer(self.model)}

    def ledger(self, inputs: Mapping[str, Tensor], target_class: Any = None, **kwargs: Any) -> Ledger:  # type: ignore[override]
        """The account of one explanation. Arguments as in `attribute`."""
        tensors, arguments = self._read(inputs, kwargs)
        return super().ledger(tensors, partial(number_of, target_class), arguments)

    def plan(self, inputs: Mapping[str, Tensor], **kwargs: Any) -> Plan:  # type: ignore[override]
        """Which rule each operation will get; explains nothing. Arguments as in `attribute`."""
        return super().plan(*self._read(inputs, kwargs))

    @property
    def layer_order(self) -> list[tuple[str, nn.Module, LRPLayerHandler | None]]:
        """Name, module and handler of each layer without sub-layers in the order it ran in the latest explanation.

        Empty where nothing was explained yet. The handler is None where only this package knows a rule for the layer.
        """
        if self._latest is None:
            return []
        inputs, kwargs = self._latest
        paths = dict.fromkeys(site.path for site, _ in self.plan(inputs, **kwargs).entries)
        modules = {name: module for name, module in self.model.named_modules() if not list(module.children())}
        return [(path, modules[path], self.handlers.get_handler(modules[path])) for path in paths if path in modules]

    @property
    def validator(self) -> ConservationValidator:
        """The latest report, or an empty validator; what biases and stabilizers took counts as kept."""
        return ConservationValidator(self.conservation_tolerance) if self.report is None else self.report

    def get_conservation_summary(self) -> dict[str, Any]:
        """The latest report in numbers (`ConservationReport.get_summary`); ``{"total_validations": 0}`` where there is none."""
        return {"total_validations": 0} if self.report is None else self.report.get_summary()

    def _read(self, inputs: Mapping[str, Tensor], kwargs: dict[str, Any]) -> tuple[tuple[Tensor, ...], Arguments]:
        """The explained tensors on the model's device, and what else the model is called with."""
        if not isinstance(inputs, Mapping) or not inputs:
            given = "empty" if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
            raise ValueError(f"inputs is {given}; give a dictionary such as {{'x': images}}")
        check_keywords(getattr(self.model, "forward", self.model), [*inputs, *kwargs])
        found, arguments = read_arguments(inputs, None, kwargs)
        device = device_of(self.model)
        return tuple(tensor.to(device or tensor.device) for tensor in tensors_of(found)), arguments


class LayerwiseRelevancePropagation(UnifiedLRP):
    """The spelling of PyHealth's pull request 900, for its models: a batch by keyword, the target as ``target_class_idx``.

    Args:
        model: Its ``feature_keys`` (or ``image_key``) say which entries of a batch are inputs; without them the
            parameters that its forward names, else every tensor that is no label (``label_keys``, ``label_key``).
        rule, epsilon, alpha, beta: As in `UnifiedLRP`, alpha and beta being 1 and 0 unless given.
        use_embeddings: Explain integer inputs (codes, tokens) through their embeddings, one relevance each. False
            refuses them.
        **options: Further options of `UnifiedLRP`; ``validate_conservation`` is False unless given.
    """

    def __init__(
        self, model: nn.Module, rule: str = "epsilon", epsilon: float = 0.01, alpha: float = 1.0, beta: float = 0.0,
        use_embeddings: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, rule, epsilon, alpha, beta, **{"validate_conservation": False, **options})
        self.use_embeddings = use_embeddings

    def attribute(self, target_class_idx: Any = None, **batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Relevance of every input of a batch, in the units of the explained logit.

        Args:
            target_class_idx: As ``target_class`` of `UnifiedLRP.attribute`.
            **batch: Inputs, each ``(N, ...)``; labels and whatever else the model takes get no relevance.

        Returns:
            Input name -> relevance of that input's shape.

        Raises:
            ValueError: The batch holds no input, or an integer one with ``use_embeddings=False``.
        """
        names = self._inputs({name: value for name, value in batch.items() if isinstance(value, Tensor)})
        if not names:
            raise ValueError(
                f"the batch holds {', '.join(batch) or 'nothing'}: no tensor that the model takes for input"
            )
        whole = [name for name in names if not batch[name].is_floating_point()]
        if whole and not self.use_embeddings:
            raise ValueError(f"{', '.join(whole)} are integers: they are explained through their embeddings only; "
                             "give use_embeddings=True, or floating-point inputs")  # fmt: skip
        inputs = {name: batch.pop(name) for name in names}
        return super().attribute(inputs, target_class_idx, **batch)

    __call__ = attribute
    visualize = staticmethod(visualize_attribution)

    def _inputs(self, tensors: dict[str, Tensor]) -> list[str]:
        stated = getattr(self.model, "feature_keys", None) or getattr(self.model, "image_key", None)
        if stated:
            return [name for name in tensors if name in ([stated] if isinstance(stated, str) else stated)]
        labels = {*(getattr(self.model, "label_keys", None) or ()), getattr(self.model, "label_key", None)}
        forward = self.model.forward
        own = [name for name in tensors if name in inspect.signature(forward).parameters]
        return [name for name in own or tensors if name not in labels and takes_keyword(forward, name)]
