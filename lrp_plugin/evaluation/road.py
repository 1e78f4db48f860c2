"""ROAD's noisy linear imputation (Rong et al. 2022, ICML, arXiv:2202.00449): what was removed, guessed from around it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

# Rong et al. 2022, section 4.2: each pixel is the mean of its neighbours, those beside it twice those at its corners.
_NEIGHBOURS = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]]) / 12


def impute(pictures: Tensor, removed: Tensor, tolerance: float = 1e-6, iterations: int = 2000) -> Tensor:
    """Each removed pixel as the weighted mean of its eight neighbours, removed ones included: a linear system.

    ``x_i = sum_j w_ij x_j / sum_j w_ij`` over neighbours inside the picture, w 1/6 beside and 1/12 at the corners; solved
    by conjugate gradients with the weights' sum as preconditioner, all pictures at once.

    Args:
        pictures: ``(M, C, H, W)``. removed: Booleans ``(M, 1, H, W)``.
        tolerance: Where the residual's norm over the right side's is below it, a picture is done.
        iterations: At most so many.

    Returns:
        ``(M, C, H, W)``; a picture removed altogether becomes each channel's mean.
    """
    kernel = _NEIGHBOURS.to(pictures)[None, None]
    gone = removed.to(pictures.dtype)
    known = pictures * (1 - gone)
    weight = F.conv2d(torch.ones_like(gone), kernel, padding=1)
    channels = pictures.shape[1]
    spread = kernel.expand(channels, 1, 3, 3)

    def around(x: Tensor) -> Tensor:
        return F.conv2d(x, spread, padding=1, groups=channels)

    right = around(known) * gone
    x = torch.zeros_like(pictures)
    residual = right.clone()
    size = right.flatten(1).norm(dim=1).clamp(min=torch.finfo(right.dtype).tiny)
    direction = residual / weight
    product = (residual * direction).flatten(2).sum(2)[..., None, None]
    for _ in range(iterations):
        if bool((residual.flatten(1).norm(dim=1) <= tolerance * size).all()):
            break
        applied = (weight * direction - around(direction)) * gone
        below = (direction * applied).flatten(2).sum(2)[..., None, None]
        step = torch.where(below > 0, product / torch.where(below > 0, below, 1), 0)
        x = x + step * direction
        residual = residual - step * applied
        scaled = residual / weight
        following = (residual * scaled).flatten(2).sum(2)[..., None, None]
        direction = scaled + torch.where(product > 0, following / torch.where(product > 0, product, 1), 0) * direction
        product = following
    whole = removed.flatten(1).all(1)[:, None, None, None]
    guessed = torch.where(whole, pictures.mean((2, 3), keepdim=True), x)
    return torch.where(removed, guessed, pictures)
