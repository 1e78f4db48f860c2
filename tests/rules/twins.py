"""Slow literal twins of the rules of linear maps: explicit weight matrices, one example, formulas as the papers print them.

A map is ``z_j = sum_i w_ji x_i + b_j`` with every entry of the layer's input one ``i`` and of its output one ``j``.
``R`` is the relevance of the outputs, shape (J,); each twin returns that of the inputs, shape (I,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Matrix(NamedTuple):
    """A linear map written out.

    Args:
        weight: (J, I). bias: (J,).
        links: (J, I), 1 where output j reads input i, whatever the weight's value.
    """

    weight: Tensor
    bias: Tensor
    links: Tensor


def written_out(
    function: Callable[[Tensor], Tensor], linked: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> Matrix:
    """The matrix of ``function`` from one example of ``shape``, by applying it to every unit vector.

    Args:
        function: Maps a batch (N, *shape) to (N, ...).
        linked: The same with every weight 1 and no bias.
        shape: Of one example.
    """
    size = int(torch.Size(shape).numel())
    units = torch.eye(size, dtype=torch.float64).view(size, *shape)
    nothing = torch.zeros(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        bias = function(nothing).flatten()
        weight = function(units).flatten(1) - bias
        links = (linked(units).flatten(1) > 0.5).double()
    return Matrix(weight.T.contiguous(), bias, links.T.contiguous())


def share(
    part: Tensor, bias: Tensor, relevance: Tensor, links: Tensor, stabilizer: Tensor | float, mode: str
) -> Tensor:
    """``R_i = sum_j part_ji R_j / (sum_i part_ji + b_j + stabilizer)``, the bias's own share by mode."""
    if mode == "ignore":
        bias = torch.zeros_like(bias)
    total = part.sum(1) + bias
    denominator = torch.where(total >= 0, total + stabilizer, total - stabilizer)
    if mode == "distribute":
        part = part + bias[:, None] * links / links.sum(1, keepdim=True).clamp(min=1)
    empty = total == 0
    factor = torch.where(empty, 0.0, relevance / torch.where(empty, 1.0, denominator))
    received = factor @ part
    if mode == "distribute":  # a unit whose denominator is empty: every input alike
        even = links / links.sum(1, keepdim=True).clamp(min=1)
        received = received + torch.where(empty, relevance, 0.0) @ even
    return received


def epsilon(m: Matrix, x: Tensor, R: Tensor, mode: str, epsilon: float = 0.01, relative: bool = False) -> Tensor:
    """Bach et al. 2015, eq. 58."""
    z = m.weight @ x + m.bias
    size = epsilon * z.abs().mean() if relative else epsilon
    return share(m.weight * x, m.bias, R, m.links, size, mode)


def zero(m: Matrix, x: Tensor, R: Tensor, mode: str) -> Tensor:
    """Bach et al. 2015, eq. 56."""
    return share(m.weight * x, m.bias, R, m.links, 0.0, mode)


def zplus(m: Matrix, x: Tensor, R: Tensor, mode: str, stabilizer: float = 1e-9) -> Tensor:
    """Montavon et al. 2017, eq. 16, with signed inputs as alpha = 1, beta = 0."""
    return share((m.weight * x).clamp(min=0), m.bias.clamp(min=0), R, m.links, stabilizer, mode)


def alphabeta(
    m: Matrix, x: Tensor, R: Tensor, mode: str, alpha: float = 2.0, beta: float = 1.0, stabilizer: float = 1e-9
) -> Tensor:
    """Bach et al. 2015, eq. 60; a unit with one side empty gives all to the other."""
    if beta == 0:
        return zplus(m, x, R, mode, stabilizer)
    up, down = (m.weight * x).clamp(min=0), (m.weight * x).clamp(max=0)
    bias_up, bias_down = m.bias.clamp(min=0), m.bias.clamp(max=0)
    if mode == "ignore":
        bias_up, bias_down = torch.zeros_like(m.bias), torch.zeros_like(m.bias)
    no_up, no_down = up.sum(1) + bias_up == 0, down.sum(1) + bias_down == 0
    weight_up = torch.where(no_down, 1.0, torch.where(no_up, 0.0, alpha))
    weight_down = torch.where(no_down, 0.0, torch.where(no_up, -1.0, beta))
    if mode != "distribute":
        return share(up, bias_up, R * weight_up, m.links, stabilizer, mode) - share(
            down, bias_down, R * weight_down, m.links, stabilizer, mode
        )
    both = no_up & no_down
    spread = torch.where(both, R, 0.0) @ (m.links / m.links.sum(1, keepdim=True).clamp(min=1))
    rest = torch.where(both, 0.0, R)
    return (
        spread
        + share(up, bias_up, torch.where(no_up, 0.0, rest * weight_up), m.links, stabilizer, mode)
        - share(down, bias_down, torch.where(no_down, 0.0, rest * weight_down), m.links, stabilizer, mode)
    )


def gamma(m: Matrix, x: Tensor, R: Tensor, mode: str, gamma: float = 0.25, stabilizer: float = 1e-9) -> Tensor:
    """Andeol et al. 2021: contributions of the pre-activation's own sign weigh 1 + gamma."""
    up = (m.weight @ x + m.bias >= 0)[:, None]
    contributions = m.weight * x
    own = torch.where(up, contributions.clamp(min=0), contributions.clamp(max=0))
    own_bias = torch.where(up[:, 0], m.bias.clamp(min=0), m.bias.clamp(max=0))
    return share(contributions + gamma * own, m.bias + gamma * own_bias, R, m.links, stabilizer, mode)


def gamma_montavon(m: Matrix, x: Tensor, R: Tensor, mode: str, gamma: float = 0.25, stabilizer: float = 1e-9) -> Tensor:
    """Montavon et al. 2019, section 10.2: positive weights weigh 1 + gamma."""
    lifted = m.weight + gamma * m.weight.clamp(min=0)
    return share(lifted * x, m.bias + gamma * m.bias.clamp(min=0), R, m.links, stabilizer, mode)


def flat(m: Matrix, x: Tensor, R: Tensor, mode: str, stabilizer: float = 1e-9) -> Tensor:
    """Lapuschkin et al. 2019: every input of a unit alike."""
    return share(m.links, torch.zeros_like(m.bias), R, m.links, stabilizer, "absorb")


def wsquare(m: Matrix, x: Tensor, R: Tensor, mode: str, stabilizer: float = 1e-9) -> Tensor:
    """Montavon et al. 2017, eq. 12."""
    return share(m.weight**2, torch.zeros_like(m.bias), R, m.links, stabilizer, "absorb")


def zbox(
    m: Matrix, x: Tensor, R: Tensor, mode: str, low: float = -1.0, high: float = 1.0, stabilizer: float = 1e-9
) -> Tensor:
    """Montavon et al. 2017, eq. 14: pixels between low and high; a bias cancels, b - b+ - b- = 0."""
    part = m.weight * x - m.weight.clamp(min=0) * low - m.weight.clamp(max=0) * high
    return share(part, torch.zeros_like(m.bias), R, m.links, stabilizer, "absorb")


def excitation_backprop(m: Matrix, x: Tensor, R: Tensor, mode: str, stabilizer: float = 1e-9) -> Tensor:
    """Zhang et al. 2016, eq. 5: excitatory weights times activation, no bias."""
    return share(m.weight.clamp(min=0) * x, torch.zeros_like(m.bias), R, m.links, stabilizer, "absorb")


TWINS: dict[str, Callable[..., Tensor]] = {
    made.__name__: made
    for made in (
        epsilon, zero, zplus, alphabeta, gamma, gamma_montavon, flat, wsquare, zbox, excitation_backprop,
    )
}  # fmt: skip
TWINS["uniform"] = flat
TWINS["lrp0"] = zero
