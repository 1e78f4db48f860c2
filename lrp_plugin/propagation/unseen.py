"""Work that is not seen as a call: a ScriptModule, a custom autograd.Function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.primitives import substitute


def find_sources(tensor: Tensor, known: list[Tensor]) -> list[Tensor]:
    """The known signals that a tensor's autograd graph leads back to, nearest first; empty where there are none."""
    nodes = {id(node): (signal, node) for signal in known if (node := signal.grad_fn) is not None}
    sources: dict[int, Tensor] = {}
    stack: list[Any] = [tensor.grad_fn]
    visited: dict[int, Any] = {}
    while stack:
        node = stack.pop()
        if node is None or id(node) in visited:
            continue
        visited[id(node)] = node
        if id(node) in nodes:
            signal = nodes[id(node)][0]
            sources[id(signal)] = signal
            continue
        stack.extend(following for following, _ in node.next_functions)
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
        return torch.autograd.grad(tensor, sources, multiplier, retain_graph=True, allow_unused=True)

    return substitute(tensor, pullback, *receivers)


def refuse_reentrant_checkpoint(node: str, where: str) -> None:
    """Raises for the output of ``checkpoint(..., use_reentrant=True)``, which runs its segment without autograd."""
    if node.startswith("CheckpointFunction"):
        raise UnsupportedOperationError(
            f"{where} uses torch.utils.checkpoint with use_reentrant=True, whose segment autograd does not see; "
            "legal is use_reentrant=False"
        )
