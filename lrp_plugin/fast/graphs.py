"""Rewrites of a traced pass that a compiler does not make by itself: what the model's constants allow.

`make_fx` records every call, those on parameters alone too, and leaves weights as the user laid them out. Each
rewrite keeps the graph's values up to rounding.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from lrp_plugin.torch_private import is_overload

_ATEN = torch.ops.aten
_BATCH_NORMS = (_ATEN.native_batch_norm.default, _ATEN._native_batch_norm_legit_no_training.default)
# Where the weight stands among the arguments.
_WEIGHT_PLACES = {_ATEN.convolution.default: 1, _ATEN.convolution_backward.default: 2}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


# Calls the compiler takes as they are. Its own loops for max-pooling took 80 ms of a pass of ResNet-18 (batch 4, one
# thread), PyTorch's kernels 13 ms.
# Their schemas are written out: torch 2.6 reads none from list[int].
_WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil"


@torch.library.custom_op("lrp_plugin::max_pool2d", mutates_args=(), schema=f"(Tensor x, {_WINDOW}) -> (Tensor, Tensor)")
def _max_pool2d(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil: bool
) -> tuple[Tensor, Tensor]:
    return _ATEN.max_pool2d_with_indices.default(x, kernel, stride, padding, dilation, ceil)  # type: ignore[no-any-return]


@torch.library.custom_op(
    "lrp_plugin::max_pool2d_backward", mutates_args=(),
    schema=f"(Tensor m, Tensor x, {_WINDOW}, Tensor indices) -> Tensor",
)  # fmt: skip
def _max_pool2d_backward(
    m: Tensor, x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil: bool,
    indices: Tensor,
) -> Tensor:  # fmt: skip
    arguments = m, x, kernel, stride, padding, dilation, ceil, indices
    return _ATEN.max_pool2d_with_indices_backward.default(*arguments)  # type: ignore[no-any-return]


@_max_pool2d.register_fake
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _ATEN.max_pool2d_with_indices.default(x, *arguments)  # type: ignore[no-any-return]


@_max_pool2d_backward.register_fake
def _(m: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(x)


_POOLING_DEFAULTS: tuple[Any, ...] = ([], [0, 0], [1, 1], False)
_OPAQUE = {
    _ATEN.max_pool2d_with_indices.default: (torch.ops.lrp_plugin.max_pool2d.default, 1),
    _ATEN.max_pool2d_with_indices_backward.default: (torch.ops.lrp_plugin.max_pool2d_backward.default, 2),
}


def simplify(graph: GraphModule) -> GraphModule:
    """The same pass with its constants computed once, BatchNorms folded in and weights laid out for CPU kernels.

    Raises nothing: what does not fit a rewrite stays as it is.
    """
    graph.graph.eliminate_dead_code()
    constants = _Constants(graph)
    constants.fold()
    for node in list(graph.graph.nodes):
        if node.target in _BATCH_NORMS:
            _fold_batch_norm(constants, node)
    for node in list(graph.graph.nodes):
        if node.target in _OPAQUE:
            _make_opaque(node)
        elif node.target in _WEIGHT_PLACES:
            _lay_out_weight(constants, node)
    for node in graph.graph.nodes:
        if node.target is _ATEN.view.default:  # strides have changed: what was a view may need a copy now
            node.target = _ATEN.reshape.default
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class _Constants:
    """The tensors of a graph that depend on no input."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.graph = module.graph
        self.values: dict[Node, Tensor] = {
            node: getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"
        }
        self._laid_out: dict[tuple[Any, ...], Tensor] = {}

    def fold(self) -> None:
        """Computes once what only constants enter."""
        for node in list(self.graph.nodes):
            if self._foldable(node):
                value = node.target(*map_arg(node.args, self.values.get), **map_arg(node.kwargs, self.values.get))
                if isinstance(value, Tensor):
                    node.replace_all_uses_with(self.add(value, before=node))
                    self.graph.erase_node(node)

    def _foldable(self, node: Node) -> bool:
        given = node.all_input_nodes
        return (
            bool(given)
            and all(other in self.values for other in given)
            and is_overload(node.target)
            and torch.Tag.nondeterministic_seeded not in node.target.tags
            and not any(_writes(other) for other in (node, *node.users))  # what is written to is no constant
        )

    def add(self, value: Tensor, before: Node) -> Node:
        """A node for a constant tensor."""
        name = f"folded_constant{len(self.values)}"
        self.module.register_buffer(name, value.detach())
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(name)
        self.values[node] = value.detach()
        return node

    def of(self, value: Any) -> Tensor | None:
        """A node's constant tensor; None where it has none."""
        return self.values.get(value) if isinstance(value, Node) else None

    def laid_out(self, value: Tensor) -> Tensor:
        """The same weight with its channels last, made once for all its uses."""
        key = (value.data_ptr(), value.shape, value.stride())
        if key not in self._laid_out:
            self._laid_out[key] = value.contiguous(memory_format=_CHANNELS_LAST[value.dim()])
        return self._laid_out[key]


def _writes(node: Node) -> bool:
    return is_overload(node.target) and node.target._schema.is_mutable


def _fold_batch_norm(constants: _Constants, node: Node) -> None:
    """A BatchNorm with running statistics as the scale and shift that it is; in the convolution, where that is all it reads."""
    arguments: list[Any] = [*node.args[:5], *node.args[-3:]]
    given, *affine, training, _, eps = arguments
    weight, bias, mean, variance = (constants.of(part) for part in affine)
    if node.target is _BATCH_NORMS[1]:
        training = False
    outputs = [user for user in node.users if user.target is operator.getitem]
    missing = [part for part in affine if part is not None and constants.of(part) is None]
    if training or missing or mean is None or variance is None or any(user.args[1] for user in outputs):
        return
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    value = _into_convolution(constants, given, scale, shift) or _as_affine(constants, node, given, scale, shift)
    for user in outputs:
        user.replace_all_uses_with(value)
        constants.graph.erase_node(user)
    constants.graph.erase_node(node)


def _into_convolution(constants: _Constants, given: Node, scale: Tensor, shift: Tensor) -> Node | None:
    """The convolution before a BatchNorm with the BatchNorm in its weight; None where something else reads its value."""
    source = given
    while source.target is _ATEN.alias.default and len(source.users) == 1:
        source = source.all_input_nodes[0]
    if source.target is not _ATEN.convolution.default or len(source.users) > 1 or source.args[6]:
        return None
    weight, bias = constants.of(source.args[1]), constants.of(source.args[2])
    if weight is None or (bias is None and source.args[2] is not None):
        return None
    scale = scale.to(weight.dtype)
    folded = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    moved = (shift if bias is None else shift + bias * scale).to(weight.dtype)
    source.args = (
        source.args[0], constants.add(folded, before=source), constants.add(moved, before=source), *source.args[3:]
    )  # fmt: skip
    return source


def _as_affine(constants: _Constants, node: Node, given: Node, scale: Tensor, shift: Tensor) -> Node:
    rank = given.meta["val"].dim() if "val" in given.meta else 4
    shape = [-1, *[1] * (rank - 2)]
    factor = constants.add(scale.view(shape), before=node)
    addend = constants.add(shift.view(shape), before=node)
    with constants.graph.inserting_before(node):
        product = constants.graph.call_function(_ATEN.mul.Tensor, (given, factor))
        return constants.graph.call_function(_ATEN.add.Tensor, (product, addend))


def _lay_out_weight(constants: _Constants, node: Node) -> None:
    """A constant convolution weight with its channels last, as the compiler wants it: else each call lays it out anew."""
    place = _WEIGHT_PLACES[node.target]  # type: ignore[index]
    weight = constants.of(node.args[place])
    if weight is None or weight.dim() not in _CHANNELS_LAST or weight.device.type != "cpu":
        return
    laid_out = constants.add(constants.laid_out(weight), before=node)
    node.args = (*node.args[:place], laid_out, *node.args[place + 1 :])


def _make_opaque(node: Node) -> None:
    """Max-pooling by PyTorch's own kernel, on a CPU; what the call leaves to defaults is written out."""
    if node.args[0].meta["val"].device.type != "cpu":  # type: ignore[union-attr]
        return
    target, tensors = _OPAQUE[node.target]  # type: ignore[index]
    kernel, *rest = node.args[tensors:]
    given = (*rest, *_POOLING_DEFAULTS[len(rest) :])
    node.args = (*node.args[:tensors], kernel, given[0] or kernel, *given[1:])
    node.target = target
