"""The explained inputs and output of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrp_plugin.algebra.looks import Looks
from lrp_plugin.algebra.primitives import ForgottenSourceError
from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.errors import told
from lrp_plugin.propagation.tokens import port_of_tokens
from lrp_plugin.propagation.writes import value_of

if TYPE_CHECKING:
    from lrp_plugin.propagation import Propagation


OUTPUT_NAMES = ("logits", "logit", "y_prob", "out", "last_hidden_state")
"""What is explained of a model that returns a dict or a dataclass: the first of these that it holds."""

OutputChoice = str | int | Callable[[Any], Any] | None
"""What is explained of what a model returns: a key or attribute, a place in a tuple, a function of it, or the default."""


class ExplainedInputs:
    """Differentiable stand-ins for the inputs; the user's tensors are never written to.

    Args:
        inputs: A tensor or a tuple of tensors, the first dimension the examples.
        arguments: What else the model is called with.
        ports: Start a port at each floating-point input.
        looks: What the pass asks of entries.

    Raises:
        ValueError: Without a tensor, for NaN in one, for inputs that are neither floating point nor integer.
    """

    def __init__(self, inputs: Any, arguments: Arguments, ports: bool, looks: Looks) -> None:
        self.is_tuple = isinstance(inputs, tuple)
        self.arguments = arguments
        given = checked(inputs)
        check_finite(given, looks)
        self.originals = [_plain(tensor) for tensor in given]
        self.leaves: list[Tensor | None] = []
        self.ports: list[Tensor | None] = []
        self.handed: list[Tensor] = []
        for tensor in self.originals:
            leaf = tensor.requires_grad_() if tensor.is_floating_point() else None
            self.leaves.append(leaf)
            # A copy that is no leaf: a model may write to its input in place, the user's memory stays as it is.
            self.handed.append(tensor.clone())
            port = None
            if ports or leaf is None:
                port = torch.ones_like(tensor, requires_grad=True) if leaf is not None else port_of_tokens(tensor)
            self.ports.append(port)

    def declare(self, mode: Propagation) -> None:
        """Tells the propagation what its signals are."""
        for handed, leaf, port in zip(self.handed, self.leaves, self.ports):
            mode.start(handed, port, token=leaf is None)

    def run(self, model: Any, choose: OutputChoice) -> Any:
        """What the model returns for the stand-ins, or what ``choose`` takes of it; under the propagation."""
        try:
            output = self.arguments.copied().call(model, self.handed)
        except (RuntimeError, ValueError) as error:
            self._suspect_one_image(model, error)
            raise
        return output if choose is None else chosen_output(output, choose)

    def _suspect_one_image(self, model: Any, error: Exception) -> None:
        """Says so where the model failed on what seems to be one image, of shape (C, H, W)."""
        kinds = {type(module) for module in model.modules()} if isinstance(model, nn.Module) else set()
        if self.handed[0].dim() == 3 and nn.Conv2d in kinds and nn.Conv1d not in kinds:
            shape = tuple(self.handed[0].shape)
            raise ValueError(
                f"the model failed on the input of shape {shape}: it seems to be one image without a batch dimension; "
                f"pass image[None] ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            ) from error

    def format(self, relevances: Sequence[Tensor]) -> Any:
        """Relevance in the inputs' own form."""
        return self.arguments.format(relevances, self.is_tuple)

    def relevance(
        self, mode: Propagation, selected: Tensor, seed: Tensor | None = None, retain: bool = False
    ) -> tuple[Tensor, ...]:
        """One backward pass: ``R = x m(x) + p m(p)`` for each input."""
        wanted = [t for t in (*self.leaves, *self.ports) if t is not None]
        seed = torch.ones_like(selected) if seed is None else seed
        gradients = torch.autograd.grad(selected, wanted, seed, retain_graph=retain, allow_unused=True)
        if all(gradient is None for gradient in gradients):  # the output is a signal, so its relevance was lost
            raise ForgottenSourceError
        found = {id(tensor): gradient for tensor, gradient in zip(wanted, gradients)}
        with torch.no_grad():
            return tuple(self._one(place, found, selected.dtype) for place in range(len(self.originals)))

    def _one(self, place: int, found: Mapping[int, Tensor | None], dtype: torch.dtype) -> Tensor:
        leaf, port = self.leaves[place], self.ports[place]
        direct = None if leaf is None else found.get(id(leaf))
        ported = None if port is None else found.get(id(port))
        original = self.originals[place]
        if direct is None and ported is None:
            return torch.zeros_like(original, dtype=original.dtype if leaf is not None else dtype)
        if direct is None:
            assert ported is not None
            return ported.to(dtype if leaf is None else original.dtype)
        relevance = original.detach() * direct
        return relevance if ported is None else relevance + ported


def checked(inputs: Any) -> tuple[Tensor, ...]:
    """The inputs as a tuple of tensors.

    Their first dimensions count examples, nodes, edges, what the model takes: the output says what is explained.

    Raises:
        ValueError: For anything else.
    """
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if not given or not all(isinstance(tensor, Tensor) for tensor in given):
        kinds = ", ".join(type(item).__name__ for item in given) or "nothing"
        raise ValueError(f"inputs must be a tensor or a tuple of tensors, got {kinds}")
    for place, tensor in enumerate(given):
        if tensor.is_quantized:
            raise ValueError(
                f"input {place} is quantized ({tensor.dtype}): integers pass no gradient; explain the float model that was "
                "quantized, with input.dequantize()"
            )
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"input {place} is {tensor.dtype}; legal are floating point, and integers for tokens")
        if tensor.dim() == 0 or tensor.shape[0] == 0:
            shape = tuple(tensor.shape)
            raise ValueError(f"input {place} of shape {shape} holds no example: its first dimension counts them")
    return given


def check_finite(inputs: Sequence[Tensor], looks: Looks) -> None:
    """Raises ``ValueError`` for NaN or infinity in an input, in ``looks.settle`` where it lies on another device."""

    def suspect(place: int, tensor: Tensor) -> None:
        if not torch.isfinite(tensor).all():  # finite entries' sum may overflow
            raise ValueError(f"input {place} of shape {tuple(tensor.shape)} holds NaN or infinite entries")

    for place, tensor in enumerate(inputs):
        if tensor.is_floating_point():  # one step, where a look at each entry takes five (3 ms for 8 images)
            looks.ask(lambda t=tensor: ~torch.isfinite(t.sum()), partial(suspect, place, tensor))  # type: ignore[misc]


def _plain(tensor: Tensor) -> Tensor:
    detached = tensor.detach()
    return detached.clone() if detached.is_inference() else detached


def explained_value(mode: Propagation, output: Any) -> Tensor:
    """The differentiable tensor that stands for what the model returned.

    Raises:
        ValueError: Where it does not depend on the explained input.
    """
    tensor = _tensor_of(output)
    if not mode.depends_on_input(tensor):
        raise ValueError(
            "the model's output does not depend on the explained input: it was detached, computed under "
            "torch.no_grad(), or reads other tensors; integer inputs must reach an embedding or a cast"
        )
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(
            f"the model returned {str(tensor.dtype).removeprefix('torch.')}: only floating-point numbers are explained"
        )
    return value_of(mode, tensor)


def _tensor_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    for name in OUTPUT_NAMES:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    first = output[0] if isinstance(output, (tuple, list)) and output else None
    if isinstance(first, Tensor):
        return first
    raise ValueError(
        f"the model returned {described(output)}, without any of {', '.join(OUTPUT_NAMES)}: say which tensor is "
        "explained by output=, a name in it, a place (int), or a function of it"
    )


def check_choice(choose: Any) -> None:
    """Raises ``ValueError`` for an ``output=`` that is none of what is legal."""
    if choose is not None and not isinstance(choose, (str, int)) and not callable(choose):
        raise ValueError(
            f"output={told(choose)}; legal are a name (str), a place in a tuple (int), a function, or None"
        )


def chosen_output(output: Any, choose: str | int | Callable[[Any], Any]) -> Tensor:
    """The tensor that ``output=`` names in what the model returned.

    Raises:
        ValueError: Where it is not there, or is no tensor.
    """
    if callable(choose):
        found = choose(output)
    elif isinstance(choose, int):
        found = output[choose] if _has_place(output, choose) else None
    else:
        found = output.get(choose) if isinstance(output, Mapping) else getattr(output, choose, None)
    if isinstance(found, Tensor):
        return found
    what = "the function given" if callable(choose) else told(choose)
    raise ValueError(
        f"output={what} gives {type(found).__name__}, not a tensor; the model returned {described(output)}; legal are a "
        "name or a place (int) of a tensor in it, or a function of it that returns one"
    )


def _has_place(output: Any, place: int) -> bool:
    return isinstance(output, (tuple, list)) and -len(output) <= place < len(output)


def described(output: Any) -> str:
    """The type of what a model returned, and its tensors' names or number."""
    kind = type(output).__name__
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        return f"a {kind} of {len(output)} ({', '.join(type(item).__name__ for item in output)})"
    held = output if isinstance(output, Mapping) else getattr(output, "__dict__", None) or {}
    names = [str(name) for name in held] or list(getattr(output, "_fields", ()))
    return f"a {kind} of {', '.join(names)}" if names else f"a {kind}"
