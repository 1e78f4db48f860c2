"""PyHealth's layer handlers: a way to give a kind of layer one's own relevance, on top of this package's rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin import attribution
from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.primitives import Carrier, redistribute_with_port, substitute
from lrp_plugin.algebra.result import Result
from lrp_plugin.composites import Composite, Site, predicate
from lrp_plugin.composites import rule as rule_spec
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.pyhealth.conservation import ConservationValidator
from lrp_plugin.registry import Registry


class LRPLayerHandler(ABC):
    """How one kind of layer hands relevance to its input; ``name`` is for listings, unique in a registry.

    A handler carries relevance through layers that run one operation with a rule here (Conv2d, Linear, ReLU, pools,
    norms, ...). For a layer of several operations register rules for those (`lrp_plugin.register_rule`).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def supports(self, layer: nn.Module) -> bool:
        """Whether this handler is for that layer."""

    def forward_hook(  # noqa: B027 - a handler may need nothing of the forward pass
        self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor
    ) -> None:
        """Called in the forward pass, with detached tensors; remember here what `backward_relevance` needs."""

    @abstractmethod
    def backward_relevance(self, layer: nn.Module, relevance_output: Tensor, rule: str, **parameters: Any) -> Tensor:
        """Relevance of the layer's input, of its shape, given that of its output.

        Args:
            layer: The layer.
            relevance_output: Of the layer's output's shape, in the units of the explained output.
            rule: The rule `UnifiedLRP` was made with.
            **parameters: ``epsilon``, ``alpha`` and ``beta``.
        """

    def clear_cache(self) -> None:  # noqa: B027 - nor remember anything
        """Called after each explanation; forget here what `forward_hook` remembered."""

    def validate_conservation(
        self, relevance_input: Tensor, relevance_output: Tensor, tolerance: float = 0.01, layer_name: str = ""
    ) -> tuple[bool, float]:
        """Whether the layer kept each example's relevance, and the largest error of an example in percent."""
        found = ConservationValidator(tolerance).validate(layer_name, relevance_input, relevance_output, self.name)
        return found.valid, found.error_pct


class LRPHandlerRegistry(dict[str, LRPLayerHandler]):
    """Handlers by name, empty at first; the last registered that supports a layer is asked, before every built-in rule.

    Local to the `UnifiedLRP` that is made with it. Layers that no handler supports keep this package's rules.
    """

    def __init__(self) -> None:
        super().__init__()

    def register(self, handler: LRPLayerHandler) -> None:
        """Adds a handler, before all others; raises TypeError for anything else, ValueError where its name is taken."""
        if not isinstance(handler, LRPLayerHandler):
            raise TypeError(f"handler is a {type(handler).__name__}; give an object of a subclass of LRPLayerHandler")
        if handler.name in self:
            raise ValueError(f"a handler {handler.name!r} is registered already; unregister({handler.name!r}) it first")
        self[handler.name] = handler

    def unregister(self, name: str) -> None:
        """Removes a handler; raises KeyError where there is none of that name."""
        if name not in self:
            raise KeyError(f"no handler {name!r}; registered are: {', '.join(self.list_handlers()) or 'none'}")
        del self[name]

    def list_handlers(self) -> list[str]:
        """Names of the handlers, the first to be asked first."""
        return list(reversed(self))

    def get_handler(self, layer: nn.Module) -> LRPLayerHandler | None:
        """The handler for a layer; None where the built-in rules serve it."""
        return next((known for known in reversed(self.values()) if known.supports(layer)), None)

    @property
    def handlers(self) -> list[LRPLayerHandler]:
        """The handlers that replace a built-in rule, the first to be asked first."""
        return [known for known in reversed(self.values()) if not isinstance(known, BuiltInHandler)]

    def applied_to(
        self, composite: Composite, registry: Registry, rule: str, parameters: Mapping[str, Any]
    ) -> tuple[Composite, Registry]:
        """The composite and a copy of the registry with these handlers before everything else; they are told the rest."""
        own = registry.copy()
        operations = sorted({found.operation for found in registry if isinstance(found.operation, str)})
        for handler in reversed(self.handlers):
            name = f"handler {handler.name}"
            own.register(name, *operations, ports=True)(_formula(handler, rule, parameters))
            composite = composite.with_rule(predicate(partial(_serves, handler), name), rule_spec(name))
        return composite, own


def _serves(handler: LRPLayerHandler, site: Site) -> bool:
    return site.module is not None and handler.supports(site.module)


def _formula(handler: LRPLayerHandler, rule: str, parameters: Mapping[str, Any]) -> Any:
    running = ModulePaths(_formula)

    def carry(call: Call) -> Result:
        """Relevance by a handler of the user's."""
        layer = running.current()[1]
        signals = [tensor for tensor in (*call.args, *call.kwargs.values()) if call.is_signal(tensor)]
        assert layer is not None
        if len(signals) != 1:
            raise ValueError(
                f"handler {handler.name!r} got {call.operation!r} of {len(signals)} signals in "
                f"{type(layer).__name__}; a handler serves layers of one input"
            )
        value, port = call.native().detach(), call.port(signals[0])
        handler.forward_hook(layer, (signals[0].detach(),), value)

        def hand_on(relevance: Tensor) -> Tensor:
            received = handler.backward_relevance(layer, relevance, rule, **parameters)
            if received.shape != port.shape:
                raise ValueError(
                    f"backward_relevance returned {tuple(received.shape)} for an input of {tuple(port.shape)}; "
                    "relevance has the input's shape"
                )
            return received

        # A carrier of ones receives the relevance itself.
        relevance = Carrier(substitute(torch.ones_like(value), hand_on, port))
        return Result(*redistribute_with_port(value, [relevance], 0.0))

    return carry


class BuiltInHandler(LRPLayerHandler):
    """PyHealth's name for a kind of layer that this package's own rule serves; its pass asks the rule, not this object.

    Asked alone, it hands relevance through the layer by that rule.
    """

    layers: type[nn.Module] = nn.Module

    def __init__(self) -> None:
        super().__init__(type(self).__name__.replace("LRP", ""))
        self._inputs: dict[int, Tensor] = {}

    def supports(self, layer: nn.Module) -> bool:
        """Whether the layer is of this handler's kind."""
        return isinstance(layer, self.layers)

    def forward_hook(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> None:
        """Remembers the layer's input."""
        self._inputs[id(module)] = input[0].detach()

    def backward_relevance(self, layer: nn.Module, relevance_output: Tensor, rule: str, **parameters: Any) -> Tensor:
        """The built-in rule on this layer alone; raises ValueError where `forward_hook` was not called before."""
        if id(layer) not in self._inputs:
            raise ValueError(
                f"{self.name} has not seen the input of this {type(layer).__name__}: call forward_hook first"
            )

        def received(output: Tensor) -> Tensor:
            value = output.detach()
            return (output * torch.where(value == 0, 0, relevance_output / value)).flatten(1).sum(1)

        known = {name: value for name, value in parameters.items() if name in ("epsilon", "alpha", "beta", "gamma")}
        lrp = attribution.UnifiedLRP(layer, rule, **known)
        return lrp.attribute(self._inputs[id(layer)], target=received)

    def clear_cache(self) -> None:
        """Forgets the inputs."""
        self._inputs.clear()


def _serving(layers: type[nn.Module]) -> type[BuiltInHandler]:
    told = {"layers": layers, "__module__": __name__, "__doc__": f"`nn.{layers.__name__}`."}
    return type(f"{layers.__name__}LRPHandler", (BuiltInHandler,), told)


LinearLRPHandler = _serving(nn.Linear)
ReLULRPHandler = _serving(nn.ReLU)
EmbeddingLRPHandler = _serving(nn.Embedding)
Conv2dLRPHandler = _serving(nn.Conv2d)
MaxPool2dLRPHandler = _serving(nn.MaxPool2d)
AvgPool2dLRPHandler = _serving(nn.AvgPool2d)
AdaptiveAvgPool2dLRPHandler = _serving(nn.AdaptiveAvgPool2d)
FlattenLRPHandler = _serving(nn.Flatten)
BatchNorm2dLRPHandler = _serving(nn.BatchNorm2d)
DropoutLRPHandler = _serving(nn.Dropout)


def create_default_registry() -> LRPHandlerRegistry:
    """PyHealth's ten handlers by name, each served by this package's rule, as is every other layer."""
    registry = LRPHandlerRegistry()
    for kind in reversed(BuiltInHandler.__subclasses__()):
        if kind.__module__ == __name__:
            registry.register(kind())
    return registry
