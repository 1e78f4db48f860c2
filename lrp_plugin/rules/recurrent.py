"""Recurrent networks: LSTM, GRU and RNN kernels and cells, under four rules for a gate times a signal.

``signal``: gates get nothing, signals everything (Arras et al. 2017, arXiv 1706.07206; 2019). ``uniform``: half to each
(Achtibat et al. 2024). ``ratio``: by magnitude (Otsuki et al. 2024). ``gradient``: the gate gets its gradient besides. tanh
passes all relevance (its secant), linear maps share by contribution. The mathematics of one layer stands in `recurrence`
and `gates`; here torch's overloads are read into one form.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.errors import UnsupportedOperationError
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.recurrence import Known, Layout, Rule, Weights, directed
from lrp_plugin.rules.routing import native_affine

SEQUENCES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CELLS = tuple(f"{kind}_cell" for kind in SEQUENCES)


class Stack(NamedTuple):
    """A call of a recurrent kernel, its overloads read into one form.

    Args:
        kind: ``"lstm"``, ``"gru"``, ``"rnn_tanh"``, ``"rnn_relu"``.
        x: Packed rows (rows, F). sizes: Examples running at each step.
        initial: (layers * directions, N, H_out). cell: (layers * directions, N, H), for lstm alone.
        weights: One for each layer and direction. directions: 1 or 2.
    """

    kind: str
    x: Tensor
    sizes: list[int]
    initial: Tensor
    cell: Tensor
    weights: list[Weights]
    directions: int


def _read(call: Call) -> tuple[Stack, bool, bool]:
    """The stack, whether the call is packed, and whether it is batch-first."""
    lstm = call.operation == "lstm"
    packed = isinstance(call.args[1], Tensor) and isinstance(call.args[2], (Tensor if not lstm else (list, tuple)))
    state, flat, has_bias, layers, dropout, train, both, *rest = call.args[2:] if packed else call.args[1:]
    first = bool(rest[0]) if rest else False
    if train and dropout > 0 and layers > 1:
        raise UnsupportedOperationError(
            f"{call.operation} drops entries between its layers (train=True, dropout={dropout}): its masks are not "
            f"known outside the kernel; call model.eval() inside"
        )
    data = call.args[0]
    initial, cell = state if lstm else (state, state)
    if packed:
        sizes = call.args[1].tolist()
    else:
        data = data.transpose(0, 1) if first else data
        sizes = [data.shape[1]] * data.shape[0]
        data = data.flatten(0, 1)
    per = 2 + 2 * bool(has_bias) + (lstm and initial.shape[-1] != cell.shape[-1])
    weights = [_weights(flat[place : place + per], bool(has_bias)) for place in range(0, len(flat), per)]
    return Stack(call.operation, data, sizes, initial, cell, weights, 1 + bool(both)), packed, first


def _weights(part: Sequence[Tensor], has_bias: bool) -> Weights:
    detached = [tensor.detach() for tensor in part]
    projection = detached[-1] if len(detached) % 2 else None
    if not has_bias:
        return Weights(detached[0], detached[1], projection=projection)
    return Weights(detached[0], detached[1], detached[2], detached[3], projection)


def _hidden(stack: Stack, x: Tensor, layer: int) -> Tensor:
    """The hidden states of one layer alone, from the kernel; packed rows."""
    here = slice(layer * stack.directions, (layer + 1) * stack.directions)
    flat = [tensor for weights in stack.weights[here] for tensor in weights if tensor is not None]
    initial = stack.initial[here].detach()
    state: Any = [initial, stack.cell[here].detach()] if stack.kind == "lstm" else initial
    sizes = torch.tensor(stack.sizes, device="cpu")  # where the kernel wants them
    has_bias = stack.weights[0].input_bias is not None
    return getattr(torch, stack.kind)(  # type: ignore[no-any-return]
        x.detach(), sizes, state, flat, has_bias, 1, 0.0, False, stack.directions == 2
    )[0]


class _Account:
    """The ledger's leaves of one call: constants that entered, and what the directions absorbed."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.constants: list[Tensor] = []
        self.absorbed: list[Tensor] = []

    def constant(self, tensor: Tensor) -> Tensor:
        """A constant as a leaf while a ledger is kept, so that its share can be asked for."""
        if self.call.row is None or self.call.is_signal(tensor):
            return tensor
        leaf = tensor.detach().clone().requires_grad_()
        self.constants.append(leaf)
        return leaf

    def absorber(self, like: Tensor) -> Tensor:
        """Four zeros whose gradient is one direction's biases, stabilizer, gates' constants and rule."""
        zeros = torch.zeros(4, dtype=like.dtype, device=like.device, requires_grad=self.call.row is not None)
        self.absorbed.append(zeros)
        return zeros

    def book(self, outputs: Sequence[Tensor]) -> None:
        """Books the shares for each output by one more backward pass through the recurrence."""
        if self.call.row is None:
            return
        for place, output in enumerate(outputs):
            for column, index in (("bias", 0), ("stabilizer", 1), ("constant", 2), ("other", 3)):
                self.call.absorb(column, functools.partial(self._asked, output, index), place)
            self.call.absorb("constant", functools.partial(self._constants, output), place)

    def _asked(self, output: Tensor, index: int, m: Tensor) -> Tensor:
        found = torch.autograd.grad(output, self.absorbed, m, retain_graph=True, allow_unused=True)
        return sum((g[index] for g in found if g is not None), m.new_zeros(()))

    def _constants(self, output: Tensor, m: Tensor) -> Tensor:
        if not self.constants:
            return m.new_zeros(())
        found = torch.autograd.grad(output, self.constants, m, retain_graph=True, allow_unused=True)
        return sum(((c * g).sum() for c, g in zip(self.constants, found) if g is not None), m.new_zeros(()))


def _split_layouts(stack: Stack, examples: int) -> list[Layout]:
    return [Layout.of(stack.sizes, examples, bool(d), stack.x.device) for d in range(stack.directions)]


@register_rule("signal", *SEQUENCES)
def recurrent(call: Call, *, epsilon: float = 0.0) -> tuple[Tensor, ...]:
    """LSTM, GRU, RNN: gates get nothing, signals everything; biases keep their share.

    ``c = f c' + i tanh(z)``: R splits between ``f c'`` and ``i tanh(z)`` by their values, f, i and o get nothing, and z
    shares among ``W x``, ``V h'`` and b by the epsilon rule. Arras et al. 2017 (arXiv 1706.07206, section 3.2), 2019.
    Equals cells written by hand with the products' rule ``signal`` at epsilon = 0, and at every epsilon where the
    cell has one map of ``cat([x, h])``. A GRU by hand whose first state is a constant differs at the first step: there
    ``r * (V h + d)`` is a gate times a constant, whose relevance the gate takes; here the bias d keeps it.

    Args:
        call: The intercepted call, padded or packed.
        epsilon: Added to ``|z|`` of the signal's pre-activation; 0 is LRP-0. ``UnifiedLRP(epsilon=...)`` sets it; in a
            composite of one's own ``(operation("lstm"), rule("signal", epsilon=...))`` does.

    Raises:
        UnsupportedOperationError: Where the kernel itself drops entries.
    """
    return _explained(call, Rule("signal", epsilon))


@register_rule("uniform", *SEQUENCES)
def recurrent_uniform(call: Call, *, epsilon: float = 0.0) -> tuple[Tensor, ...]:
    """LSTM, GRU: of each gate times signal half the relevance goes to each, to the gate through its sigmoid's secant.

    Equals cells by hand with the products' rule ``uniform`` (AttnLRP's, Achtibat et al. 2024, arXiv 2402.05602,
    Proposition 3.2) at epsilon = 0; ``sigmoid(0) = 1/2`` is a constant's share. An RNN has no gate: as ``signal``.

    Args:
        call, epsilon: As in `recurrent`; the gates' pre-activations have the epsilon too.
    """
    return _explained(call, Rule("uniform", epsilon))


@register_rule("ratio", *SEQUENCES)
def recurrent_ratio(call: Call, *, epsilon: float = 0.0) -> tuple[Tensor, ...]:
    """LSTM, GRU: of each gate g times signal s the gate gets ``|g| / (|g| + |s|)``, the signal the rest.

    Equals cells by hand with the products' rule ``ratio`` (Otsuki et al., ECCV 2024) at epsilon = 0.

    Args:
        call, epsilon: As in `recurrent_uniform`.
    """
    return _explained(call, Rule("ratio", epsilon))


@register_rule("gradient", *SEQUENCES)
def recurrent_gradient(call: Call, *, epsilon: float = 0.0) -> tuple[Tensor, ...]:
    """LSTM, GRU: as ``signal``, and each gate besides gets what gradient times input would give it.

    Gates decide what is remembered, which ``signal`` leaves out of account. Conserves nothing: what the gates get is
    added, and booked as ``other``. Equals cells by hand with the rule ``gradient`` for products and sigmoids at epsilon = 0.

    Args:
        call, epsilon: As in `recurrent_uniform`.
    """
    return _explained(call, Rule("gradient", epsilon))


def _explained(call: Call, rule: Rule) -> tuple[Tensor, ...]:
    with torch.no_grad():
        values = call.native()
    stack, packed, batch_first = _read(call)
    account = _Account(call)
    held = _with_leaves(stack, call, account, packed)
    examples = stack.initial.shape[1]
    layouts = _split_layouts(stack, examples)
    layers = len(stack.weights) // stack.directions
    rows = held.x
    lasts: list[Tensor] = []
    cells: list[Tensor] = []
    for layer in range(layers):
        with torch.no_grad():
            last_layer = layer == layers - 1
            hidden = _packed_rows(values[0], packed, batch_first) if last_layer else _hidden(stack, rows, layer)
        parts = hidden.chunk(stack.directions, 1)
        outputs: list[Tensor] = []
        for direction, layout in enumerate(layouts):
            place = layer * stack.directions + direction
            last = values[1][place]
            known = Known(parts[direction], last, values[2][place] if stack.kind == "lstm" else last)
            found = directed(
                stack.kind, rows, held.initial[place], held.cell[place], stack.weights[place], layout, known, rule,
                account.absorber(hidden),
            )  # fmt: skip
            for kept, tensor in zip((outputs, lasts, cells), found):
                kept.append(tensor)
        rows = torch.cat(outputs, 1)
    out = rows if packed else _padded(rows, examples, batch_first)
    results = (out, torch.stack(lasts), torch.stack(cells)) if stack.kind == "lstm" else (out, torch.stack(lasts))
    account.book(results)
    return results


def _packed_rows(values: Tensor, packed: bool, batch_first: bool) -> Tensor:
    if packed:
        return values
    return (values.transpose(0, 1) if batch_first else values).flatten(0, 1)


def _padded(rows: Tensor, examples: int, batch_first: bool) -> Tensor:
    sequence = rows.unflatten(0, (-1, examples))
    return sequence.transpose(0, 1) if batch_first else sequence


def _with_leaves(stack: Stack, call: Call, account: _Account, packed: bool) -> Stack:
    """The stack with its constant arguments as leaves of the ledger."""
    state = call.args[2 if packed else 1]
    x = stack.x if call.is_signal(call.args[0]) else account.constant(stack.x)
    if stack.kind != "lstm":
        return stack._replace(x=x, initial=account.constant(state), cell=state.detach())
    return stack._replace(x=x, initial=account.constant(state[0]), cell=account.constant(state[1]))


@register_rule("signal", *CELLS)
def recurrent_cell(call: Call, *, epsilon: float = 0.0) -> Any:
    """One step of an LSTM, GRU or RNN: as the rule of the whole sequence."""
    return _explained_cell(call, Rule("signal", epsilon))


@register_rule("uniform", *CELLS)
def recurrent_cell_uniform(call: Call, *, epsilon: float = 0.0) -> Any:
    """One step, half to each factor: as `recurrent_uniform`."""
    return _explained_cell(call, Rule("uniform", epsilon))


@register_rule("ratio", *CELLS)
def recurrent_cell_ratio(call: Call, *, epsilon: float = 0.0) -> Any:
    """One step, by magnitude: as `recurrent_ratio`."""
    return _explained_cell(call, Rule("ratio", epsilon))


@register_rule("gradient", *CELLS)
def recurrent_cell_gradient(call: Call, *, epsilon: float = 0.0) -> Any:
    """One step, the gates by their gradients: as `recurrent_gradient`."""
    return _explained_cell(call, Rule("gradient", epsilon))


def _explained_cell(call: Call, rule: Rule) -> Any:
    with torch.no_grad():
        value = call.native()
    kind = call.operation.removesuffix("_cell")
    account = _Account(call)
    x, state, *rest = call.args
    given = [*rest, *(call.kwargs[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if name in call.kwargs)]
    flat = [tensor for tensor in given if tensor is not None]
    initial, cell = (account.constant(s) for s in (state if kind == "lstm" else (state, state.detach())))
    hidden, last = value if kind == "lstm" else (value, value)
    layout = Layout.of([x.shape[0]], x.shape[0], False, x.device)
    found = directed(
        kind, account.constant(x), initial, cell, _weights(flat, len(flat) == 4), layout, Known(hidden, hidden, last),
        rule, account.absorber(hidden),
    )  # fmt: skip
    results = (found[0], found[2]) if kind == "lstm" else found[:1]
    account.book(results)
    return results if kind == "lstm" else results[0]


@register_rule("native", "pack_padded_sequence", port="routes")
def packed_sequence(call: Call) -> Any:
    """Sequences of unlike lengths are packed: entries are selected, native."""
    return call.native()


@register_rule("native", "pad_packed_sequence", port="routes", affine=True)
def padded_sequence(call: Call) -> Any:
    """Packed sequences are padded: native; a padding value is booked as a constant."""
    return native_affine(call)
