"""A linear map ``z = f(x, W, b)`` of one signal, whatever its spelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.binding import Added
from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.folding import folded_weights
from lrp_plugin.algebra.formulas import reciprocal
from lrp_plugin.algebra.nests import map_tensors
from lrp_plugin.errors import UnsupportedOperationError

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = ("matmul", "mm", "bmm", "mv", "einsum")
ADDED_PRODUCTS = ("addmm", "baddbmm")
MAPS = ("linear", *CONVOLUTIONS, *ADDED_PRODUCTS, *PRODUCTS, "bilinear")
"""Operations that have the rules of linear maps."""
LINEAR_MAPS = (*MAPS, "addbmm", "tensordot")
"""Operations that are linear maps of a signal where their other factor is constant: the last two are opened into the others."""

Apply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Reading(NamedTuple):
    """A linear map's call: its input, a signal, its weight and bias, and the map itself as a function of the three."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    apply: Apply


def weight_names(operation: str) -> tuple[str, str, str | None]:
    """The argument names of a linear map's input, weight and bias."""
    if operation in ("addmm", "addbmm", "baddbmm", "addmv"):
        first, second = {"addmm": ("mat1", "mat2"), "addmv": ("mat", "vec")}.get(operation, ("batch1", "batch2"))
        return first, second, "input"
    names = {"matmul": "other", "mm": "mat2", "bmm": "mat2", "mv": "vec"}
    return ("input", names[operation], None) if operation in names else ("input", "weight", "bias")


def is_map_of_one_signal(names: Mapping[str, Any], signals: Mapping[int, Any]) -> bool:
    """Whether only the input of a convolution or linear call is a signal."""
    return id(names.get("weight")) not in signals and id(names.get("bias")) not in signals


def read(call: Call) -> Reading:
    """The map in a call, of any spelling."""
    if call.operation == "bilinear":
        return _read_bilinear(call)
    first, second, third = weight_names(call.operation)
    names, function = call.names, call.function
    added = function if isinstance(function, Added) else None
    function, bias = (function, None) if added is None else (added.function, added.addend.detach())
    if call.operation == "einsum" or not call.is_signal(names.get(first)):
        return _read_factor(call, function, bias)
    x, weight, bias = names[first], names[second], names.get(third) if third else bias
    if third == "bias":
        rest = {key: value for key, value in names.items() if key not in (first, second, third)}
        return Reading(x, weight, bias, lambda x, w, b: function(**{**rest, first: x, second: w, third: b}))
    swapped = _swapping(call, function, x, weight, bias if third == "input" else None)
    return Reading(x, weight, bias * names.get("beta", 1) if third == "input" and bias is not None else bias, swapped)


def _read_bilinear(call: Call) -> Reading:
    """Each example's own matrix: the weight applied to the other, constant input."""
    signal = "input1" if call.is_signal(call["input1"]) else "input2"
    other = call["input2" if signal == "input1" else "input1"]
    formula = "oij,...j->...oi" if signal == "input1" else "oij,...i->...oj"

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _added((weight @ x.unsqueeze(-1)).squeeze(-1), bias)

    return Reading(call[signal], torch.einsum(formula, call["weight"], other), call.get("bias"), apply)


def _read_factor(call: Call, function: Callable[..., Tensor], bias: Tensor | None) -> Reading:
    """A product with a constant first factor, or an einsum: the signal keeps its place."""
    nested = [inner for item in call.args for inner in (item if isinstance(item, (list, tuple)) else (item,))]
    tensors = [t for t in nested if isinstance(t, Tensor)]
    x = next(t for t in tensors if call.is_signal(t))
    weight = next((t for t in tensors if not call.is_signal(t)), torch.ones_like(x))
    return Reading(x, weight, bias, _swapping(call, function, x, weight, None))


def _swapping(
    call: Call, function: Callable[..., Tensor], source: Tensor, factor: Tensor, addend: Tensor | None
) -> Apply:
    """The call with its tensors in their places exchanged; what it adds is added afterwards (addmm must be given one)."""
    args, kwargs = call.args, call.kwargs

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        swap = {id(factor): weight, id(source): x}
        if addend is not None:
            swap[id(addend)] = torch.zeros_like(addend)
        given, named = (map_tensors(nest, lambda t: swap.get(id(t), t)) for nest in (args, kwargs))
        return _added(function(*given, **named), bias)

    return apply


def _added(value: Tensor, bias: Tensor | None) -> Tensor:
    return value if bias is None else value + bias


class LinearMap:
    """The linear map of a call, with BatchNorms behind it folded in.

    Attributes:
        call: The intercepted call.
        x: The input, a signal. weight: The weight, BatchNorm folded in. bias: The bias, likewise, or None.
        sources: What modified weights are made from.
        nonnegative: The input is known to have no negative entry.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.x, self.weight, self.bias, self._apply = read(call)
        waited = call.waited
        self.sources: tuple[Tensor, ...] = (self.weight,) if self.bias is None else (self.weight, self.bias)
        if waited is not None and waited.followers:
            self.weight, self.bias, self.sources = folded_weights(
                call.weights, call.operation, self.weight, self.bias, waited.followers, int(call.get("groups", 1))
            )
        self.nonnegative: bool = call.signal(self.x).nonnegative

    @cached_property
    def z(self) -> Tensor:
        """The value, without a graph."""
        return self.call.valued() if self.call.waited is None else self.call.waited.value  # type: ignore[no-any-return]

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The map with another input, weight or bias."""
        return self._apply(x, weight, bias)

    @property
    def is_layer(self) -> bool:
        """A linear layer or a convolution."""
        return self.call.operation == "linear" or self.call.operation in CONVOLUTIONS

    def weights(self, variant: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        """A modified weight, computed once until the parameter changes; a bilinear map's are new in every call."""
        if self.call.weights is None or self.call.operation == "bilinear":
            return make(self.weight)
        return self.call.weights.get(self.sources, f"{variant}/weight", lambda: make(self.weight))  # type: ignore[no-any-return]

    def placed(self, bias: Tensor | None) -> Tensor | None:
        """A bias in a shape that broadcasts against z."""
        if bias is None or not self.call.operation.startswith("conv") or bias.dim() != 1:
            return bias
        return bias.view(-1, *[1] * (self.weight.dim() - 2))

    def added(self) -> Tensor:
        """f(0), what the map adds, in a shape that broadcasts to z."""
        if not self.is_layer:
            return self.call.at_zero()  # type: ignore[no-any-return]
        return self.weight.new_zeros(()) if self.bias is None else self.placed(self.bias)  # type: ignore[return-value]

    def evenly(self) -> Tensor:
        """Ones of z's shape (or broadcastable to it) whose backward spreads relevance evenly over each unit's inputs."""
        total = self.count()
        return total * reciprocal(total.detach(), 0.0)

    def count(self) -> Tensor:
        """``f(p, 1)``: how many inputs each unit has, padding not counted; its backward goes to the input's port p."""
        port = self.call.port(self.x)
        convolution = self.call.operation in ("conv1d", "conv2d", "conv3d")
        if convolution and self.call.get("groups", 1) == 1 and port.dim() == self.weight.dim():
            kernel = torch.ones_like(self.weight[:1, :1])  # all channels weigh alike: one channel's work does
            return self.apply(port.sum(1, keepdim=True), kernel)
        if self.call.operation == "linear":
            return port.sum(-1, keepdim=True)
        return self.apply(port, torch.ones_like(self.weight))

    def check_has_parts(self) -> None:
        """Raises ``UnsupportedOperationError`` for a sparse or complex map, whose contributions have no sign."""
        sparse = self.weight.layout != torch.strided
        if not (sparse or self.x.is_complex() or self.weight.is_complex()):
            return
        name = str(self.call.operation)
        what = (
            "with a sparse matrix: rules that look at signs take it dense (matrix.to_dense()), or as an aggregation "
            "(torch.sparse.mm), through which relevance passes as it is; else"
            if sparse
            else "on complex numbers, which have no sign: no rule that looks at signs, and no bias= but 'absorb', is "
            "defined there;"
        )
        raise UnsupportedOperationError(
            f"operation {name!r} {what} choose 'epsilon' or 'zero' for it, as "
            f"Composite([(operation({name!r}), rule('epsilon')), ...])"
        )
