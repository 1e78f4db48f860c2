"""Hypothesis strategies: layers, whole networks, inputs and targets.

Drawn values are float64, from a drawn seed: Hypothesis searches and shrinks the structure, not the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lrp_plugin.kinds import checked
from lrp_plugin.testing.networks import Graph, GraphNetwork, Shape, Step, shape_after

KINDS = ("conv", "linear", "batch_norm", "relu", "max_pool", "avg_pool", "add", "cat")
_SEEDS = st.integers(0, 2**16)
_LARGEST = 160


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A linear map and the shape of one example's input: linear, convolution or transposed convolution.

    One to three dimensions, groups, strides, padding, dilation, with and without bias. Excludes: padding modes other
    than zeros, uneven kernels, ``output_padding``.
    """
    torch.manual_seed(draw(_SEEDS))
    bias = draw(st.booleans())
    kind = draw(st.sampled_from(["linear", "conv", "transposed"]))
    if kind == "linear":
        size = draw(st.integers(1, 6))
        return nn.Linear(size, draw(st.integers(1, 5)), bias=bias).double().eval(), (size,)
    dimensions = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2]))
    channels = groups * draw(st.integers(1, 2))
    options: dict[str, Any] = {
        "kernel_size": draw(st.integers(1, 3)), "stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1)),
        "dilation": draw(st.integers(1, 2)), "groups": groups, "bias": bias,
    }  # fmt: skip
    options["padding"] = min(options["padding"], options["kernel_size"] // 2)
    name = ("Conv" if kind == "conv" else "ConvTranspose") + f"{dimensions}d"
    layer = getattr(nn, name)(channels, groups * draw(st.integers(1, 2)), **options)
    return layer.double().eval(), (channels, *[5] * dimensions)


@st.composite
def graphs(
    draw: st.DrawFn, *, min_steps: int = 1, max_steps: int = 7, kinds: tuple[str, ...] = KINDS, in_place: bool = True
) -> Graph:
    """Random chains and graphs of ``kinds``: skips, concatenations, layers and slots used again, in-place writes.

    Excludes: subtraction and products of signals, more than 160 entries in a slot, dead ends are possible (a slot
    that nothing reads).

    Args:
        draw: Given by Hypothesis.
        min_steps, max_steps: How many steps before the last linear layer.
        kinds: The kinds of step.
        in_place: Also spell ReLU and sums in place, on the network's input too.
    """
    edge = draw(st.integers(3, 5))
    shapes: list[Shape] = [(draw(st.integers(1, 3)), edge, edge)]
    steps: list[Step] = []
    for _ in range(draw(st.integers(min_steps, max_steps))):
        kind = draw(st.sampled_from(kinds))
        # Mostly the last slot, so that chains are frequent; any other for branches.
        source = draw(st.one_of(st.just(len(shapes) - 1), st.integers(0, len(shapes) - 1)))
        step = _step(draw, kind, source, shapes, steps, in_place)
        shape = shape_after(step, shapes)
        if shape[0] * shape[1] * shape[2] > _LARGEST:
            step = Step("avg_pool", (source,), {"kernel_size": 2})
            shape = shape_after(step, shapes)
        steps.append(step)
        shapes.append(shape)
    return Graph(shapes[0], tuple(steps), draw(st.integers(1, 4)), draw(_SEEDS))


def _step(
    draw: st.DrawFn, kind: str, source: int, shapes: list[Shape], steps: list[Step], in_place: bool
) -> Step:  # fmt: skip
    shape = shapes[source]
    if kind == "conv":
        return _convolution(draw, source, shapes, steps)
    if kind == "linear":
        return Step("linear", (source,), {"out_features": draw(st.integers(1, 4)), "bias": draw(st.booleans())})
    if kind == "batch_norm":
        return Step("batch_norm", (source,))
    if kind in ("max_pool", "avg_pool") and min(shape[1:]) >= 2:
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 1))
        return Step(kind, (source,), {"kernel_size": 2, "stride": stride, "padding": padding})
    if kind == "add":
        partners = [slot for slot, other in enumerate(shapes) if other == shape]
        spelling = draw(st.sampled_from(["functional", "inplace"])) if in_place else "functional"
        return Step("add", (source, draw(st.sampled_from(partners))), spelling=spelling)
    if kind == "cat":
        partners = [slot for slot, other in enumerate(shapes) if other[1:] == shape[1:]]
        return Step("cat", (source, draw(st.sampled_from(partners))))
    spellings = ["functional", "module", *(["inplace"] if in_place else [])]
    return Step("relu", (source,), spelling=draw(st.sampled_from(spellings)))


def _convolution(draw: st.DrawFn, source: int, shapes: list[Shape], steps: list[Step]) -> Step:
    channels, height, width = shapes[source]
    smallest = min(height, width)
    fitting: list[int] = [
        place for place, step in enumerate(steps)
        if step.kind == "conv" and step.reuse is None and shapes[step.sources[0]][0] == channels
        and smallest >= step.options["dilation"] * (step.options["kernel_size"] - 1) + 1
    ]  # fmt: skip
    again: bool = draw(st.booleans()) if fitting else False
    if again:
        place = draw(st.sampled_from(fitting))
        return Step("conv", (source,), steps[place].options, reuse=place)
    kernel = draw(st.integers(1, min(3, smallest)))
    dilation = draw(st.integers(1, 2)) if smallest >= 2 * (kernel - 1) + 1 else 1
    groups = draw(st.sampled_from([1, 1, channels]))
    options = {
        "out_channels": groups * draw(st.integers(1, 3 if groups == 1 else 2)), "kernel_size": kernel,
        "stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, kernel // 2)), "dilation": dilation,
        "groups": groups, "bias": draw(st.booleans()),
    }  # fmt: skip
    return Step("conv", (source,), options)


def networks(**options: Any) -> st.SearchStrategy[GraphNetwork]:
    """`graphs` as modules, float64, in evaluation mode; the arguments are those of `graphs`."""
    return graphs(**options).map(GraphNetwork)


@st.composite
def inputs(draw: st.DrawFn, shape: tuple[int, ...], *, max_examples: int = 3) -> Tensor:
    """A batch of the shape (N, *shape): signed, non-negative, half of it zeros, or all entries alike.

    Excludes: NaN and infinite entries, all entries zero, batches without an example.
    """
    generator = torch.Generator().manual_seed(draw(_SEEDS))
    full = (draw(st.integers(1, max_examples)), *shape)
    values = torch.randn(full, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["signed", "nonnegative", "sparse", "constant"]))
    if kind == "nonnegative":
        return values.abs()
    if kind == "sparse":
        return values * (torch.rand(full, generator=generator, dtype=torch.float64) < 0.5)
    return torch.full(full, 0.5, dtype=torch.float64) if kind == "constant" else values


@checked
def targets(classes: int, examples: int) -> st.SearchStrategy[Any]:
    """A target for outputs of shape (examples, classes): an int for all, a list or a tensor with one for each.

    Excludes: tuples (for outputs of more dimensions) and targets out of range.
    """
    one = st.integers(0, classes - 1)
    each = st.lists(one, min_size=examples, max_size=examples)
    return st.one_of(one, each, each.map(torch.tensor))


@st.composite
def explanations(draw: st.DrawFn, /, **options: Any) -> tuple[GraphNetwork, Tensor, Any]:
    """A network, a batch for it and a target; the arguments are those of `graphs`."""
    network = draw(networks(**options))
    batch = draw(inputs(network.input_shape))
    return network, batch, draw(targets(network.classes, batch.shape[0]))
