"""The rules of linear maps: linear layers, convolutions, products with a constant matrix.

With f the map, z = f(x, W, b), m the multiplier of z, and x+, x-, W+, W-, b+, b- the parts by sign. Every rule takes
``bias`` (``"absorb"``, ``"ignore"``, ``"distribute"``: see `LinearMap`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.algebra.call import Call, Joined
from lrp_plugin.algebra.formulas import Carrier, damped, damped_behind_relu, damped_secant, where_positive, widened
from lrp_plugin.algebra.primitives import damp, scale, substitute
from lrp_plugin.fast.weights import scaled_weight
from lrp_plugin.registry import register_rule
from lrp_plugin.rules.compact import compact_alphabeta, compact_gamma
from lrp_plugin.rules.linear_maps import LinearMap, is_map_of_one_signal
from lrp_plugin.rules.products import is_product, uniform_product

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = ("matmul", "mm", "bmm", "mv", "einsum")
ADDED_PRODUCTS = ("addmm", "baddbmm")
MAPS = ("linear", *CONVOLUTIONS, *ADDED_PRODUCTS, *PRODUCTS, "bilinear")


def _distributes(parameters: Mapping[str, Any]) -> bool:
    """A shift that is handed on belongs to the unit whose value it is part of: BatchNorm is folded in then."""
    return parameters.get("bias") == "distribute"


@register_rule("epsilon", *MAPS, folds=_distributes, defers=is_map_of_one_signal)
def epsilon_rule(call: Call, *, epsilon: float = 0.01, relative: bool = False, bias: str = "absorb") -> Tensor:
    """LRP-epsilon: each input gets its share of z, damped where z is small.

    ``R_i = sum_j x_i w_ij R_j / (z_j + epsilon sign(z_j))``: Bach et al. 2015 (PLoS ONE 10(7)), eq. 58; Montavon et al.
    2019, section 10.2. In this form the multiplier is scaled by ``|z| / (|z| + epsilon)``. Used in upper layers.

    Args:
        call: The intercepted call.
        epsilon: Added to ``|z|``, in z's units; 0 is LRP-0.
        relative: ``epsilon`` counts in units of the example's mean ``|z|``.
        bias: See `LinearMap`.
    """
    if is_product(call):
        return uniform_product(call)
    if bias != "absorb":
        f = LinearMap(call, bias)
        damping = epsilon * _typical(widened(f.z)) if relative else epsilon
        return f.hand_on(damping) if bias == "distribute" else f.redistribute([f.whole()], damping)
    z, joined = _native(call, 0.0 if relative else epsilon)
    if relative:
        return _relative(call, z, epsilon * _typical(widened(z.detach())))
    if call.row is not None:
        held, constant = widened(z.detach()), _added(call)
        if epsilon == 0:
            call.absorb("bias", lambda m: m * constant)
        else:
            factor = held.abs() / (held.abs() + epsilon)
            call.absorb("bias", lambda m: m * constant * factor)
            call.absorb("stabilizer", lambda m: m * held * (epsilon / (held.abs() + epsilon)))
    call.joined, call.free = joined, epsilon == 0 and joined is not None
    return z


def _native(call: Call, epsilon: float) -> tuple[Tensor, Joined | None]:
    """A linear map's own value with its own backward, which keeps no input where it need not, and what joins it."""
    layer = call.operation == "linear" or call.operation in CONVOLUTIONS
    if not layer or call["weight"].is_complex() or call["input"].is_complex():
        z = call.native()
        return damp(z, epsilon) if epsilon else z, None  # its own backward may read its value
    f = LinearMap(call)
    gradient = f.gradient(f.weight)
    if gradient is None:
        z = call.native()
        return damp(z, epsilon) if epsilon else z, Joined(partial(_rectified, epsilon, None), (z,))
    own = gradient if epsilon == 0 else _behind(gradient, f.z, lambda m, z: damped(m, z, epsilon))
    channels = f.x.dim() == f.weight.dim()  # else the map's outputs are not what BatchNorm takes for channels
    # A scale costs less on the weight than on the value where it has fewer entries.
    scaled = partial(_scaled, f, epsilon) if channels and f.z.numel() >= f.weight.numel() else None
    curved = (
        None if epsilon == 0 else lambda function: _behind(gradient, f.z, partial(damped_secant, function, epsilon))
    )
    return substitute(f.z, own, f.x), Joined(partial(_rectified, epsilon, gradient), (f.x,), scaled, curved)


def _behind(
    gradient: Callable[[Tensor], Tensor], z: Tensor, damping: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """The map's gradient behind ``damping(m, z)``."""
    version = z._version

    def pullback(m: Tensor) -> Tensor:
        if z._version != version:  # as autograd checks of what it keeps
            raise RuntimeError("a map's value was written to in place before its backward pass: report this, please")
        return gradient(damping(m, z))

    return pullback


def _rectified(epsilon: float, gradient: Callable[[Tensor], Tensor] | None, y: Tensor) -> Callable[[Tensor], Tensor]:
    def pullback(m: Tensor) -> Tensor:
        passed = where_positive(m, y) if epsilon == 0 else damped_behind_relu(m, y, epsilon)
        return passed if gradient is None else gradient(passed)

    return pullback


def _scaled(f: LinearMap, epsilon: float, scale: Tensor) -> tuple[Callable[[Tensor], Tensor], Joined]:
    """The map and a BatchNorm's scale behind it: the scale is part of the weight, and costs nothing."""
    gradient = f.gradient(scaled_weight(f.cache, f.call.operation, f.weight, scale, int(f.call.get("groups", 1))))
    z = f.z if epsilon else None
    assert gradient is not None

    def pullback(m: Tensor, owned: bool = False) -> Tensor:
        return gradient(m if z is None else damped(m, z, epsilon, owned))

    return pullback, Joined(lambda y: lambda m: pullback(where_positive(m, y), True), (f.x,))


def _added(call: Call) -> Tensor:
    """f(0), what the map adds: of a layer its bias, in a shape that broadcasts to z."""
    if call.operation != "linear" and call.operation not in CONVOLUTIONS:
        return call.at_zero()  # type: ignore[no-any-return]
    bias = call.get("bias")
    if bias is None or call.operation == "linear":
        return call["weight"].new_zeros(()) if bias is None else bias.detach()
    return bias.detach().view(-1, *[1] * (call["weight"].dim() - 2))


def _typical(value: Tensor) -> Tensor:
    """Each example's mean ``|z|``, broadcastable to z."""
    return value.abs().flatten(1).mean(1).view(-1, *[1] * (value.dim() - 1)) if value.dim() > 1 else value.abs().mean()


def _relative(call: Call, z: Tensor, epsilon: Tensor) -> Tensor:
    """The epsilon rule with one epsilon per example."""
    value = widened(z.detach())
    factor = value.abs() / (value.abs() + epsilon).clamp(min=torch.finfo(value.dtype).tiny)
    if call.row is not None:
        constant = _added(call)
        call.absorb("bias", lambda m: m * constant * factor)
        call.absorb("stabilizer", lambda m: m * value * (1 - factor))
    return scale(z, factor)


@register_rule("zero", *MAPS, folds=_distributes, defers=is_map_of_one_signal)
def zero(call: Call, *, bias: str = "absorb") -> Tensor:
    """LRP-0: the epsilon rule with epsilon = 0; on a piecewise-linear network gradient times input.

    ``R_i = sum_j x_i w_ij R_j / z_j``: Bach et al. 2015, eq. 56.
    """
    return epsilon_rule(call, epsilon=0.0, bias=bias)


@register_rule("zplus", *MAPS, folds=True, defers=is_map_of_one_signal)
def zplus(call: Call, *, stabilizer: float = 1e-9, bias: str = "absorb") -> Tensor:
    """LRP-z+: only positive contributions receive relevance.

    ``R_i = sum_j (x_i w_ij)+ R_j / sum_i' (x_i' w_i'j)+``: Montavon et al. 2017 (Pattern Recognition 65), eq. 16;
    alpha-beta at alpha = 1, beta = 0, and gamma's limit for large gamma. Used in convolutions.

    Args:
        call: The intercepted call.
        stabilizer: Added to the denominator.
        bias: See `LinearMap`.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, bias)
    return f.redistribute([f.positive()], stabilizer)


@register_rule("alphabeta", *MAPS, folds=True, defers=is_map_of_one_signal)
def alphabeta(
    call: Call, *, alpha: float = 2.0, beta: float | None = None, stabilizer: float = 1e-9, bias: str = "absorb"
) -> Tensor:
    """LRP-alpha-beta: positive contributions weigh alpha, negative ones -beta; alpha - beta = 1.

    ``R_i = sum_j (alpha (x_i w_ij)+ / z_j+ - beta (x_i w_ij)- / z_j-) R_j``: Bach et al. 2015, eq. 60. Where a unit
    has no negative contribution the rule falls back to alpha = 1, beta = 0, where it has no positive one the negative
    side takes all: it would not conserve otherwise (an all-positive layer would return 2 R at alpha = 2).

    Args:
        call: The intercepted call.
        alpha: Weight of the positive side. beta: Weight of the negative side; None: alpha - 1.
        stabilizer: Added to the denominators.
        bias: See `LinearMap`.

    Raises:
        ValueError: Where alpha - beta is not 1.
    """
    beta = alpha - 1 if beta is None else beta
    check_alpha_beta(alpha, beta)
    if is_product(call):
        return uniform_product(call)
    if beta == 0:
        return zplus(call, stabilizer=stabilizer, bias=bias)
    f = LinearMap(call, bias)
    if (value := compact_alphabeta(f, alpha, beta, stabilizer)) is not None:
        return value
    positive, opposed = f.both()
    upper = positive._replace(share=alpha, partner=opposed.value, owned=False)  # the other's partner
    return f.redistribute([upper, opposed._replace(share=-beta, partner=positive.value)], stabilizer)


def check_alpha_beta(alpha: float, beta: float) -> None:
    """Raises ``ValueError`` unless alpha - beta = 1, alpha >= 1 and beta >= 0."""
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise ValueError(f"alpha={alpha}, beta={beta}: legal are alpha - beta = 1 with beta >= 0, as (2, 1) or (1, 0)")


@register_rule("gamma", *MAPS, folds=True, defers=is_map_of_one_signal)
def gamma_rule(call: Call, *, gamma: float = 0.25, stabilizer: float = 1e-9, bias: str = "absorb") -> Tensor:
    """LRP-gamma, generalized to signed inputs: contributions of the pre-activation's own sign weigh 1 + gamma.

    ``R_i = sum_j (x_i w_ij + gamma (x_i w_ij)^s) R_j / sum_i' (...)`` with s the sign of z_j: Andéol et al. 2021
    (arXiv 2106.13472), appendix. Equals epsilon at gamma = 0 and tends to z+ (z >= 0) or z- (z < 0) as gamma grows.

    Args:
        call: The intercepted call.
        gamma: How much the favoured side gains.
        stabilizer: Added to the denominator.
        bias: See `LinearMap`.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, bias)
    if not f.nonnegative and (value := compact_gamma(f, gamma, stabilizer)) is not None:
        return value
    if bias != "distribute":
        return f.redistribute(_favoured(f, gamma) if f.nonnegative else [_favoured_side(f, gamma)], stabilizer)
    whole = f.whole()
    positive, opposed = f.both()
    up = f.z >= 0
    side = torch.where(up, positive.value, -opposed.value)
    kept = None
    if whole.bias is not None and positive.bias is not None and opposed.bias is not None:
        kept = whole.bias + gamma * torch.where(up, positive.bias, -opposed.bias)
    return f.redistribute([Carrier(whole.value + gamma * side, bias=kept)], stabilizer)


def _favoured(f: LinearMap, gamma: float) -> list[Carrier]:
    """gamma's carriers on a non-negative input: one or two modified weights instead of three maps."""
    bias = f.carried_bias
    sign = 1 if f.mode == "absorb" else 0  # a bias left out may turn a carrier's sign against z's
    lifted = f.weights(f"gamma+{gamma}", lambda w: w + gamma * w.clamp(min=0))
    raised = None if bias is None else bias + gamma * bias.clamp(min=0)
    if f.call.rectified:
        return [Carrier(f.carried(f.x, lifted, raised), bias=f.placed(raised), sign=sign, side=1, owned=f.owned)]
    lowered = f.weights(f"gamma-{gamma}", lambda w: w + gamma * w.clamp(max=0))
    sunk = None if bias is None else bias + gamma * bias.clamp(max=0)
    whole, positive = f.carried_value(), f.positive_value()
    with torch.no_grad():
        up = torch.add(whole, positive, alpha=gamma)
        down = torch.lerp(positive, whole, 1 + gamma)  # whole + gamma (whole - positive)
    return [
        Carrier(f.known(up, lifted), bias=f.placed(raised), sign=sign, side=1, owned=True),
        Carrier(f.known(down, lowered), bias=f.placed(sunk), sign=-sign, side=-1, owned=True),
    ]


def _favoured_side(f: LinearMap, gamma: float) -> Carrier:
    """gamma's carrier on a signed input, ``z + gamma (z + s A) / 2`` with s the sign of z: two backward applications."""
    whole, absolute = f.signed()
    up = f.z >= 0
    with torch.no_grad():
        favoured = f.half(1)
        if not f.call.rectified:
            favoured = torch.where(up, favoured, -f.half(-1))
        value = torch.add(whole, favoured, alpha=gamma)
        # One byte per entry: as gamma / 2 with its sign a transformer's would take as much as all its factors.
        sign = None if f.call.rectified else torch.where(up, 1, -1).to(torch.int8)
    bias = f.placed(f.carried_bias)
    if bias is not None:
        bias = bias + gamma * torch.where(up, bias.clamp(min=0), bias.clamp(max=0))

    def pullback(m: Tensor) -> tuple[Tensor, Tensor]:
        return m * (1 + gamma / 2), (m * (gamma / 2) if sign is None else (m * sign).mul_(gamma / 2))

    return Carrier(substitute(value, pullback, whole, absolute), bias=bias, owned=True)


@register_rule("gamma_montavon", *MAPS, folds=True, defers=is_map_of_one_signal)
def gamma_montavon(call: Call, *, gamma: float = 0.25, stabilizer: float = 1e-9, bias: str = "absorb") -> Tensor:
    """LRP-gamma as first published: positive weights weigh 1 + gamma; meant for non-negative inputs.

    ``R_i = sum_j x_i (w_ij + gamma w_ij+) R_j / sum_i' x_i' (w_i'j + gamma w_i'j+)``: Montavon et al. 2019, section
    10.2. On non-negative input it tends to z+ as gamma grows; with signed inputs its denominator can vanish.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, bias)
    lifted = f.weights(f"gamma+{gamma}", lambda w: w + gamma * w.clamp(min=0))
    raised = None if f.carried_bias is None else f.carried_bias + gamma * f.carried_bias.clamp(min=0)
    carrier = f.share_out(f.carried(f.x, lifted, raised), f.placed(raised))
    if f.nonnegative and call.rectified and bias == "absorb":  # where z > 0 the carrier is at least z
        carrier = carrier._replace(sign=1, side=1)
    return f.redistribute([carrier._replace(owned=f.owned)], stabilizer)


@register_rule("excitation_backprop", *MAPS, folds=True, defers=is_map_of_one_signal)
def excitation_backprop(call: Call, *, stabilizer: float = 1e-9) -> Tensor:
    """Excitation backprop: activations over excitatory weights alone; the bias takes no part.

    ``R_i = sum_j x_i w_ij+ R_j / sum_i' x_i' w_i'j+``: Zhang et al. 2016 (ECCV, arXiv 1608.00507), eq. 5, the marginal
    winning probability. On non-negative input it is z+ with ``bias="ignore"``; it is meant for no other.
    """
    if is_product(call):
        return uniform_product(call)
    f = LinearMap(call, "ignore")
    excitatory = f.weights("positive", lambda w: w.clamp(min=0))
    return f.redistribute([Carrier(f.carried(f.x, excitatory), owned=f.owned)], stabilizer)


@register_rule("constant", *MAPS)
def held_map(call: Call) -> Tensor:
    """The map's value is held constant: it carries no relevance (MambaLRP's selective parameters)."""
    call.constant = True
    return call.native()  # type: ignore[no-any-return]
