"""Arras's rule written out, loop by loop, from the papers; and recurrent cells as a user writes them by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def share(weight: Tensor, x: Tensor, z: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """Arras et al. 2017, eq. 4 without its bias term: ``R_i = sum_j x_i w_ji R_j / (z_j + eps sign(z_j))``."""
    received = torch.zeros_like(x)
    for j in range(len(z)):
        denominator = z[j] + (epsilon if z[j] >= 0 else -epsilon)
        if denominator != 0:
            received += x * weight[j] * relevance[j] / denominator
    return received


def lstm_relevance(
    x: Tensor, h: Tensor, c: Tensor, params: list[Tensor], wanted: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of x (T, F), of the initial h and c; ``wanted`` (T, H) is the relevance of each step's output."""
    w, v, b = params[0], params[1], params[2] + params[3]
    steps = []
    for t in range(len(x)):
        i, f, g, o = (w @ x[t] + v @ h + b).chunk(4)
        kept, added = torch.sigmoid(f) * c, torch.sigmoid(i) * torch.tanh(g)
        steps.append((h, kept, added, g))
        c = kept + added
        h = torch.sigmoid(o) * torch.tanh(c)
    size = len(h)
    signal = slice(2 * size, 3 * size)
    of_x, of_h, of_c = torch.zeros_like(x), torch.zeros_like(h), torch.zeros_like(c)
    for t in reversed(range(len(x))):
        before, kept, added, g = steps[t]
        of_c = of_c + of_h + wanted[t]  # the output gate gets nothing, tanh passes everything
        total = kept + added
        of_g = of_c * added / total
        of_c = of_c * kept / total
        of_x[t] = share(w[signal], x[t], g, of_g, epsilon)
        of_h = share(v[signal], before, g, of_g, epsilon)
    return of_x, of_h, of_c


def gru_relevance(x: Tensor, h: Tensor, params: list[Tensor], wanted: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """As `lstm_relevance`: the reset and update gates get nothing."""
    w, v, b, d = params
    size = len(h)
    signal = slice(2 * size, 3 * size)
    steps = []
    for t in range(len(x)):
        own, held = w @ x[t] + b, v @ h + d
        r, z = (torch.sigmoid(own[k] + held[k]) for k in (slice(0, size), slice(size, 2 * size)))
        n = own[signal] + r * held[signal]
        steps.append((h, r, n, (1 - z) * torch.tanh(n), z * h))
        h = (1 - z) * torch.tanh(n) + z * h
    of_x, of_h = torch.zeros_like(x), torch.zeros_like(h)
    for t in reversed(range(len(x))):
        before, r, n, new, old = steps[t]
        arriving = of_h + wanted[t]
        of_n = arriving * new / (new + old)
        of_x[t] = share(w[signal], x[t], n, of_n, epsilon)
        of_h = arriving * old / (new + old) + share(r[:, None] * v[signal], before, n, of_n, epsilon)
    return of_x, of_h


class HandWritten(nn.Module):
    """One or two directions of one layer, its cell in elementary torch calls.

    Args:
        kernel: The torch module whose parameters it shares.
        constant_start: The first hidden state is a constant.
    """

    def __init__(self, kernel: nn.RNNBase, constant_start: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.constant_start = constant_start

    def forward(self, x: Tensor) -> Tensor:
        """The output sequence (N, T, directions * H) of ``x`` (N, T, F)."""
        for layer in range(self.kernel.num_layers):
            outputs = [self._run(x, f"l{layer}", False)]
            if self.kernel.bidirectional:
                outputs.append(self._run(x, f"l{layer}_reverse", True))
            x = torch.cat(outputs, -1)
        return x

    def _run(self, x: Tensor, name: str, reverse: bool) -> Tensor:
        # Zeros, but a signal: a gate times a constant (the reset gate times the hidden bias) is a scaled gate, and the
        # products' rule would rightly give it all; the kernel knows that bias for what it is.
        h = (0 * x[:, 0, :1]).expand(-1, self.kernel.proj_size or self.kernel.hidden_size)
        h = torch.zeros_like(h) if self.constant_start else h
        c = x.new_zeros(x.shape[0], self.kernel.hidden_size)
        found = []
        for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
            h, c = self._step(x[:, t], h, c, name)
            found.append(h)
        return torch.stack(found[::-1] if reverse else found, 1)

    def _step(self, x: Tensor, h: Tensor, c: Tensor, name: str) -> tuple[Tensor, Tensor]:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w, v, b, d = (getattr(self.kernel, f"{kind}_{name}") for kind in kinds)
        own, held = nn.functional.linear(x, w, b), nn.functional.linear(h, v, d)
        if self.kernel.mode == "LSTM":
            i, f, g, o = (own + held).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            if self.kernel.proj_size:
                h = nn.functional.linear(h, getattr(self.kernel, f"weight_hr_{name}"))
            return h, c
        if self.kernel.mode == "GRU":
            (a, p, q), (e, k, s) = own.chunk(3, 1), held.chunk(3, 1)
            z = torch.sigmoid(p + k)
            return (1 - z) * torch.tanh(q + torch.sigmoid(a + e) * s) + z * h, c
        return (torch.tanh(own + held) if self.kernel.mode == "RNN_TANH" else torch.relu(own + held)), c


def part(products: str, gate: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """What gate and signal get of their product's relevance, as shares of it, unit by unit."""
    gates, signals = [], []
    for g, s in zip(gate.tolist(), signal.tolist()):
        both = abs(g) + abs(s)
        shares = {"signal": (0.0, 1.0), "uniform": (0.5, 0.5), "gradient": (1.0, 1.0),
                  "ratio": (abs(g) / both, abs(s) / both) if both else (0.5, 0.5)}[products]  # fmt: skip
        gates.append(shares[0])
        signals.append(shares[1])
    return gate.new_tensor(gates), gate.new_tensor(signals)


def through_sigmoid(products: str, z: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of z from that of sigmoid(z): less the constant's half, or gradient times input."""
    value = torch.sigmoid(z)
    if products == "gradient":
        return relevance * (1 - value) * z
    return relevance * (value - 0.5) / value


def lstm_relevance_of_gates(products: str, x: Tensor, params: list[Tensor], wanted: Tensor, epsilon: float) -> Tensor:
    """`lstm_relevance` of x from zero states, with each product's relevance shared between gate and signal."""
    w, v, b = params[0], params[1], params[2] + params[3]
    size = len(b) // 4
    h = c = x.new_zeros(size)
    steps = []
    for t in range(len(x)):
        z = w @ x[t] + v @ h + b
        i, f, g, o = z.chunk(4)
        new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        steps.append((h, c, z, new))
        c, h = new, torch.sigmoid(o) * torch.tanh(new)
    of_x, of_h, of_c = torch.zeros_like(x), torch.zeros_like(h), torch.zeros_like(h)
    for t in reversed(range(len(x))):
        before, former, z, state = steps[t]
        i, f, g, o = z.chunk(4)
        arriving = of_h + wanted[t]
        to_gate, to_signal = part(products, torch.sigmoid(o), torch.tanh(state))
        of_o = through_sigmoid(products, o, arriving * to_gate)
        of_state = of_c + arriving * to_signal
        kept, added = torch.sigmoid(f) * former, torch.sigmoid(i) * torch.tanh(g)
        of_kept, of_added = of_state * kept / state, of_state * added / state
        to_f, to_former = part(products, torch.sigmoid(f), former)
        to_i, to_g = part(products, torch.sigmoid(i), torch.tanh(g))
        of_f = through_sigmoid(products, f, of_kept * to_f)
        of_i = through_sigmoid(products, i, of_added * to_i)
        of_c = of_kept * to_former
        of_z = torch.cat([of_i, of_f, of_added * to_g, of_o])
        of_x[t] = share(w, x[t], z, of_z, epsilon)
        of_h = share(v, before, z, of_z, epsilon)
    return of_x


def gru_relevance_of_gates(products: str, x: Tensor, params: list[Tensor], wanted: Tensor, epsilon: float) -> Tensor:
    """`gru_relevance` of x from a zero state, with each product's relevance shared between gate and signal."""
    w, v, b, d = params
    size = len(b) // 3
    h = x.new_zeros(size)
    signal = slice(2 * size, 3 * size)
    steps = []
    for t in range(len(x)):
        own, held = w @ x[t] + b, v @ h + d
        r, u = own[:size] + held[:size], own[size : 2 * size] + held[size : 2 * size]
        n = own[signal] + torch.sigmoid(r) * held[signal]
        new, old = (1 - torch.sigmoid(u)) * torch.tanh(n), torch.sigmoid(u) * h
        steps.append((h, r, u, n, held[signal], new, old))
        h = new + old
    of_x, of_h = torch.zeros_like(x), torch.zeros_like(h)
    for t in reversed(range(len(x))):
        before, r, u, n, held, new, old = steps[t]
        arriving = of_h + wanted[t]
        closing, opening = 1 - torch.sigmoid(u), torch.sigmoid(u)
        of_new, of_old = arriving * new / (new + old), arriving * old / (new + old)
        to_closing, to_n = part(products, closing, torch.tanh(n))
        to_opening, to_before = part(products, opening, before)
        # 1 - sigmoid(u): the 1 takes its part, the sigmoid's is -sigmoid(u) / (1 - sigmoid(u)) of it.
        of_sigmoid = of_new * to_closing * -opening / closing + of_old * to_opening
        of_u = through_sigmoid(products, u, of_sigmoid)
        of_n = of_new * to_n * n.abs() / (n.abs() + epsilon)
        of_inner = of_n * torch.sigmoid(r) * held / n  # of the product r (V h + d), a part of n
        to_r, to_held = part(products, torch.sigmoid(r), held)
        of_r = through_sigmoid(products, r, of_inner * to_r)
        of_gates, z = torch.cat([of_r, of_u]), torch.cat([r, u])
        of_x[t] = share(w[: 2 * size], x[t], z, of_gates, epsilon) + share(w[signal], x[t], n, of_n, 0.0)
        of_h = of_old * to_before + share(v[: 2 * size], before, z, of_gates, epsilon)
        of_h = of_h + share(v[signal], before, held, of_inner * to_held, 0.0)
    return of_x
