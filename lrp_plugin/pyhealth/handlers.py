"""PyHealth's layer handlers: a way to give a kind of layer one's own relevance, on top of this package's rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lrp_plugin import attribution
from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.result import Result
from lrp_plugin.composites import Composite, Site, predicate
from lrp_plugin.composites import rule as rule_spec
from lrp_plugin.propagation.paths import ModulePaths
from lrp_plugin.propagation.quiet import evaluating
from lrp_plugin.pyhealth.conservation import ConservationValidator
from lrp_plugin.registry import Registry


class LRPLayerHandler(ABC):
    """How one kind of layer hands relevance to its input.

    A handler carries relevance through layers that run one operation with a rule here (Conv2d, Linear, ReLU, pools,
    norms, ...). For a layer of several operations register rules for those (`lrp_plugin.register_rule`).

    Args:
        name: For listings, unique in a registry.
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
        return found["valid"], found["error_pct"]


class _Handled(Function):
    """The layer's value and a port; backward, the handler's relevance for the input's port."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, hand_on: Any, port: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(value, port)
        ctx.hand_on = hand_on
        ctx.set_materialize_grads(False)
        return value.detach(), torch.ones_like(value)

    @staticmethod
    def backward(ctx: Any, multiplier: Tensor | None, relevance: Tensor | None) -> Any:  # type: ignore[override]
        value, port = ctx.saved_tensors
        total = torch.zeros_like(value) if multiplier is None else value * multiplier
        received = ctx.hand_on(total if relevance is None else total + relevance)
        if received.shape != port.shape:
            raise ValueError(
                f"backward_relevance returned {tuple(received.shape)} for an input of {tuple(port.shape)}; "
                "relevance has the input's shape"
            )
        return None, None, received


class LRPHandlerRegistry:
    """Handlers, empty at first; the last registered that supports a layer is asked, before every built-in rule.

    Local to the `UnifiedLRP` that is made with it. Layers that no handler supports keep this package's rules.
    """

    def __init__(self) -> None:
        self._handlers: list[LRPLayerHandler] = []

    def register(self, handler: LRPLayerHandler) -> None:
        """Adds a handler, before all others; raises TypeError for anything else, ValueError where its name is taken."""
        if not isinstance(handler, LRPLayerHandler):
            raise TypeError(f"handler is a {type(handler).__name__}; give an object of a subclass of LRPLayerHandler")
        if handler.name in [known.name for known in self._handlers]:
            raise ValueError(f"a handler {handler.name!r} is registered already; unregister({handler.name!r}) it first")
        self._handlers.insert(0, handler)

    def unregister(self, name: str) -> None:
        """Removes a handler; raises KeyError where there is none of that name."""
        kept = [known for known in self._handlers if known.name != name]
        if len(kept) == len(self._handlers):
            known = ", ".join(handler.name for handler in self._handlers)
            raise KeyError(f"no handler {name!r}; registered are: {known or 'none'}")
        self._handlers = kept

    def get_handler(self, layer: nn.Module) -> LRPLayerHandler | None:
        """The handler for a layer; None where the built-in rules serve it."""
        return next((known for known in self._handlers if known.supports(layer)), None)

    def list_handlers(self) -> list[str]:
        """Names of the handlers, the first to be asked first."""
        return [known.name for known in self._handlers]

    def clear(self) -> None:
        """Removes all handlers."""
        self._handlers = []

    @property
    def handlers(self) -> tuple[LRPLayerHandler, ...]:
        """The handlers that replace a built-in rule, the first to be asked first."""
        return tuple(known for known in self._handlers if not isinstance(known, BuiltInHandler))

    def __len__(self) -> int:
        """How many names `list_handlers` returns."""
        return len(self.list_handlers())

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
        inputs = self._inputs[id(layer)]
        with torch.no_grad(), evaluating(layer):
            output = layer(inputs)
        multiplier = torch.where(output == 0, 0, relevance_output / output)

        def explained(x: Tensor) -> Tensor:
            return (layer(x) * multiplier).flatten(1).sum(1, keepdim=True)

        known = {name: value for name, value in parameters.items() if name in ("epsilon", "alpha", "beta", "gamma")}
        return attribution.UnifiedLRP(explained, rule, **known).attribute(inputs, target=0)

    def clear_cache(self) -> None:
        """Forgets the inputs."""
        self._inputs.clear()


def _serving(layers: type[nn.Module]) -> type[BuiltInHandler]:
    name = f"{layers.__name__}LRPHandler"
    return type(
        name, (BuiltInHandler,), {"layers": layers, "__module__": __name__, "__doc__": f"`nn.{layers.__name__}`."}
    )


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
        value = call.native().detach()
        handler.forward_hook(layer, (signals[0].detach(),), value)

        def hand_on(relevance: Tensor) -> Tensor:
            return handler.backward_relevance(layer, relevance, rule, **parameters)

        return Result(*_Handled.apply(value, hand_on, call.port(signals[0])))

    return carry
