"""Relevance inside the network: of a layer's entries, and of the inputs for one hidden unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradientXActivation, NeuronAttribution
from torch import Tensor, nn

from lrp_plugin.algebra.nests import map_tensors, tensors_in
from lrp_plugin.attribution.arguments import check_flags, read_arguments
from lrp_plugin.attribution.forwarding import ForwardingInside
from lrp_plugin.attribution.session import Explained, Pass, nothing_lost, recording
from lrp_plugin.attribution.unified import Inputs, UnifiedLRP
from lrp_plugin.composites import Choice, Site
from lrp_plugin.errors import told
from lrp_plugin.kinds import checked_layers
from lrp_plugin.plan import Plan
from lrp_plugin.propagation import Propagation
from lrp_plugin.propagation.tokens import port_of_tokens
from lrp_plugin.propagation.writes import value_of
from lrp_plugin.torch_private import formatted, function_modes, selected_unit, undynamoed


class Seen(NamedTuple):
    """A tensor that passed a layer: itself, what stands for it in the graph, and its port."""

    tensor: Tensor
    value: Tensor
    port: Tensor | None


class Watcher:
    """Keeps the signals that enter (or leave) layers in one pass; given to `Session.forward` as what looks into it.

    Args:
        layers: The modules; the last run of each counts.
        inputs: What enters is meant.
        starting: A layer in which nothing depends on the explained input is itself what is explained: Captum's language
            models are asked about an embedding whose ids are put together from constants.
    """

    def __init__(self, layers: Sequence[nn.Module], inputs: bool, starting: bool = False) -> None:
        self.layers = layers
        self.inputs = inputs
        self.starting = starting
        self.seen: list[list[Seen] | None] = [None] * len(layers)

    @contextmanager
    def __call__(self, mode: Propagation) -> Iterator[None]:
        """Hooks that listen to this pass alone: other threads', and passes within this one, are none of it."""
        self.seen = [None] * len(self.layers)
        with ExitStack() as stack:
            for place, layer in enumerate(self.layers):
                # Both are also called without keyword arguments, by threads that run the module as they are removed.
                if self.inputs:
                    hook: Any = layer.register_forward_pre_hook(
                        lambda _, args, kwargs=None, place=place: self._note(mode, place, (args, kwargs or {})),
                        with_kwargs=True,
                    )
                else:
                    hook = layer.register_forward_hook(
                        lambda _, args, output, place=place: self._note(mode, place, output)
                    )
                stack.callback(hook.remove)
            yield

    def _note(self, mode: Propagation, place: int, passed: Any) -> Any:
        running = (one for one in reversed(function_modes()) if isinstance(one, Propagation))
        if next(running, None) is not mode or mode.suspended:
            return None
        found = [item for tensor in tensors_in(passed, []) if (item := _seen(mode, tensor)) is not None]
        replaced = None
        if self.starting and not found and type(passed) in (Tensor, tuple, list, dict):
            replaced = _started(mode, passed)
            found = [item for tensor in tensors_in(replaced, []) if (item := _seen(mode, tensor)) is not None]
        self.seen[place] = found
        return replaced


def _started(mode: Propagation, passed: Any) -> Any:
    """``passed`` with its tensors as explained inputs: floating point, and integers (token ids) where all are."""
    tokens = not any(tensor.is_floating_point() for tensor in tensors_in(passed, []))

    def start(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            stand_in = tensor.detach().requires_grad_().clone()
            mode.start(stand_in, torch.ones_like(stand_in, requires_grad=True) if mode.ports else None)
        elif tokens and tensor.dtype != torch.bool:
            stand_in = tensor.clone()
            mode.start(stand_in, port_of_tokens(tensor), token=True)
        else:
            return tensor
        return stand_in

    mode.suspended = True
    try:
        return map_tensors(passed, start)
    finally:
        mode.suspended = False


def _seen(mode: Propagation, tensor: Tensor) -> Seen | None:
    if not mode.depends_on_input(tensor):
        return None
    # The hook runs under the mode: settling a waiting rule must not be intercepted as part of the model.
    mode.suspended = True
    try:
        value = value_of(mode, tensor)
        record = mode.signals.get(tensor)
        if record is not None:
            record.watched = True
    finally:
        mode.suspended = False
    return Seen(tensor, value, None if record is None else record.port)


def _relevance(selected: Tensor, seen: list[Seen] | None, name: str, zeros: bool) -> tuple[Tensor, ...]:
    """``R = t m(t) + m(port)`` of each tensor."""
    if not seen:
        raise ValueError(f"layer {name} holds nothing that depends on the explained input, or did not run")
    wanted = [t for item in seen for t in (item.value, item.port) if t is not None and t.requires_grad]
    with recording():
        gradients = torch.autograd.grad(
            selected, wanted, torch.ones_like(selected), retain_graph=True, allow_unused=True
        )
    found = {id(t): g for t, g in zip(wanted, gradients) if g is not None}
    if not found and not zeros:
        raise ValueError(
            f"the explained output does not depend on layer {name}; grad_kwargs={{'materialize_grads': True}} gives zeros"
        )
    results = []
    for tensor, value, port in seen:
        relevance = torch.zeros_like(tensor, dtype=selected.dtype)
        if id(value) in found:
            relevance = relevance + value.detach() * found[id(value)]
        if port is not None and id(port) in found:
            relevance = relevance + found[id(port)]
        results.append(relevance.detach().to(selected.dtype))
    return tuple(results)


def _explainer(forward_func: Callable[..., Any], options: dict[str, Any]) -> UnifiedLRP:
    if options.get("compile"):
        raise ValueError("compile= is not offered for layers and units: leave it out")
    return UnifiedLRP(forward_func, **options)


class LayerUnifiedLRP(ForwardingInside, LayerGradientXActivation):
    """Relevance at the input or the output of one or several layers, in Captum's form.

    Accepted wherever Captum asks for a method of layers (``LLMGradientAttribution``, ``NoiseTunnel``, ``TCAV``); its
    `attribute` takes what ``captum.attr.LayerLRP.attribute`` does, in that order.

    Args:
        forward_func: The model, or a callable.
        layer: A module, or a list of modules.
        device_ids: As in Captum; a DataParallel model is explained through its own module.
        options: As in `UnifiedLRP`: ``rule``, ``epsilon``, ``composite``, ... (``compile`` is not offered).

    Raises:
        ValueError: As `UnifiedLRP`, and for a layer that is no module.

    Examples::

        >>> LayerUnifiedLRP(model, model.layer4, composite="epsilon_plus").attribute(images, target=281)
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | list[nn.Module],
        device_ids: list[int] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        checked_layers(layer)
        self._lrp = _explainer(forward_func, options)
        LayerAttribution.__init__(self, forward_func, layer, device_ids)

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is activation times multiplier."""
        return True

    def has_convergence_delta(self) -> bool:
        """True: output - sum of the layer's relevance can be returned."""
        return True

    @undynamoed
    def attribute(  # type: ignore[override]
        self, inputs: Inputs, target: Any = None, additional_forward_args: Any = None,
        return_convergence_delta: bool = False, attribute_to_layer_input: bool = False, verbose: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None, forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Relevance of every entry of the layer, in the units of the explained output.

        Args:
            inputs: As in `UnifiedLRP.attribute`. target: Likewise. additional_forward_args: Likewise.
            return_convergence_delta: Also return output - sum of the layer's relevance, shape (N,), for each layer.
            attribute_to_layer_input: At the layer's input instead of its output.
            verbose: Print the plan: which rule each operation got.
            grad_kwargs: ``{"materialize_grads": True}``: zeros for a layer that the output does not depend on.
            forward_kwargs: As in `UnifiedLRP.attribute`.

        Returns:
            A tensor, or a tuple where the layer gives several; a list of those where ``layer`` is a list. A layer that
            runs several times is explained at its last run. A layer that does not depend on the inputs (learned queries,
            an embedding of ids that the model makes itself) has relevance too. With ``return_convergence_delta`` a pair
            of that and the delta, or the list of deltas.

        Raises:
            ValueError: Where a layer did not run or the output does not depend on it, for another ``grad_kwargs``.
        """
        checked_layers(self.layer)
        layers, zeros = self.layer if isinstance(self.layer, list) else [self.layer], _materializes(grad_kwargs)
        check_flags(
            return_convergence_delta=return_convergence_delta, verbose=verbose,
            attribute_to_layer_input=attribute_to_layer_input,
        )  # fmt: skip
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        watcher = Watcher(layers, attribute_to_layer_input, starting=True)
        plan: list[tuple[Site, Choice]] | None = [] if verbose else None
        names = [type(one).__name__ for one in layers]

        def explain(passed: Pass) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
            with nothing_lost(passed.mode):
                return passed.number, [_relevance(passed.number, *one, zeros) for one in zip(watcher.seen, names)]

        using = self._lrp.session.using
        selected, each = using(explain, inputs, arguments, target, exact=True, plan=plan, watch=watcher)
        if plan is not None:
            print(Plan(plan))
        found = [formatted(len(relevance) > 1, relevance) for relevance in each]
        one = slice(None) if isinstance(self.layer, list) else 0
        if not return_convergence_delta:
            return found[one]
        return found[one], [_delta(relevance, selected) for relevance in each][one]


def _delta(relevance: tuple[Tensor, ...], selected: Tensor) -> Tensor:
    if any(one.dim() == 0 or len(one) != len(selected) for one in relevance):
        shapes = " and ".join(str(tuple(one.shape)) for one in relevance)
        raise ValueError(
            f"return_convergence_delta: the layer's tensors of shape {shapes} are not of {len(selected)} examples, so no sum "
            "belongs to one of them; leave it out"
        )
    return Explained(relevance, selected.detach(), selected.shape).delta()


def _materializes(grad_kwargs: Any) -> bool:
    if grad_kwargs is not None and not isinstance(grad_kwargs, Mapping):
        raise ValueError(f"grad_kwargs={told(grad_kwargs)}: legal is a dict, {{'materialize_grads': True}}")
    unknown = sorted(map(told, set(grad_kwargs or {}) - {"materialize_grads", "allow_unused", "retain_graph"}))
    if unknown:
        raise ValueError(
            f"grad_kwargs: {', '.join(unknown)} means nothing here; legal is {{'materialize_grads': True}}"
        )
    return bool((grad_kwargs or {}).get("materialize_grads"))


class NeuronUnifiedLRP(ForwardingInside, NeuronAttribution):
    """Relevance of the inputs for one hidden unit, or for a channel: the unit takes the output's place.

    Args:
        forward_func: The model, or a callable.
        layer: The module that holds the unit.
        device_ids: As in Captum.
        options: As in `UnifiedLRP` (``compile`` is not offered).

    Raises:
        ValueError: As `UnifiedLRP`, and for a layer that is no module.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None, **options: Any
    ) -> None:
        if isinstance(layer, list):
            raise ValueError("layer is a list; legal is one module: the unit lies in one of them")
        checked_layers(layer)
        self._lrp = _explainer(forward_func, options)
        NeuronAttribution.__init__(self, forward_func, layer, device_ids)

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is signal times multiplier."""
        return True

    @undynamoed
    def attribute(  # type: ignore[override]
        self, inputs: Inputs, neuron_selector: Any, additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False, forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Relevance of every input entry for the unit's activation.

        Args:
            inputs: As in `UnifiedLRP.attribute`.
            neuron_selector: The unit's place behind the batch dimension (an int, a tuple of ints and slices), or a
                function of the layer's output that gives one number per example.
            additional_forward_args, forward_kwargs: Further arguments of the model, as in `UnifiedLRP.attribute`.
            attribute_to_neuron_input: The unit is meant at the layer's input.

        Returns:
            Relevance of the inputs' shapes; it sums to the unit's activation, less what was absorbed.

        Raises:
            ValueError: Where the layer did not run, or has no such unit.
        """
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        checked_layers(self.layer)
        check_flags(attribute_to_neuron_input=attribute_to_neuron_input)
        watcher = Watcher([self.layer], attribute_to_neuron_input)

        def explain(passed: Pass) -> Any:
            if not watcher.seen[0]:
                raise ValueError(
                    f"layer {type(self.layer).__name__} did not run, or nothing in it depends on the input"
                )
            with recording():
                unit = _unit(tuple(item.value for item in watcher.seen[0]), neuron_selector)
            return passed.explained.format(passed.relevance(unit))

        return self._lrp.session.using(explain, inputs, arguments, select=False, exact=True, watch=watcher)


def _unit(held: tuple[Tensor, ...], selector: Any) -> Tensor:
    """The unit's activation in each example, shape (N,)."""
    if isinstance(selector, np.generic):
        selector = selector.item()
    if isinstance(selector, bool) or not (isinstance(selector, (int, tuple)) or callable(selector)):
        raise ValueError(
            f"neuron_selector={told(selector)}: legal are an int, a tuple of ints and slices (the place behind the batch "
            "dimension), or a function of the layer's output"
        )
    shapes = " and ".join(str(tuple(one.shape)) for one in held)
    try:
        unit = selected_unit(held, selector)
    except (AssertionError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if callable(selector):
            raise
        raise ValueError(f"neuron_selector={told(selector)} is no unit of the layer's {shapes}: {error}") from error
    if not isinstance(unit, Tensor) or unit.dim() == 0:
        raise ValueError(
            f"neuron_selector gives {type(unit).__name__} without a batch dimension, of the layer's {shapes}"
        )
    return unit.reshape(unit.shape[0], -1).sum(1)
