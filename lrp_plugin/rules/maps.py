"""The rules of linear maps: linear layers, convolutions, products with a constant matrix.

Each says by which parts of ``z = f(x, W, b)`` a unit's relevance is shared out (`lrp_plugin.algebra.parts`). With m the
multiplier of z, ``R = z m``; x+, x-, W+, W- are the parts by sign. ``stabilizer`` is added to each part where it divides;
``bias`` (``"absorb"``, ``"ignore"``, ``"distribute"``) says what becomes of the bias's share: see `Shares`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call
from lrp_plugin.algebra.formulas import widened
from lrp_plugin.algebra.linear_map import MAPS, LinearMap, is_map_of_one_signal
from lrp_plugin.algebra.parts import NEGATIVE, PORT, POSITIVE, WHOLE, Share, Shares, at_port, by_sign, weighted
from lrp_plugin.algebra.result import Result, held
from lrp_plugin.errors import warn
from lrp_plugin.registry import Registry, register_rule, registry
from lrp_plugin.rules.products import is_product, uniform_product

Formula = Callable[..., Shares]


def linear_rule(
    *names: str, folds: Any = True, ports: bool = False, registry: Registry = registry
) -> Callable[[Formula], Formula]:
    """Registers a formula for every linear map; a product of two signals is no map, and halves its relevance.

    Args:
        names: The rule's name, and further ones.
        folds: It looks at weight signs: see `Rule`. ports: It has parts at the input's port.
        registry: Where it is registered.
    """

    def decorate(formula: Formula) -> Formula:
        @wraps(formula)
        def shared(call: Call, **parameters: Any) -> Any:
            return uniform_product(call) if is_product(call) else formula(LinearMap(call), **parameters)

        for name in names:
            registry.register(name, *MAPS, folds=folds, ports=ports, defers=is_map_of_one_signal)(shared)
        return formula

    return decorate


def _distributes(parameters: Mapping[str, Any]) -> bool:
    """A shift that is handed on belongs to the unit whose value it is part of: BatchNorm is folded in then."""
    return parameters.get("bias") == "distribute"


@linear_rule("epsilon", folds=_distributes)
def epsilon_rule(f: LinearMap, *, epsilon: float = 0.01, relative: bool = False, bias: str = "absorb") -> Shares:
    """LRP-epsilon: each input gets its share of z, damped where z is small.

    ``R_i = sum_j x_i w_ij R_j / (z_j + epsilon sign(z_j))``: Bach et al. 2015 (PLoS ONE 10(7)), eq. 58; Montavon et al.
    2019, section 10.2. In this form the multiplier is scaled by ``|z| / (|z| + epsilon)``. Used in upper layers.

    Args:
        f: The map.
        epsilon: Added to ``|z|``, in z's units; 0 is LRP-0.
        relative: ``epsilon`` counts in units of the example's mean ``|z|``.
        bias: See `Shares`.
    """
    return Shares.of(f, WHOLE, epsilon * _typical(f.z) if relative else epsilon, bias)


def _typical(z: Tensor) -> Tensor:
    """Each example's mean ``|z|``, broadcastable to z."""
    size = widened(z).abs()
    return size.flatten(1).mean(1).view(-1, *[1] * (z.dim() - 1)) if z.dim() > 1 else size.mean()


@linear_rule("zero", "lrp0", folds=_distributes)
def zero(f: LinearMap, *, bias: str = "absorb") -> Shares:
    """LRP-0: the epsilon rule with epsilon = 0; on a piecewise-linear network gradient times input.

    ``R_i = sum_j x_i w_ij R_j / z_j``: Bach et al. 2015, eq. 56.
    """
    return Shares.of(f, WHOLE, 0.0, bias)


@linear_rule("zplus")
def zplus(f: LinearMap, *, stabilizer: float = 1e-9, bias: str = "absorb") -> Shares:
    """LRP-z+: only positive contributions receive relevance.

    ``R_i = sum_j (x_i w_ij)+ R_j / sum_i' (x_i' w_i'j)+``: Montavon et al. 2017 (Pattern Recognition 65), eq. 16;
    alpha-beta at alpha = 1, beta = 0, and gamma's limit for large gamma. Used in convolutions.
    """
    return Shares.of(f, POSITIVE, stabilizer, bias)


@linear_rule("alphabeta")
def alphabeta(
    f: LinearMap, *, alpha: float = 2.0, beta: float | None = None, stabilizer: float = 1e-9, bias: str = "absorb"
) -> Shares:
    """LRP-alpha-beta: positive contributions weigh alpha, negative ones -beta; alpha - beta = 1.

    ``R_i = sum_j (alpha (x_i w_ij)+ / z_j+ - beta (x_i w_ij)- / z_j-) R_j``: Bach et al. 2015, eq. 60. Where a unit
    has no negative contribution the rule falls back to alpha = 1, beta = 0, where it has no positive one the negative
    side takes all: it would not conserve otherwise (an all-positive layer would return 2 R at alpha = 2).

    Args:
        f: The map.
        alpha: Weight of the positive side. beta: Weight of the negative side; None: alpha - 1.
        stabilizer: Added to the denominators.
        bias: See `Shares`.

    Raises:
        ValueError: Where alpha - beta is not 1.
    """
    beta = alpha - 1 if beta is None else beta
    check_alpha_beta(alpha, beta)
    if beta == 0:
        return Shares.of(f, POSITIVE, stabilizer, bias)
    return Shares(f, (Share(POSITIVE, alpha), Share(NEGATIVE, -beta)), stabilizer, bias)


def check_alpha_beta(alpha: float, beta: float) -> None:
    """Raises ``ValueError`` unless alpha - beta = 1, alpha >= 1 and beta >= 0."""
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise ValueError(f"alpha={alpha}, beta={beta}: legal are alpha - beta = 1 with beta >= 0, as (2, 1) or (1, 0)")


@linear_rule("gamma")
def gamma_rule(f: LinearMap, *, gamma: float = 0.25, stabilizer: float = 1e-9, bias: str = "absorb") -> Shares:
    """LRP-gamma, generalized to signed inputs: contributions of the pre-activation's own sign weigh 1 + gamma.

    ``R_i = sum_j (x_i w_ij + gamma (x_i w_ij)^s) R_j / sum_i' (...)`` with s the sign of z_j: Andéol et al. 2021
    (arXiv 2106.13472), appendix. Equals epsilon at gamma = 0 and tends to z+ (z >= 0) or z- (z < 0) as gamma grows.
    """
    return Shares.of(f, by_sign(WHOLE + gamma * POSITIVE, WHOLE + gamma * NEGATIVE), stabilizer, bias)


@linear_rule("gamma_montavon")
def gamma_montavon(f: LinearMap, *, gamma: float = 0.25, stabilizer: float = 1e-9, bias: str = "absorb") -> Shares:
    """LRP-gamma as first published: positive weights weigh 1 + gamma; meant for non-negative inputs.

    ``R_i = sum_j x_i (w_ij + gamma w_ij+) R_j / sum_i' x_i' (w_i'j + gamma w_i'j+)``: Montavon et al. 2019, section
    10.2. On non-negative input it tends to z+ as gamma grows; with signed inputs its denominator can vanish.
    """
    lifted = weighted(f"gamma+{gamma}", partial(_lifted, gamma))
    return Shares.of(f, lifted, stabilizer, bias)


def _lifted(gamma: float, weight: Tensor) -> Tensor:
    return weight + gamma * weight.clamp(min=0)


@linear_rule("excitation_backprop")
def excitation_backprop(f: LinearMap, *, stabilizer: float = 1e-9) -> Shares:
    """Excitation backprop: activations over excitatory weights alone; the bias takes no part.

    ``R_i = sum_j x_i w_ij+ R_j / sum_i' x_i' w_i'j+``: Zhang et al. 2016 (ECCV, arXiv 1608.00507), eq. 5, the marginal
    winning probability. On non-negative input it is z+ with ``bias="ignore"``; it is meant for no other.
    """
    return Shares.of(f, weighted("positive", lambda w: w.clamp(min=0)), stabilizer, "ignore")


@register_rule("constant", *MAPS)
def held_map(call: Call) -> Result:
    """The map's value is held constant: it carries no relevance (MambaLRP's selective parameters)."""
    return held(call.native())


# ---- the first layer: relevance for the input's port, zero-valued entries included -------------------------------
@linear_rule("flat", "uniform", ports=True)
def flat(f: LinearMap, *, stabilizer: float = 1e-9) -> Shares:
    """Flat: every input of a unit gets the same part, whatever its value or weight; "uniform" is iNNvestigate's name.

    ``R_i = sum_j R_j / n_j``, n_j the number of unit j's inputs (padding not counted): Lapuschkin et al. 2019 (Nature
    Communications 10), supplement. Used in the first layer, for smooth maps.
    """
    return Shares.of(f, at_port("ones", torch.ones_like), stabilizer, "ignore")


@linear_rule("wsquare", ports=True)
def wsquare(f: LinearMap, *, stabilizer: float = 1e-9) -> Shares:
    """w^2: each input gets its squared weight's part: ``R_i = sum_j w_ij^2 R_j / sum_i' w_i'j^2``.

    Montavon et al. 2017 (Pattern Recognition 65), eq. 12; for inputs without bounds. The bias takes no part.
    """
    return Shares.of(f, at_port("squared", torch.square), stabilizer, "ignore")


@linear_rule("zbox", ports=True)
def zbox(f: LinearMap, *, low: Any = 0.0, high: Any = 1.0, stabilizer: float = 1e-9) -> Shares:
    """z^B: for inputs between bounds, such as pixels.

    ``R_i = sum_j (x_i w_ij - l_i w_ij+ - h_i w_ij-) R_j / sum_i' (...)``: Montavon et al. 2017, eq. 14; the first
    layer's rule in Montavon et al. 2019, section 10.2. All of the relevance reaches the pixels, none the bias.

    Args:
        f: The map.
        low: The smallest value of an entry, number or tensor broadcastable to the layer's input.
        high: The largest.
        stabilizer: Added to the denominator.

    Entries beyond the bounds are warned about: their contributions have the wrong sign.
    """
    low, high = (_bound(bound, f.x) for bound in (low, high))
    _note_beyond(f, low, high)
    lowest = at_port("positive", lambda w: w.clamp(min=0), low)
    highest = at_port("negative", lambda w: w.clamp(max=0), high)
    return Shares.of(f, WHOLE - lowest - highest, stabilizer, "ignore")


def _bound(bound: float | Tensor, x: Tensor) -> float | Tensor:
    """A number as it is; a tensor, or what makes one, where the input lies."""
    return float(bound) if isinstance(bound, (int, float)) else torch.as_tensor(bound, dtype=x.dtype, device=x.device)


def _note_beyond(f: LinearMap, low: float | Tensor, high: float | Tensor) -> None:
    x, slack = f.x.detach(), 1e-3 * (high - low) + 1e-6  # rounding, in half precision too

    def tell() -> None:
        lowest, highest = float(torch.as_tensor(low).min()), float(torch.as_tensor(high).max())
        warn(
            f"rule 'zbox': the layer's input runs from {float(x.min()):.4g} to {float(x.max()):.4g}, beyond the bounds "
            f"{lowest:.4g} to {highest:.4g}; give low= and high= as the input is where the layer meets it "
            "(behind the model's own normalization)"
        )

    f.call.looks.ask(lambda: (x < low - slack).any() | (x > high + slack).any(), tell)


@linear_rule("pass", "identity", folds=False, ports=True)
def pass_through(f: LinearMap) -> Shares:
    """Pass: an entry of the output gives its relevance to the input's entry of the same place, ``R_i = R_i``.

    For maps that stand for a change of basis or a correction, whose weights are not to be looked at.

    Raises:
        ValueError: Where the map changes the shape.
    """
    if f.x.shape != f.z.shape:
        raise ValueError(
            f"rule 'pass' for operation {f.call.operation!r}: input {tuple(f.x.shape)} and output {tuple(f.z.shape)} "
            f"differ, so no entry has a counterpart; choose another rule there"
        )
    return Shares.of(f, PORT, 0.0, "ignore")
