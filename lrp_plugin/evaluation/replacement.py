"""What stands where something was removed: zero, a mean, a blur, noise, ROAD's imputation, a value or a function.

A replacement is begun once with the inputs ``(N, ...)`` and then asked for perturbed copies; what it draws at random is
drawn once and is the same for every example, so that a result depends on neither batch size nor the order of examples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

from lrp_plugin.errors import told
from lrp_plugin.evaluation.road import impute

Perturb = Callable[[Tensor, Tensor], Tensor]
"""Given which example each copy is of ``(M,)`` and what is removed of it ``(M, ...)``: the copies ``(M, ...)``."""
Replacement = Callable[[Tensor, int], Perturb]
"""Given the inputs ``(N, ...)`` and a seed, what makes perturbed copies of them."""


def _filled(inputs: Tensor, fill: Tensor) -> Perturb:
    def perturb(rows: Tensor, removed: Tensor) -> Tensor:
        # Indexed once, what all examples share is not copied M times.
        return torch.where(removed, fill[rows] if len(fill) == len(inputs) else fill, inputs[rows])

    return perturb


def value(fill: float | Tensor) -> Replacement:
    """A number, or a tensor broadcastable to one example's inputs (the mean of a data set, per channel)."""

    def begin(inputs: Tensor, seed: int) -> Perturb:
        constant = torch.as_tensor(fill, dtype=inputs.dtype, device=inputs.device)
        own = tuple(inputs.shape[1:])
        if not bool(torch.isfinite(constant).all()):
            raise ValueError(f"replacement {told(fill)} is not finite")
        if constant.ndim > len(own) or any(a not in (1, b) for a, b in zip(constant.shape[::-1], own[::-1])):
            raise ValueError(f"replacement of shape {tuple(constant.shape)} does not broadcast to one input's {own}")
        return _filled(inputs, constant.expand(inputs.shape[1:])[None].expand(1, *inputs.shape[1:]))

    return begin


def zero() -> Replacement:
    """Zero: black, or the mean of normalized inputs; for token ids the token 0."""
    return value(0.0)


def mean() -> Replacement:
    """The example's own mean: per channel of a picture, per feature of a sequence; of a table's row, over its columns."""

    def begin(inputs: Tensor, seed: int) -> Perturb:
        if not inputs.is_floating_point():
            raise ValueError(f"inputs of {inputs.dtype} have no mean: use value(token) as the replacement")
        dims = tuple(range(2, inputs.ndim)) if inputs.ndim > 3 else (1,) if inputs.ndim < 4 else ()
        return _filled(inputs, inputs.mean(dims, keepdim=True).expand(inputs.shape))

    return begin


def blur(sigma: float = 5.0) -> Replacement:
    """The picture ``(N, C, H, W)`` itself, blurred by a Gaussian of ``sigma`` pixels, its border continued."""

    def begin(inputs: Tensor, seed: int) -> Perturb:
        if inputs.ndim != 4:
            raise ValueError(f"inputs {tuple(inputs.shape)} are no pictures (N, C, H, W): blur() is for those")
        return _filled(inputs, _blurred(inputs, sigma))

    return begin


def _blurred(pictures: Tensor, sigma: float) -> Tensor:
    radius = max(int(3 * sigma + 0.5), 1)
    pictures = pictures if pictures.is_floating_point() else pictures.double()
    offsets = torch.arange(-radius, radius + 1, dtype=pictures.dtype, device=pictures.device)
    window = torch.exp(-(offsets**2) / (2 * sigma**2))
    window = (window / window.sum()).expand(pictures.shape[1], 1, -1)
    for shape, pad in ((window[..., None, :], (radius, radius, 0, 0)), (window[..., None], (0, 0, radius, radius))):
        pictures = F.conv2d(F.pad(pictures, pad, mode="replicate"), shape, groups=pictures.shape[1])
    return pictures


def noise(scale: float = 0.2) -> Replacement:
    """The example's mean (as `mean`) and Gaussian noise of ``scale`` times its standard deviation."""

    def begin(inputs: Tensor, seed: int) -> Perturb:
        level = mean()(inputs, seed)
        everything = torch.ones_like(inputs, dtype=torch.bool)
        base = level(torch.arange(len(inputs), device=inputs.device), everything)
        spread = inputs.flatten(1).std(1).view(-1, *[1] * (inputs.ndim - 1))
        return _filled(inputs, base + scale * spread * _drawn(inputs, seed))

    return begin


def road(scale: float = 0.01, tolerance: float = 1e-4) -> Replacement:
    """ROAD: each removed pixel guessed from its neighbours, and a little noise (Rong et al. 2022, arXiv:2202.00449).

    A fill of one value shows the network the removed region's shape, which can tell the class by itself; a guess from
    around it hides the shape.

    Args:
        scale: The noise's standard deviation, in the inputs' units (the paper's 0.01 is for normalized pictures).
        tolerance: Of the linear system's solution, relative.
    """

    def begin(inputs: Tensor, seed: int) -> Perturb:
        if inputs.ndim != 4:
            raise ValueError(f"inputs {tuple(inputs.shape)} are no pictures (N, C, H, W): road() is for those")
        drawn = scale * _drawn(inputs, seed)

        def perturb(rows: Tensor, removed: Tensor) -> Tensor:
            pictures, gone = inputs[rows], removed[:, :1].expand(-1, 1, *removed.shape[2:])
            return impute(pictures, gone, tolerance) + torch.where(gone, drawn, 0)

        return perturb

    return begin


def function(perturb: Callable[[Tensor, Tensor], Tensor]) -> Replacement:
    """One's own: given inputs ``(M, ...)`` and booleans of what is removed ``(M, ...)``, returns the perturbed inputs."""
    return lambda inputs, seed: lambda rows, removed: perturb(inputs[rows], removed)


def _drawn(inputs: Tensor, seed: int) -> Tensor:
    """Standard normal numbers of one example's shape, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64).to(inputs)


NAMED: dict[str, Callable[[], Replacement]] = {"zero": zero, "mean": mean, "blur": blur, "noise": noise, "road": road}


def replacement(given: str | float | Tensor | Replacement) -> Replacement:
    """A replacement by its name, as a value, or itself.

    Raises:
        ValueError: For an unknown name.
    """
    if isinstance(given, str):
        if given not in NAMED:
            raise ValueError(
                f"unknown replacement {told(given)}; legal are {', '.join(NAMED)}, a value, or a replacement"
            )
        return NAMED[given]()
    return value(given) if isinstance(given, (int, float, Tensor)) else given
