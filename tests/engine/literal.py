"""LRP written out, layer by layer, with explicit matrices: slow, and independent of the package.

Runs a `Graph` one example at a time. Every slot is a vector, every map a matrix ``M`` and a vector ``b`` of its own
(found by running the layer on unit vectors), every sum a loop over units. Relevance, not a multiplier, is propagated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin.testing import Graph, GraphNetwork, Step

STABILIZER = 1e-9
FOLDING = ("zplus", "gamma", "alphabeta")


@dataclass
class Node:
    """A value that one step made: its entries, and how its relevance is shared among its sources.

    Args:
        value: Entries, shape (C, H, W).
        sources: The nodes it was made from.
        share: From this node's relevance (flat) to that of each source (flat).
        matrix, bias: For convolutions, also with BatchNorms folded in, of the flat source. (A linear layer over the
            last dimension has other channels than the BatchNorm2d behind it: nothing is folded there.)
        relevance: What has arrived.
    """

    value: Tensor
    sources: list[Node] = field(default_factory=list)
    share: Callable[[Tensor], list[Tensor]] | None = None
    matrix: Tensor | None = None
    bias: Tensor | None = None
    relevance: Tensor = field(default_factory=lambda: torch.zeros(()))


def signed(z: Tensor, amount: float) -> Tensor:
    """``z + amount * sign(z)``, sign(0) = 1."""
    return torch.where(z >= 0, z + amount, z - amount)


def share_map(
    rule: str, matrix: Tensor, bias: Tensor, x: Tensor, relevance: Tensor, numbers: dict[str, float]
) -> Tensor:
    """The relevance of a linear map's inputs, unit by unit.

    Args:
        rule: ``"epsilon"``, ``"zplus"``, ``"gamma"``, ``"alphabeta"``.
        matrix: Shape (J, I). bias: Shape (J,).
        x: Shape (I,). relevance: Shape (J,).
        numbers: ``epsilon``, ``gamma``, ``alpha``, ``beta``.
    """
    received = torch.zeros_like(x)
    for weights, offset, arriving in zip(matrix, bias, relevance):
        parts = torch.cat([weights * x, offset.reshape(1)])  # the bias is one more contribution
        up, down = parts.clamp(min=0), parts.clamp(max=0)
        z = parts.sum()
        if rule == "epsilon":
            received += parts[:-1] * arriving / signed(z, numbers["epsilon"])
        elif rule == "zplus":
            received += _part(up, arriving)
        elif rule == "gamma":
            favoured = parts + numbers["gamma"] * (up if z >= 0 else down)
            received += _part(favoured, arriving)
        else:
            alpha = 1.0 if not down.any() else 0.0 if not up.any() else numbers["alpha"]
            received += _part(up, alpha * arriving) + _part(down, (1 - alpha) * arriving)
    return received


def _part(contributions: Tensor, arriving: Tensor) -> Tensor:
    total = contributions.sum()
    if total == 0:  # nothing there can receive relevance
        return torch.zeros_like(contributions[:-1])
    return contributions[:-1] * arriving / signed(total, STABILIZER)


def matrix_of(layer: Callable[[Tensor], Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """The matrix and the offset of an affine function of one example."""
    size = shape.numel()
    offset = layer(torch.zeros(1, *shape, dtype=torch.float64)).reshape(-1)
    columns = layer(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1)
    return (columns - offset).T, offset


class Interpreter:
    """Runs a network of `lrp_plugin.testing` on one example and propagates its relevance.

    Args:
        network: The network.
        rule: The rule of linear maps. numbers: Its parameters.
    """

    def __init__(self, network: GraphNetwork, rule: str, **numbers: float) -> None:
        self.network = network
        self.graph: Graph = network.graph
        self.rule = rule
        self.numbers = numbers
        self.order: list[Node] = []

    @torch.no_grad()
    def relevance(self, example: Tensor, target: int) -> Tensor:
        """Relevance of the input, shape (C, H, W)."""
        self.order = []
        start = self._made(Node(example))
        slots = [start]
        for place, step in enumerate(self.graph.steps):
            node = self._step(step, self.network.layer_of(place), [slots[source] for source in step.sources])
            if step.spelling == "inplace":
                overwritten = slots[step.sources[0]]
                slots = [node if slot is overwritten else slot for slot in slots]
            slots.append(node)
        end = self._map(self.network.head, slots[-1], flat=True)
        end.relevance = torch.zeros_like(end.relevance)
        end.relevance[target] = end.value.reshape(-1)[target]
        for node in reversed(self.order):
            if node.share is not None:
                for source, part in zip(node.sources, node.share(node.relevance)):
                    source.relevance = source.relevance + part
        return start.relevance.reshape(example.shape)

    def _made(self, node: Node) -> Node:
        node.relevance = torch.zeros(node.value.numel(), dtype=torch.float64)
        self.order.append(node)
        return node

    def _step(self, step: Step, layer: nn.Module | None, sources: list[Node]) -> Node:
        source = sources[0]
        if step.kind in ("conv", "linear"):
            assert layer is not None
            return self._map(layer, source, folds=step.kind == "conv")
        if step.kind == "batch_norm":
            assert layer is not None
            return self._batch_norm(layer, source)
        if step.kind == "relu":
            return self._made(Node(source.value.clamp(min=0), sources, lambda r: [r]))
        if step.kind == "max_pool":
            return self._max_pool(step, source)
        if step.kind == "avg_pool":
            return self._average(step, source)
        if step.kind == "cat":
            sizes = [node.value.numel() for node in sources]
            value = torch.cat([node.value for node in sources])
            return self._made(Node(value, sources, lambda r: list(r.split(sizes))))
        value = source.value + sources[1].value
        parts = [torch.where(value == 0, 0, node.value / torch.where(value == 0, 1, value)) for node in sources]
        return self._made(Node(value, sources, lambda r: [part.reshape(-1) * r for part in parts]))

    def _map(self, layer: Callable[[Tensor], Tensor], source: Node, flat: bool = False, folds: bool = False) -> Node:
        x = source.value.reshape(-1) if flat else source.value
        return self._shared(*matrix_of(layer, x.shape), source, layer(x.unsqueeze(0))[0], folds)

    def _shared(self, matrix: Tensor, bias: Tensor, source: Node, value: Tensor, folds: bool) -> Node:
        """A linear map under the rule."""

        def share(relevance: Tensor) -> list[Tensor]:
            return [share_map(self.rule, matrix, bias, source.value.reshape(-1), relevance, self.numbers)]

        node = Node(value, [source], share)
        if folds:
            node.matrix, node.bias = matrix, bias
        return self._made(node)

    def _plain(self, matrix: Tensor, source: Node, value: Tensor) -> Node:
        """An affine map that shares as LRP-0; a unit of value zero has no relevance to share."""
        z = value.reshape(-1)

        def share(relevance: Tensor) -> list[Tensor]:
            return [source.value.reshape(-1) * (matrix.T @ (relevance / torch.where(z == 0, 1, z)))]

        return self._made(Node(value, [source], share))

    def _batch_norm(self, layer: nn.Module, source: Node) -> Node:
        value = layer(source.value.unsqueeze(0))[0]
        scale, shift = matrix_of(layer, source.value.shape)
        if self.rule in FOLDING and source.matrix is not None and source.bias is not None:
            joined = scale @ source.matrix, scale @ source.bias + shift
            return self._shared(*joined, source.sources[0], value, folds=True)
        return self._plain(scale, source, value)

    def _average(self, step: Step, source: Node) -> Node:
        matrix, _ = matrix_of(lambda x: functional.avg_pool2d(x, **step.options), source.value.shape)
        return self._plain(matrix, source, functional.avg_pool2d(source.value.unsqueeze(0), **step.options)[0])

    def _max_pool(self, step: Step, source: Node) -> Node:
        value, winners = functional.max_pool2d(source.value.unsqueeze(0), **step.options, return_indices=True)
        channels = source.value.shape[0]
        positions = source.value[0].numel()
        places = (winners[0].reshape(channels, -1) + positions * torch.arange(channels).unsqueeze(1)).reshape(-1)

        def share(relevance: Tensor) -> list[Tensor]:
            return [torch.zeros(source.value.numel(), dtype=torch.float64).index_add(0, places, relevance)]

        return self._made(Node(value[0], [source], share))
