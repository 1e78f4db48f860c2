"""Small networks as data: a list of steps, so that another interpreter can run the same network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_plugin.kinds import checked

Shape = tuple[int, int, int]

PARAMETRIC = ("conv", "linear", "batch_norm")


@dataclass(frozen=True)
class Step:
    """One operation of a network.

    Args:
        kind: ``"conv"``, ``"linear"`` (over the last dimension), ``"batch_norm"``, ``"relu"``, ``"max_pool"``,
            ``"avg_pool"``, ``"add"`` or ``"cat"``.
        sources: The slots it reads; slot 0 is the input, slot i + 1 what step i returned.
        options: Its settings, as torch names them.
        reuse: The step whose layer it runs again, or None for a layer of its own.
        spelling: ``"module"``, ``"functional"`` or ``"inplace"`` (slots that hold the overwritten tensor see the
            new value).
    """

    kind: str
    sources: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    reuse: int | None = None
    spelling: str = "functional"


@dataclass(frozen=True)
class Graph:
    """A network: its steps, then a linear layer over everything in the last slot.

    Args:
        input_shape: (C, H, W).
        steps: In the order of execution.
        classes: Outputs of the last layer.
        seed: Of the parameters.
    """

    input_shape: Shape
    steps: tuple[Step, ...]
    classes: int = 3
    seed: int = 0

    @property
    def plain(self) -> Graph:
        """The same network with nothing written in place, for plain differentiation."""
        steps = (replace(step, spelling="functional") if step.spelling == "inplace" else step for step in self.steps)
        # A slot whose tensor is overwritten keeps its name: later readers are pointed at the new value.
        latest = list(range(len(self.steps) + 1))
        pointed = []
        for place, (old, step) in enumerate(zip(self.steps, steps)):
            sources = tuple(latest[source] for source in step.sources)
            pointed.append(replace(step, sources=sources))
            if old.spelling == "inplace":
                latest = [place + 1 if slot == sources[0] else slot for slot in latest]
        return replace(self, steps=tuple(pointed))


def shape_after(step: Step, shapes: Sequence[Shape]) -> Shape:
    """The shape (C, H, W) a step returns, found by running it on zeros without parameters of value."""
    given = [torch.zeros(1, *shapes[source]) for source in step.sources]
    layer = _layer(step, shapes[step.sources[0]]) if step.kind in PARAMETRIC else None
    with torch.no_grad():
        return tuple(_run(step, layer.eval() if layer is not None else None, given).shape[1:])  # type: ignore[return-value]


def _layer(step: Step, shape: Shape) -> nn.Module:
    if step.kind == "conv":
        return nn.Conv2d(shape[0], **step.options)
    if step.kind == "linear":
        return nn.Linear(shape[2], **step.options)
    return nn.BatchNorm2d(shape[0])


def _run(step: Step, layer: nn.Module | None, given: Sequence[Tensor]) -> Tensor:
    if layer is not None:
        return layer(given[0])  # type: ignore[no-any-return]
    if step.kind == "relu":
        if step.spelling == "inplace":
            return given[0].relu_()
        return functional.relu(given[0])
    if step.kind == "max_pool":
        return functional.max_pool2d(given[0], **step.options)
    if step.kind == "avg_pool":
        return functional.avg_pool2d(given[0], **step.options)
    if step.kind == "cat":
        return torch.cat(list(given), dim=1)
    if step.kind != "add":
        raise ValueError(
            f"unknown step {step.kind!r}; legal are {', '.join(PARAMETRIC)}, relu, max_pool, avg_pool, add, cat"
        )
    first, second = given
    if step.spelling == "inplace":
        first += second
        return first
    return first + second


class GraphNetwork(nn.Module):
    """A `Graph` as a module, float64, in evaluation mode. Input (N, C, H, W), output (N, classes).

    Parameters are normal; BatchNorm's scale takes both signs and its statistics are no identity.
    """

    @checked
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = nn.ModuleDict()
        shapes: list[Shape] = [graph.input_shape]
        for place, step in enumerate(graph.steps):
            if step.spelling == "module" and step.kind == "relu":
                self.layers[str(place)] = nn.ReLU()
            elif step.kind in PARAMETRIC and step.reuse is None:
                self.layers[str(place)] = _layer(step, shapes[step.sources[0]])
            shapes.append(shape_after(step, shapes))
        channels, height, width = shapes[-1]
        self.head = nn.Linear(channels * height * width, graph.classes)
        self.double().eval()
        self._draw(torch.Generator().manual_seed(graph.seed))

    @property
    def input_shape(self) -> Shape:
        """(C, H, W)."""
        return self.graph.input_shape

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return self.graph.classes

    def _draw(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    assert module.running_mean is not None and module.running_var is not None
                    drawn = torch.rand(2, module.num_features, generator=generator, dtype=torch.float64)
                    module.running_mean.copy_(drawn[0] - 0.5)
                    module.running_var.copy_(drawn[1] + 0.5)

    def plain(self) -> GraphNetwork:
        """A network of the same values and parameters that writes nothing in place."""
        twin = GraphNetwork(self.graph.plain)
        twin.load_state_dict(self.state_dict())
        return twin

    def layer_of(self, place: int) -> nn.Module | None:
        """The layer that step ``place`` runs, if it has one."""
        step = self.graph.steps[place]
        key = str(place if step.reuse is None else step.reuse)
        return self.layers[key] if key in self.layers else None  # noqa: SIM401 (a ModuleDict has no get)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        slots = [x]
        for place, step in enumerate(self.graph.steps):
            slots.append(_run(step, self.layer_of(place), [slots[source] for source in step.sources]))
        return self.head(torch.flatten(slots[-1], 1))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"GraphNetwork({self.graph})"
