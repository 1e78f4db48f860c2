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
