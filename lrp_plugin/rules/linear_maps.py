"""A linear map ``z = f(x, W, b)`` of one signal, whatever its spelling, and its parts by sign.

Costs are counted in applications of the map (DESIGN: a forward is 1, its input-gradient 1). On a non-negative input
the negative part is ``z - z+`` and costs no forward; on a signed one ``A = f(|x|, |W|, |b|)`` gives both parts,
``z+- = (z +- A) / 2``, for one forward and two backward applications.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call, LazyPort
from lrp_plugin.algebra.formulas import Carrier, reciprocal, widened
from lrp_plugin.algebra.primitives import redistribute, redistribute_with_port, substitute
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.fast.gradients import input_gradient
from lrp_plugin.fast.weights import WeightCache, folded_weights
from lrp_plugin.rules.parts import magnitude, part

BIAS_MODES = ("absorb", "ignore", "distribute")


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


class LinearMap:
    """The linear map of a call, with BatchNorms behind it folded in.

    Args:
        call: The intercepted call.
        bias: What becomes of the bias's share: ``"absorb"`` (Bach et al. 2015, eq. 60: it stays in the denominator and
            the bias keeps its share), ``"ignore"`` (left out of the denominator), ``"distribute"`` (its share is
            spread evenly over the unit's inputs, zero or not).

    Attributes:
        x: The input, a signal. weight: The weight, BatchNorm folded in. z: The value, without a graph.
    """

    def __init__(self, call: Call, bias: str = "absorb") -> None:
        if bias not in BIAS_MODES:
            raise ValueError(f"bias={bias!r}; legal are {', '.join(map(repr, BIAS_MODES))}")
        self.call = call
        self.mode = bias
        self.cache: WeightCache = call.weights if call.weights is not None else WeightCache()
        self._addend: Tensor | None = None
        self._names: tuple[str, str, str] | None = None
        self.x: Tensor
        self.weight: Tensor
        self.bias: Tensor | None = None
        self._read(call)
        self._refuse_what_has_no_parts()
        self._source = self.weight
        self.z = call.value if call.value is not None else call.valued()
        self.sources: tuple[Tensor, ...] = (self.weight,) if self.bias is None else (self.weight, self.bias)
        if call.followers:
            self.weight, self.bias, self.sources = folded_weights(
                self.cache, call.operation, self.weight, self.bias, call.followers, int(call.get("groups", 1))
            )
        self.nonnegative = call.signal(self.x).nonnegative
        self._absolute: tuple[Tensor, Tensor] | None = None

    def _refuse_what_has_no_parts(self) -> None:
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

    def _read(self, call: Call) -> None:
        if call.operation == "bilinear":
            self._read_bilinear(call)
            return
        first, second, third = weight_names(call.operation)
        names = dict(call.names)
        if call.operation == "einsum" or not call.is_signal(names.get(first)):
            self._read_factor(call)
            return
        self.x, self.weight, self.bias = names[first], names[second], names.get(third) if third else None
        if third == "input":
            assert self.bias is not None
            self._addend, self.bias = self.bias, self.bias * names.get("beta", 1)
        self._names = (first, second, third) if third == "bias" else None
        self._rest = {key: value for key, value in names.items() if key not in (first, second, third)}

    def _read_bilinear(self, call: Call) -> None:
        """Each example's own matrix: the weight applied to the other, constant input."""
        self.cache = WeightCache()  # the matrices are new in every call: nothing to keep
        signal = "input1" if call.is_signal(call["input1"]) else "input2"
        other = call["input2" if signal == "input1" else "input1"]
        formula = "oij,...j->...oi" if signal == "input1" else "oij,...i->...oj"
        self.x, self.bias = call[signal], call.get("bias")
        self.weight = torch.einsum(formula, call["weight"], other)

    def _read_factor(self, call: Call) -> None:
        """A product with a constant first factor, or an einsum: the signal keeps its place."""
        tensors = [t for t in _flat(call.args) if isinstance(t, Tensor)]
        self.x = next(t for t in tensors if call.is_signal(t))
        self.weight = next((t for t in tensors if not call.is_signal(t)), torch.ones_like(self.x))
        self.bias = None

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The map with another input, weight or bias."""
        if self.call.operation == "bilinear":
            value = (weight @ x.unsqueeze(-1)).squeeze(-1)
            return value if bias is None else value + bias
        if self._names is None:
            swap = {id(self._source): weight, id(self.x): x}
            if self._addend is not None:  # addmm and its kind must be given one
                swap[id(self._addend)] = torch.zeros_like(self._addend)
            value = self.call.replaced(lambda t: swap.get(id(t), t))
            return value if bias is None else value + bias  # type: ignore[no-any-return]
        first, second, third = self._names
        return self.call.function(**{**self._rest, first: x, second: weight, third: bias})  # type: ignore[no-any-return]

    def weights(self, variant: str, make: Callable[[Tensor], Tensor]) -> Tensor:
        """A modified weight, computed once until the parameter changes."""
        return self.cache.get(self.sources, f"{variant}/weight", lambda: make(self.weight))

    def gradient(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """`input_gradient` of this map, or None."""
        return input_gradient(self.call, self.x, weight, self.z.dtype, self.cache)

    def _asked_of_autograd(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        x, plain = self.x.detach(), copy(self)
        plain._absolute = None  # leads on to the carriers, and those back to this function: a cycle nobody collects

        def gradient(m: Tensor) -> Tensor:
            with torch.enable_grad():
                free = x.detach().requires_grad_()
                value = plain.apply(free, weight)
            return torch.autograd.grad(value, free, m.to(value.dtype))[0]

        return gradient

    @property
    def owned(self) -> bool:
        """Whether what `carried` returns lies in memory of its own, which autograd does not keep."""
        return self.call.operation == "linear" or self.call.operation.startswith("conv")

    def carried(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`apply` that keeps no input: autograd's own would."""
        gradient = self.gradient(weight)
        if gradient is None:
            return self.apply(x, weight, bias)
        return substitute(self.apply(x.detach(), weight, bias), gradient, x)

    def known(self, value: Tensor, weight: Tensor) -> Tensor:
        """A carrier whose value is known already: it costs a backward application only."""
        return substitute(value, self.gradient(weight) or self._asked_of_autograd(weight), self.x)

    # ---- bias --------------------------------------------------------------------------------------------------
    def placed(self, bias: Tensor | None) -> Tensor | None:
        """The bias in a shape that broadcasts against z."""
        if bias is None or not self.call.operation.startswith("conv") or bias.dim() != 1:
            return bias
        return bias.view(-1, *[1] * (self.weight.dim() - 2))

    @property
    def carried_bias(self) -> Tensor | None:
        """The bias that stands in the denominators."""
        return None if self.mode == "ignore" else self.bias

    def share_out(self, carried: Tensor, bias: Tensor | None) -> Carrier:
        """A carrier from a value that includes ``bias``; ``distribute`` sends the bias's part to the port."""
        if bias is None or self.mode != "distribute":
            return Carrier(carried, bias=bias)
        even = self.evenly()
        # A unit that reads constants alone (a class token, padding) has nobody to hand its bias's part to.
        kept = None if self.call.row is None else bias.detach() * (even.detach() == 0)
        return Carrier(carried + (even - even.detach()) * bias, bias=kept)

    def evenly(self) -> Tensor:
        """Ones of z's shape (or broadcastable to it) whose backward spreads relevance evenly over each unit's inputs."""
        total = self.flat()
        return total * reciprocal(total.detach(), 0.0)

    def flat(self) -> Tensor:
        """``f(p, 1)``: how many inputs each unit has, padding not counted; its backward goes to the input's port."""
        port = self.call.port(self.x)
        convolution = self.call.operation in ("conv1d", "conv2d", "conv3d") and self._names is not None
        if convolution and self.call.get("groups", 1) == 1 and port.dim() == self.weight.dim():
            kernel = torch.ones_like(self.weight[:1, :1])  # all channels weigh alike: one channel's work does
            return self.apply(port.sum(1, keepdim=True), kernel)
        if self.call.operation == "linear":
            return port.sum(-1, keepdim=True)
        return self.apply(port, torch.ones_like(self.weight))

    # ---- parts by sign -----------------------------------------------------------------------------------------
    def whole(self) -> Carrier:
        """``f(x, W, b)``."""
        z, bias = self.z, self.placed(self.carried_bias)
        ignored = self.placed(self.bias) if self.mode == "ignore" else None
        value = z if ignored is None else z - ignored
        return self.share_out(self.known(value, self.weight), bias)

    def positive(self) -> Carrier:
        """``f(x+, W+, b+) + f(x-, W-)``: the positive contributions."""
        bias = None if self.carried_bias is None else self.carried_bias.clamp(min=0)
        if self.nonnegative:
            weight = self.weights("positive", lambda w: w.clamp(min=0))
            known, owned = self._absolute, self.owned and self._absolute is None
            value = self.carried(self.x, weight, bias) if known is None else self.known(known[0], weight)
            return self.share_out(value, self.placed(bias))._replace(sign=1, owned=owned)
        return self.share_out(self._half(1), self.placed(bias))._replace(sign=1, owned=True)

    def opposed(self) -> Carrier:
        """``-(f(x+, W-, b-) + f(x-, W+))``: the magnitude of the negative contributions."""
        bias = None if self.carried_bias is None else (-self.carried_bias).clamp(min=0)
        if self.nonnegative:
            weight = self.weights("opposed", lambda w: (-w).clamp(min=0))
            with torch.no_grad():
                value = self._part(self.positive_value(), self.carried_value(), 1.0)
            return self.share_out(self.known(value, weight), self.placed(bias))._replace(sign=1, owned=True)
        return self.share_out(self._half(-1), self.placed(bias))._replace(sign=1, owned=True)

    def carried_value(self) -> Tensor:
        """z, less the bias where it is ignored."""
        bias = self.placed(self.bias)
        return self.z if self.mode != "ignore" or bias is None else self.z - bias

    def positive_value(self) -> Tensor:
        """The value of the positive part on a non-negative input, computed once."""
        if self._absolute is None:
            bias = None if self.carried_bias is None else self.carried_bias.clamp(min=0)
            with torch.no_grad():
                value = self.apply(self.x.detach(), self.weights("positive", lambda w: w.clamp(min=0)), bias)
            self._absolute = (value, value)
        return self._absolute[0]

    def release(self) -> None:
        """Forgets the parts: their memory holds something else now."""
        self._absolute = None

    def both(self) -> tuple[Carrier, Carrier]:
        """The positive part and the negative one's magnitude, sharing their forward application."""
        if self.nonnegative:
            positive = self.positive()
            value = positive.value.detach()
            self._absolute = (value, value)
            return positive._replace(owned=False), self.opposed()  # its value may be asked for again
        return self.positive(), self.opposed()

    def signed(self) -> tuple[Tensor, Tensor]:
        """z and ``A = f(|x|, |W|, |b|)``, both differentiable."""
        if self._absolute is None:
            bias = None if self.carried_bias is None else self.carried_bias.abs()
            absolute = self.carried(magnitude(self.x), self.weights("absolute", torch.abs), bias)
            self._absolute = (self.known(self.carried_value(), self.weight), absolute)
        return self._absolute

    def half(self, sign: int) -> Tensor:
        """The value of ``(A + sign z) / 2``: the magnitude of all contributions of one sign, on an input of both."""
        whole, absolute = self.signed()
        with torch.no_grad():
            return self._part(absolute.detach(), whole.detach(), 0.5, -sign)

    def _half(self, sign: int) -> Tensor:
        """`half`, differentiable."""

        def pullback(m: Tensor) -> tuple[Tensor, Tensor]:
            half = m * 0.5
            return half if sign > 0 else -half, half

        return substitute(self.half(sign), pullback, *self.signed())

    def _part(self, larger: Tensor, z: Tensor, weight: float, sign: int = 1) -> Tensor:
        return part(larger, z, weight, sign, self.placed(self.bias) if self.mode == "ignore" else None)

    # ---- the end of every rule ---------------------------------------------------------------------------------
    def redistribute(self, carriers: Sequence[Carrier], stabilizer: float | Tensor) -> Tensor:
        """z, its relevance shared among the carriers, and the ledger's account of it."""
        z, call = self.z, self.call
        if self.mode != "distribute" and call.row is None:
            if call.ports:
                call.out_port = LazyPort(partial(_port_of, z, list(carriers), stabilizer))
            if call.rectified:  # the value has no negative entries any more
                call.masked = True
                covers = self.nonnegative and self.mode == "absorb"
                carriers = [c._replace(side=0, covers=covers and c.sign > 0) for c in carriers]
            if call.ports:  # they ask for the carriers' values later
                carriers = [carrier._replace(owned=False) for carrier in carriers]
            call.free = not call.ports
            return redistribute(z, carriers, stabilizer)
        spare: list[Carrier] = []
        carriers = [carrier.plain(z) for carrier in carriers]
        if self.mode == "distribute":
            carriers, spare = self._with_spare(carriers, stabilizer)
        if call.row is not None:
            self._account(carriers, stabilizer)
        if not call.ports:
            return redistribute(z, [*carriers, *spare], stabilizer)
        value, call.out_port = redistribute_with_port(z, _expanded(z, [*carriers, *spare]), stabilizer)
        return value

    def _with_spare(
        self, carriers: Sequence[Carrier], stabilizer: float | Tensor
    ) -> tuple[list[Carrier], list[Carrier]]:
        """Where no carrier can take relevance up, ``distribute`` spreads it evenly, all of it: no stabilizer's part."""
        empty = torch.stack([(c.value.detach() == 0).expand_as(self.z) for c in carriers]).all(0)
        even = self.evenly().expand_as(self.z)
        if self.call.row is not None:
            lost = empty & (even.detach() == 0)
            self.call.absorb("no_receiver", lambda m: m * self.z * lost)
            self.call.absorb("port:no_receiver", lambda r: r * lost)
        share = torch.where(empty, even.detach() * (1 + stabilizer), 0)
        return [c._replace(share=torch.where(empty, 0, c.share)) for c in carriers], [Carrier(even, share)]

    def hand_on(self, epsilon: float | Tensor) -> Tensor:
        """The epsilon rule's ``bias="distribute"``: two ways for two kinds of relevance.

        What arrives as a multiplier goes by signed contributions, the bias's part evenly to the inputs' port. What
        arrives at z's port was handed on by a bias above and has no multiplier: by signed contributions it would be
        divided by z, which may be near 0 (5e22 times the logit on a trained EfficientNet), so it goes by their
        magnitudes, ``|x_i w_ij| / sum_i' |x_i' w_i'j|``, and evenly where all of them are zero.
        """
        carrier = self.whole()
        if self.call.row is not None:
            self._account([carrier], epsilon, ported=False)
        magnitude = self.apply(self.call.port(self.x) * self.x.detach().abs(), self.weights("absolute", torch.abs))
        held, even = magnitude.detach(), self.evenly()
        # Of a unit that reads constants alone (padding, a class token) the port is 0: nothing is handed to it.
        self.call.out_port = torch.where(held == 0, even, magnitude * reciprocal(held, 0.0))
        return redistribute(self.z, [carrier], epsilon)

    def _account(self, carriers: Sequence[Carrier], stabilizer: float | Tensor, ported: bool = True) -> None:
        z = widened(self.z)
        bias, stabilized, lost = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
        for carrier in carriers:
            value = widened(carrier.value.detach())
            inverse = reciprocal(value, stabilizer)
            if carrier.bias is not None:
                bias = bias + carrier.share * carrier.bias.detach() * inverse
            stabilized = stabilized + carrier.share * (1 - value * inverse) * (value != 0)
            lost = lost + carrier.share * (value == 0)
        for column, absorbed in (("bias", bias), ("stabilizer", stabilized), ("no_receiver", lost)):
            self.call.absorb(column, lambda m, absorbed=absorbed: m * z * absorbed)
            if ported:
                self.call.absorb(f"port:{column}", lambda r, absorbed=absorbed: r * absorbed)
        if self.mode == "distribute" and self.bias is not None:
            bias_share = self.placed(self.bias).detach() * reciprocal(z, stabilizer)  # type: ignore[union-attr]
            self.call.absorb("distributed", lambda m: m * z * (bias_share - bias))


def _expanded(z: Tensor, carriers: Sequence[Carrier]) -> list[Carrier]:
    return [Carrier(c.value.expand_as(z), c.share, c.bias) for c in (carrier.plain(z) for carrier in carriers)]


def _port_of(z: Tensor, carriers: Sequence[Carrier], stabilizer: float | Tensor) -> Tensor:
    return redistribute_with_port(z, _expanded(z, carriers), stabilizer)[1]


def _flat(args: Any) -> list[Any]:
    return [inner for item in args for inner in (item if isinstance(item, (list, tuple)) else (item,))]
