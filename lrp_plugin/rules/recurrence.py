"""One recurrent layer in one direction, with the backward of its products' rule: ``signal`` is that of Arras et al.
(2017, arXiv 1706.07206, section 3.2), the others stand in `gates`.

The torch kernel gives the hidden states of all steps, so every gate of every step comes from two matrix products over
all steps at once; only the cell state and, backward, the multiplier go step by step. Sequences are held packed, as
torch packs them: ``rows`` are all (step, example) pairs, ``sizes[t]`` examples are running at step t. A padded batch
is the case of equal sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from lrp_plugin.algebra.formulas import widened
from lrp_plugin.rules.gates import Gate, Gates, Step, excess, opening, product_shares
from lrp_plugin.torch_private import plain


class Weights(NamedTuple):
    """One layer's parameters in one direction: torch's order, ``None`` where the layer has none."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


class Layout(NamedTuple):
    """The order in which one direction runs through packed rows.

    Args:
        spans: ``(first row, examples)`` of each step, in the direction's order.
        previous: For each row the row of ``cat([initial (N), hidden (rows)])`` that holds its previous hidden state.
    """

    spans: list[tuple[int, int]]
    previous: Tensor

    @classmethod
    def of(cls, sizes: Sequence[int], examples: int, reverse: bool, device: torch.device) -> Layout:
        """The layout of one direction over steps of these sizes."""
        starts = [0, *itertools.accumulate(sizes)]
        spans = list(zip(starts, sizes))
        if reverse:
            spans.reverse()
        latest = torch.arange(examples, device="cpu")
        previous = torch.empty(starts[-1], dtype=torch.long, device="cpu")
        for start, size in spans:
            previous[start : start + size] = latest[:size]
            latest[:size] = torch.arange(start, start + size, device="cpu") + examples
        return cls(spans, previous.to(device))


class Flow(NamedTuple):
    """What one direction's multipliers are made of, each of shape (rows, H).

    Args:
        preactivation: z of the signal's tanh or ReLU. damping: ``|z| / (|z| + epsilon)``.
        take: From the state's multiplier to the pre-activation's: the input gate times the secant.
        keep: From the state's multiplier to the previous state's: the forget gate; None in a plain RNN.
        emit: From the output's multiplier to the cell's: the output gate times tanh's secant; None without a cell.
        reset: The gate on the hidden state inside the pre-activation (GRU), else None.
        bias: The part of the pre-activation that is bias, or None.
        output: The projected output, and its damping (LSTM with ``proj_size``), or None.
        gates: What the gates receive, or None where they get nothing.
    """

    preactivation: Tensor
    damping: Tensor | float
    take: Tensor
    keep: Tensor | None = None
    emit: Tensor | None = None
    reset: Tensor | None = None
    bias: Tensor | None = None
    output: tuple[Tensor, Tensor | float] | None = None
    gates: Gates | None = None


class Rule(NamedTuple):
    """How a layer shares relevance: the products' rule (`gates.PRODUCTS`), and the epsilon of its maps."""

    products: str
    epsilon: float


def _secant(value: Tensor, x: Tensor) -> Tensor:
    """``tanh(x) / x``, 1 at 0; tanh is exact near 0, so the quotient is."""
    return torch.where(x == 0, 1, value / torch.where(x == 0, 1, x))


def _damping(z: Tensor, epsilon: float) -> Tensor | float:
    return 1.0 if epsilon == 0 else (widened(z).abs() / (widened(z).abs() + epsilon)).to(z.dtype)


def _mapped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _gate(
    products: str, source: str, gate: Tensor, z: Tensor, received: Tensor, rest: Tensor, epsilon: float, bias: Tensor | None
) -> Gate:  # fmt: skip
    """A gate that receives ``received`` times its source's multiplier at its value."""
    opened = opening(products, gate, z)
    return Gate(source, received * opened, z, _damping(z, epsilon), rest + received * (gate - opened * z), bias)


def _lstm_flow(
    x: Tensor, before: Tensor, cell: Tensor, weights: Weights, layout: Layout, rule: Rule
) -> tuple[Flow, int]:
    z = _mapped(x, weights.input, weights.input_bias) + _mapped(before, weights.hidden, weights.hidden_bias)
    let, forget, pre, out = z.chunk(4, 1)
    let, forget, out, candidate = let.sigmoid(), forget.sigmoid(), out.sigmoid(), pre.tanh()
    added = let * candidate
    states, state = torch.empty_like(added), cell.detach().to(added.dtype).clone()
    former = None if rule.products == "signal" else torch.empty_like(added)
    for start, size in layout.spans:
        if former is not None:
            former[start : start + size] = state[:size]
        running = torch.addcmul(added[start : start + size], forget[start : start + size], state[:size])
        states[start : start + size] = running
        state[:size] = running
    squashed = states.tanh()
    hidden = out * squashed
    output = None
    if weights.projection is not None:
        projected = _mapped(hidden, weights.projection, None)
        output = (projected, _damping(projected, rule.epsilon))
    size = pre.shape[1]
    flow = Flow(
        pre, _damping(pre, rule.epsilon), let * _secant(candidate, pre), keep=forget, emit=out * _secant(squashed, states),
        bias=_block_bias(weights, slice(2 * size, 3 * size)), output=output,
    )  # fmt: skip
    if former is not None:
        pairs = ((let, candidate), (forget, former), (out, squashed))
        flow = _with_lstm_gates(flow, z.chunk(4, 1), pairs, weights, rule)
    return flow, 2 * size


def _with_lstm_gates(
    flow: Flow, z: Sequence[Tensor], pairs: Sequence[tuple[Tensor, Tensor]], weights: Weights, rule: Rule
) -> Flow:
    """The flow whose products, each a gate times a signal in torch's order, share by ``rule``."""
    shares = [product_shares(rule.products, *pair) for pair in pairs]
    size = z[0].shape[1]
    gates = [
        _gate(
            rule.products, source, pair[0], z[place], share[0] * pair[1], excess(share, *pair), rule.epsilon,
            _block_bias(weights, slice(place * size, (place + 1) * size)),
        )
        for place, source, pair, share in zip((0, 1, 3), ("state", "state", "output"), pairs, shares)
    ]  # fmt: skip
    assert flow.keep is not None and flow.emit is not None
    taken, kept, emitted = (share[1] for share in shares)
    column = "other" if rule.products == "gradient" else "constant"
    return flow._replace(
        take=flow.take * taken, keep=flow.keep * kept, emit=flow.emit * emitted,
        gates=Gates([gates[0], gates[1], None, gates[2]], column),
    )  # fmt: skip


def _gru_flow(x: Tensor, before: Tensor, weights: Weights, rule: Rule) -> tuple[Flow, int]:
    own = _mapped(x, weights.input, weights.input_bias).chunk(3, 1)
    held = _mapped(before, weights.hidden, weights.hidden_bias).chunk(3, 1)
    reset, update = (own[0] + held[0]).sigmoid(), (own[1] + held[1]).sigmoid()
    pre = own[2] + reset * held[2]
    size = pre.shape[1]
    take = (1 - update) * _secant(pre.tanh(), pre)
    flow = Flow(pre, _damping(pre, rule.epsilon), take, keep=update, reset=reset)
    if rule.products != "signal":
        flow = _with_gru_gates(flow, (own[0] + held[0], own[1] + held[1]), held[2], before, weights, rule)
    bias = None
    if weights.input_bias is not None and weights.hidden_bias is not None:
        assert flow.reset is not None
        bias = weights.input_bias[2 * size :] + flow.reset * weights.hidden_bias[2 * size :]
    return flow._replace(bias=bias), 2 * size


def _with_gru_gates(
    flow: Flow, z: tuple[Tensor, Tensor], held: Tensor, before: Tensor, weights: Weights, rule: Rule
) -> Flow:
    """The flow whose products ``r (V h + d)``, ``(1 - u) tanh(n)`` and ``u h`` share by ``rule``."""
    reset, update = z[0].sigmoid(), z[1].sigmoid()
    candidate, size = flow.preactivation.tanh(), held.shape[1]
    inner = product_shares(rule.products, reset, held)
    new = product_shares(rule.products, 1 - update, candidate)
    old = product_shares(rule.products, update, before)
    # The 1 of 1 - u is a constant: its share is the constant's, like sigma(0).
    rest = excess(new, 1 - update, candidate) + excess(old, update, before) + new[0] * candidate
    gates = [
        _gate(rule.products, "signal", reset, z[0], inner[0] * held, excess(inner, reset, held), rule.epsilon,
              _block_bias(weights, slice(0, size))),
        _gate(rule.products, "state", update, z[1], old[0] * before - new[0] * candidate, rest, rule.epsilon,
              _block_bias(weights, slice(size, 2 * size))),
    ]  # fmt: skip
    column = "other" if rule.products == "gradient" else "constant"
    return flow._replace(
        take=flow.take * new[1], keep=update * old[1], reset=reset * inner[1], gates=Gates([*gates, None], column)
    )


def _rnn_flow(x: Tensor, before: Tensor, weights: Weights, kind: str, rule: Rule) -> tuple[Flow, int]:
    pre = _mapped(x, weights.input, weights.input_bias) + _mapped(before, weights.hidden, weights.hidden_bias)
    take = _secant(pre.tanh(), pre) if kind == "rnn_tanh" else (pre > 0).to(pre.dtype)
    return Flow(pre, _damping(pre, rule.epsilon), take, bias=_block_bias(weights, slice(None))), 0


def _block_bias(weights: Weights, part: slice) -> Tensor | None:
    if weights.input_bias is None or weights.hidden_bias is None:
        return None
    return weights.input_bias[part] + weights.hidden_bias[part]


def _flow(
    kind: str, x: Tensor, before: Tensor, cell: Tensor, weights: Weights, layout: Layout, rule: Rule
) -> tuple[Flow, int]:
    """The flow of one direction, and the first row of the signal's block in the weights."""
    if kind == "lstm":
        return _lstm_flow(x, before, cell, weights, layout, rule)
    if kind == "gru":
        return _gru_flow(x, before, weights, rule)
    return _rnn_flow(x, before, weights, kind, rule)


class Known(NamedTuple):
    """The kernel's values of one direction: hidden states (rows, H), last hidden and last cell state (N, H)."""

    hidden: Tensor
    last: Tensor
    cell: Tensor


class _Direction(Function):
    """One layer in one direction: the kernel's values forward, the rule backward.

    ``absorbed`` is a vector of four zeros whose gradient is what the biases, the stabilizer, the gates' constants and the
    rule itself took: the ledger asks for it, the explanation does not.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, initial: Tensor, cell: Tensor, absorbed: Tensor, known: Known, layout: Layout,
        flow: Flow, into: tuple[Tensor, Tensor, Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        ctx.layout, ctx.flow, ctx.into = layout, flow, into
        return plain(known.hidden), plain(known.last), plain(known.cell)

    @staticmethod
    def backward(ctx: Any, output: Tensor, last: Tensor, cell: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        flow, (from_input, from_hidden, projection) = ctx.flow, ctx.into
        found = _back_in_time(output, last, cell, flow, ctx.layout, from_hidden, projection)
        taken = None
        if ctx.needs_input_grad[3]:
            taken = _taken(found, flow)
        return found.sent @ from_input, found.last, found.cell, taken, None, None, None, None


class _Back(NamedTuple):
    """The multipliers of all blocks' pre-activations, of all outputs, of the initial hidden and cell state; and `Step`."""

    sent: Tensor
    emitted: Tensor
    last: Tensor
    cell: Tensor
    step: Step


def _back_in_time(
    output: Tensor, last: Tensor, cell: Tensor, flow: Flow, layout: Layout, from_hidden: Tensor,
    projection: Tensor | None,
) -> _Back:  # fmt: skip
    take, gates = flow.take * flow.damping, flow.gates
    signal, last, cell = torch.empty_like(take), last.clone(), cell.clone()
    emitted = torch.empty_like(output)
    step = (
        Step(signal, signal, signal) if gates is None else Step(signal, torch.empty_like(take), torch.empty_like(take))
    )
    sent = signal if gates is None else take.new_empty(len(take), len(gates.blocks) * take.shape[1])
    for start, size in reversed(layout.spans):
        rows = slice(start, start + size)
        m = last[:size] + output[rows]
        emitted[rows] = m
        if projection is not None and flow.output is not None:
            damping = flow.output[1]
            m = (m * damping[rows] if isinstance(damping, Tensor) else m) @ projection
        state = m if flow.emit is None else torch.addcmul(cell[:size], m, flow.emit[rows])
        pre = torch.mul(state, take[rows], out=signal[rows])
        if gates is None:
            back = (pre if flow.reset is None else pre * flow.reset[rows]) @ from_hidden
        else:
            step.state[rows], step.output[rows] = state, m
            sent[rows], held = gates.spread(pre, state, m, rows, flow.reset)
            back = held @ from_hidden
        if flow.emit is not None and flow.keep is not None:
            cell[:size] = state * flow.keep[rows]
        elif flow.keep is not None:
            back = torch.addcmul(back, state, flow.keep[rows])
        last[:size] = back
    return _Back(sent, emitted, last, cell, step)


def _taken(found: _Back, flow: Flow) -> Tensor:
    """What the biases, the stabilizer, the gates' constants and the rule absorbed; shape (4,)."""
    sent, total = found.step.signal, found.sent.new_zeros(4)
    if flow.bias is not None:
        total[0] += (sent * flow.bias).sum()
    if isinstance(flow.damping, Tensor):
        # m z (1 - d) with sent = m d, and 0 where z = 0
        z, d = flow.preactivation, flow.damping
        total[1] += torch.where(d == 0, 0, sent * z * (1 - d) / torch.where(d == 0, 1, d)).sum()
    if flow.output is not None:
        total[1] += _projected(found.emitted, flow)
    return total if flow.gates is None else total + flow.gates.taken(found.sent, found.step)


def _projected(emitted: Tensor, flow: Flow) -> Tensor:
    assert flow.output is not None
    value, damping = flow.output
    return emitted.new_zeros(()) if not isinstance(damping, Tensor) else (emitted * value * (1 - damping)).sum()


def directed(
    kind: str, x: Tensor, initial: Tensor, cell: Tensor, weights: Weights, layout: Layout, known: Known,
    rule: Rule, absorbed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One layer in one direction, differentiable; its values are the kernel's."""
    with torch.no_grad():
        before = torch.cat([initial.to(known.hidden.dtype), known.hidden])[layout.previous]
        flow, signal = _flow(kind, x, before, cell, weights, layout, rule)
    dtype, size = known.hidden.dtype, flow.take.shape[1]
    block = slice(signal, signal + size) if flow.gates is None else slice(None)
    into = (weights.input[block].to(dtype), weights.hidden[block].to(dtype),
            None if weights.projection is None else weights.projection.to(dtype))  # fmt: skip
    return _Direction.apply(x, initial, cell, absorbed, known, layout, flow, into)  # type: ignore[no-any-return]
