"""Work that is not seen as a call: a ScriptModule, a custom autograd.Function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.primitives import ForgottenSourceError, Mark, substitute
from lrp_plugin.errors import UnsupportedOperationError

if TYPE_CHECKING:
    pass


_COPIES = (Tensor.clone, torch.clone)
HANDED_ON = frozenset((*_COPIES, Tensor.view_as))
"""What torch calls where a custom autograd.Function returns a tensor as it was given, or a copy."""


def is_handed_on(function: Any, args: Any) -> bool:
    """Whether the call may be a custom autograd.Function's that returns a tensor as it was given, or a copy of it.

    For a tensor returned as it is torch itself calls ``x.view_as(x)`` there.
    """
    if torch.is_grad_enabled():
        return False
    return function in _COPIES or (function is Tensor.view_as and len(args) == 2 and args[0] is args[1])


def find_sources(tensor: Tensor, known: list[Tensor]) -> list[Tensor]:
    """The known signals that a tensor's autograd graph leads back to, nearest first; empty where there are none.

    Raises:
        ForgottenSourceError: Where the way leads through the value of a map whose rule waited, and the value is gone.
    """
    # The nodes are held to the end: a node's Python object lives as long as it is, and its address is another's then.
    made = [(signal.grad_fn, signal) for signal in known if signal.grad_fn is not None]
    outputs = {(id(node), signal.output_nr): signal for node, signal in made}
    sources: dict[int, Tensor] = {}
    stack: list[Any] = [(tensor.grad_fn, tensor.output_nr)]
    expanded: dict[int, Any] = {}  # holds the nodes, so that their addresses stay theirs
    while stack:
        node, place = stack.pop()
        if node is None:
            continue
        if (id(node), place) in outputs:
            signal = outputs[id(node), place]
            sources[id(signal)] = signal
        elif isinstance(node, Mark._backward_cls):  # type: ignore[attr-defined]
            raise ForgottenSourceError
        elif id(node) not in expanded:
            expanded[id(node)] = node
            stack.extend(node.next_functions)
    return list(sources.values())


def cut(tensor: Tensor, sources: list[Tensor], receivers: list[Tensor]) -> Tensor:
    """The same value, with the unseen piece's native gradient taken as one operation from ``sources``.

    So the ledger can tell what this piece sent to each source, apart from what other operations send there.

    Args:
        tensor: What the piece returned.
        sources: The tensors it read.
        receivers: What stands for each of them, and receives its multiplier.
    """

    def pullback(multiplier: Tensor) -> tuple[Tensor | None, ...]:
        with _ending_at(sources):
            return torch.autograd.grad(tensor, sources, multiplier, retain_graph=True, allow_unused=True)

    return substitute(tensor.detach(), pullback, *receivers)


@contextmanager
def _ending_at(sources: list[Tensor]) -> Iterator[None]:
    """Meanwhile gradients end at the sources: one that was made from another must not send it this piece's part twice.

    autograd.grad hands out a tensor's gradient before its node's own hooks run, so what they zero is only what would
    flow on from there.
    """
    ends: dict[int, tuple[Any, set[int]]] = {}
    for source in sources:
        if source.grad_fn is not None:
            ends.setdefault(id(source.grad_fn), (source.grad_fn, set()))[1].add(source.output_nr)

    def ending(places: set[int]) -> Any:
        def end(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            return tuple(
                torch.zeros_like(gradient) if gradient is not None and place in places else gradient
                for place, gradient in enumerate(gradients)
            )

        return end

    hooks = [node.register_prehook(ending(places)) for node, places in ends.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def refuse_reentrant_checkpoint(node: str, where: str) -> None:
    """Raises for the output of ``checkpoint(..., use_reentrant=True)``, which runs its segment without autograd."""
    if node.startswith("CheckpointFunction"):
        raise UnsupportedOperationError(
            f"{where} uses torch.utils.checkpoint with use_reentrant=True, whose segment autograd does not see; "
            "legal is use_reentrant=False"
        )
