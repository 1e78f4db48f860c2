"""What reaches a recurrent layer's gates where the products' rule gives them a part of the relevance.

With g a gate, s its signal and m the multiplier of ``g s``, the product sends ``m a_s g`` to the signal and ``m a_g s`` to
the gate; the sigmoid sends that on times its secant ``(sigma(z) - 1/2) / z``, and its ``sigma(0) = 1/2`` is a constant's
share. With ``gradient`` nothing is shared: ``a_s = a_g = 1``, the sigmoid's derivative in the secant's place; what is made
or lost by it is booked as ``other``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import widened

PRODUCTS = ("signal", "uniform", "ratio", "gradient")
"""The rules of a gate times a signal; ``signal`` gives the gate nothing."""

Share = float | Tensor


class Gate(NamedTuple):
    """One gate's pre-activation and what it receives, each of shape (rows, H).

    Args:
        source: Whose multiplier it receives: ``"state"``, ``"signal"`` (the signal's pre-activation), ``"output"``.
        factor: From that multiplier to the pre-activation's, before the epsilon rule's damping.
        preactivation: z. damping: ``|z| / (|z| + epsilon)``.
        rest: From the source's multiplier to what neither factor of the gate's products receives.
        bias: The part of z that is bias, (H,), or None.
    """

    source: str
    factor: Tensor
    preactivation: Tensor
    damping: Share
    rest: Tensor
    bias: Tensor | None

    def sent(self, multiplier: Tensor, rows: slice) -> Tensor:
        """The pre-activation's multiplier in some rows."""
        damping = self.damping[rows] if isinstance(self.damping, Tensor) else self.damping
        return multiplier * self.factor[rows] * damping


class Step(NamedTuple):
    """The multipliers of all rows at the three places a gate can read, each of shape (rows, H)."""

    signal: Tensor
    state: Tensor
    output: Tensor


class Gates(NamedTuple):
    """A layer's blocks in torch's order, None where the signal's own pre-activation stands."""

    blocks: Sequence[Gate | None]
    column: str

    def spread(self, signal: Tensor, state: Tensor, output: Tensor, rows: slice, reset: Tensor | None) -> list[Tensor]:
        """The multipliers of all blocks' pre-activations towards the input, and towards the hidden state."""
        places = {"signal": signal, "state": state, "output": output}
        own = [signal if gate is None else gate.sent(places[gate.source], rows) for gate in self.blocks]
        if reset is None:
            return [torch.cat(own, 1)] * 2
        held = [signal * reset[rows] if gate is None else m for gate, m in zip(self.blocks, own)]
        return [torch.cat(own, 1), torch.cat(held, 1)]

    def taken(self, sent: Tensor, step: Step) -> Tensor:
        """What the gates' biases, stabilizers, constants and the rule itself took; shape (4,)."""
        total = sent.new_zeros(4)
        for gate, m in zip(self.blocks, sent.chunk(len(self.blocks), 1)):
            if gate is None:
                continue
            total[2 + (self.column == "other")] += (getattr(step, gate.source) * gate.rest).sum()
            if gate.bias is not None:
                total[0] += (m * gate.bias).sum()
            if isinstance(gate.damping, Tensor):
                z, d = gate.preactivation, gate.damping
                total[1] += torch.where(d == 0, 0, m * z * (1 - d) / torch.where(d == 0, 1, d)).sum()
        return total


def product_shares(products: str, gate: Tensor, signal: Tensor) -> tuple[Share, Share]:
    """The gate's and the signal's share of their product's relevance: ``a_g``, ``a_s``."""
    if products == "signal":
        return 0.0, 1.0
    if products == "uniform":
        return 0.5, 0.5
    if products == "gradient":
        return 1.0, 1.0
    total = gate.abs() + signal.abs()
    part = torch.where(total == 0, 0.5, gate.abs() / torch.where(total == 0, 1, total))
    return part, 1 - part


def opening(products: str, gate: Tensor, z: Tensor) -> Tensor:
    """From the multiplier of ``sigma(z)`` to that of z: the secant from ``sigma(0)``, or the derivative."""
    if products == "gradient":
        return gate * (1 - gate)
    wide = widened(z)
    near = wide.abs() <= torch.finfo(wide.dtype).eps ** (1 / 3)
    return torch.where(near, 0.25, (widened(gate) - 0.5) / torch.where(near, 1, wide)).to(z.dtype)


def excess(shares: tuple[Share, Share], gate: Tensor, signal: Tensor) -> Tensor:
    """Per multiplier of ``g s``: the product's relevance that neither factor gets; negative where it is given twice."""
    return (1 - shares[0] - shares[1]) * gate * signal
