"""Relevance inside the network: of a layer's entries, and of the inputs for one hidden unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from captum._utils.common import _format_output
from captum._utils.gradient import _verify_select_neuron
from captum.attr import LayerGradientXActivation, NeuronAttribution
from captum.attr._utils.attribution import LayerAttribution
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode

from lrp_plugin.arguments import read_arguments
from lrp_plugin.attribution import Inputs, UnifiedLRP
from lrp_plugin.call import map_tensors, tensors_in
from lrp_plugin.propagation import Propagation
from lrp_plugin.propagation.tokens import port_of_tokens


class Seen(NamedTuple):
    """A tensor that passed a layer: itself, what stands for it in the graph, and its port."""

    tensor: Tensor
    value: Tensor
    port: Tensor | None


@contextmanager
def watching(layers: Sequence[nn.Module], inputs: bool, starting: bool = False) -> Iterator[list[list[Seen]]]:
    """Fills one list per layer with the signals that enter (or leave) it; its last run counts, the hooks go with it.

    With ``starting``, a layer in which nothing depends on the explained input is itself what is explained: Captum's
    language models are asked about an embedding whose ids are put together from constants.
    """
    seen: list[list[Seen]] = [[] for _ in layers]

    def note(place: int, passed: Any) -> Any:
        mode = _get_current_function_mode()
        if not isinstance(mode, Propagation):  # a forward pass that explains nothing
            return None
        found = [item for tensor in tensors_in(passed, []) if (item := _seen(mode, tensor)) is not None]
        replaced = None
        if starting and not found and type(passed) in (Tensor, tuple, list, dict):
            replaced = _started(mode, passed)
            found = [item for tensor in tensors_in(replaced, []) if (item := _seen(mode, tensor)) is not None]
        seen[place] = found
        return replaced

    hooks = []
    for place, layer in enumerate(layers):
        if inputs:
            hooks.append(layer.register_forward_pre_hook(
                lambda _, args, kwargs, place=place: note(place, (args, kwargs)), with_kwargs=True
            ))  # fmt: skip
        else:
            hooks.append(layer.register_forward_hook(lambda _, args, output, place=place: note(place, output)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


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
        value = mode.value_of(tensor)
        record = mode.signals.get(tensor)
    finally:
        mode.suspended = False
    return Seen(tensor, value, None if record is None else record.port)


def _relevance(selected: Tensor, seen: list[Seen], name: str) -> tuple[Tensor, ...]:
    """``R = t m(t) + m(port)`` of each tensor."""
    if not seen:
        raise ValueError(f"layer {name} holds nothing that depends on the explained input, or did not run")
    wanted = [t for item in seen for t in (item.value, item.port) if t is not None and t.requires_grad]
    gradients = torch.autograd.grad(selected, wanted, torch.ones_like(selected), retain_graph=True, allow_unused=True)
    found = {id(t): g for t, g in zip(wanted, gradients) if g is not None}
    if not found:
        raise ValueError(f"the explained output does not depend on layer {name}")
    results = []
    for tensor, value, port in seen:
        relevance = torch.zeros_like(tensor, dtype=selected.dtype)
        if id(value) in found:
            relevance = relevance + value.detach() * found[id(value)]
        if port is not None and id(port) in found:
            relevance = relevance + found[id(port)]
        results.append(relevance.detach().to(selected.dtype))
    return tuple(results)


class LayerUnifiedLRP(LayerGradientXActivation):
    """Relevance at the input or the output of one or several layers, in Captum's form.

    Accepted wherever Captum asks for a gradient method of layers (``LLMGradientAttribution``).

    Args:
        forward_func: The model, or a callable.
        layer: A module, or a list of modules.
        device_ids: As in Captum; a DataParallel model is explained through its own module.
        options: As in `UnifiedLRP`: ``rule``, ``epsilon``, ``composite``, ...

    Examples::

        >>> LayerUnifiedLRP(model, model.layer4, composite="epsilon_plus").attribute(images, target=281)
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | list[nn.Module],
        device_ids: list[int] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        self.options = options
        UnifiedLRP(forward_func, **options)  # wrong options are told here

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is activation times multiplier."""
        return True

    def attribute(  # type: ignore[override]
        self, inputs: Inputs, target: Any = None, additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False, grad_kwargs: dict[str, Any] | None = None,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Relevance of every entry of the layer, in the units of the explained output.

        Args:
            inputs: As in `UnifiedLRP.attribute`. target: Likewise. additional_forward_args: Likewise.
            attribute_to_layer_input: At the layer's input instead of its output.
            grad_kwargs: Taken for Captum's sake; nothing in it is used.
            forward_kwargs: As in `UnifiedLRP.attribute`.

        Returns:
            A tensor, or a tuple where the layer gives several; a list of those where ``layer`` is a list. A layer that
            runs several times is explained at its last run. A layer that does not depend on the inputs (learned queries,
            an embedding of ids that the model makes itself) has relevance too.

        Raises:
            ValueError: Where a layer did not run or the output does not depend on it.
        """
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        lrp = UnifiedLRP(self.forward_func, **self.options)
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        with watching(layers, attribute_to_layer_input, starting=True) as seen:
            _, selected, _ = lrp._forward(inputs, target, arguments, keep=True)
        found = []
        for layer, items in zip(layers, seen):
            relevance = _relevance(selected, items, type(layer).__name__)
            found.append(_format_output(len(relevance) > 1, relevance))
        return found if isinstance(self.layer, list) else found[0]


class NeuronUnifiedLRP(NeuronAttribution):
    """Relevance of the inputs for one hidden unit, or for a channel: the unit takes the output's place.

    Args:
        forward_func: The model, or a callable.
        layer: The module that holds the unit.
        device_ids: As in Captum.
        options: As in `UnifiedLRP`.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None, **options: Any
    ) -> None:
        NeuronAttribution.__init__(self, forward_func, layer, device_ids)
        self.options = options
        UnifiedLRP(forward_func, **options)

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
            ValueError: Where the layer did not run.
        """
        lrp = UnifiedLRP(self.forward_func, **self.options)
        inputs, arguments = read_arguments(inputs, additional_forward_args, forward_kwargs)
        with watching([self.layer], attribute_to_neuron_input) as seen:
            explained, _, mode = lrp._forward(inputs, None, arguments, select=False, keep=True)
        if not seen[0]:
            raise ValueError(f"layer {type(self.layer).__name__} did not run, or nothing in it depends on the input")
        unit = _verify_select_neuron(tuple(item.value for item in seen[0]), neuron_selector)
        unit = unit.reshape(unit.shape[0], -1).sum(1)
        return explained.format(explained.relevance(mode, unit))
