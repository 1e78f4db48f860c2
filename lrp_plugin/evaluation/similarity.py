"""How alike two maps are: rank correlation, structural similarity; and how much methods agree."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

from lrp_plugin.kinds import at_least, checked


def places(relevance: Tensor, absolute: bool = False) -> Tensor:
    """One number for each place of a map: pictures' channels summed; float64 ``(N, P)``."""
    if relevance.ndim < 2:
        raise ValueError(f"maps of shape {tuple(relevance.shape)}; give one for each example, (N, ...)")
    pooled = relevance.detach().double()
    pooled = pooled.sum(1) if pooled.ndim == 4 else pooled
    pooled = pooled.abs() if absolute else pooled
    if not pooled.numel():
        raise ValueError(f"relevance of shape {tuple(relevance.shape)} holds no entry; give (N, ...) with one or more")
    return pooled.reshape(len(pooled), -1)


def ordered(values: Tensor) -> Tensor:
    """Ranks along the last dimension, equal values at their mean rank, ``(..., P)``."""
    sorts = values.sort(-1).values
    low = torch.searchsorted(sorts, values.contiguous())
    high = torch.searchsorted(sorts, values.contiguous(), right=True)
    return (low + high - 1).double() / 2


@checked
def rank_correlation(first: Tensor, second: Tensor, *, absolute: bool = False) -> Tensor:
    """Spearman's correlation of two maps of each example, ``(N,)``, in [-1, 1]; NaN where a map is constant.

    Args:
        first: ``(N, ...)``. second: Likewise. Pictures' channels are summed first.
        absolute: Of magnitudes; signed and unsigned correlations can tell opposite stories (Adebayo et al. 2018, fig. 3).

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared")
    one, other = (ordered(places(relevance, absolute)) for relevance in (first, second))
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    spread = one.norm(dim=1) * other.norm(dim=1)
    return ((one * other).sum(1) / spread).clamp(-1, 1).masked_fill(spread == 0, math.nan)


@checked
def structural_similarity(first: Tensor, second: Tensor, *, absolute: bool = False, window: int = 7) -> Tensor:
    """SSIM of two maps of each example, each scaled to [0, 1] first, ``(N,)``, in [-1, 1] (Wang et al. 2004).

    With a flat window and sample covariances, as scikit-image's default. A constant map scales to 0.

    Args:
        first: ``(N, C, H, W)`` or ``(N, H, W)``; channels are summed. second: Likewise.
        absolute: As in `rank_correlation`. window: Side of the window in pixels, odd; smaller where the map is.
    """
    if first.shape != second.shape or first.ndim not in (3, 4):
        raise ValueError(f"maps of shapes {tuple(first.shape)} and {tuple(second.shape)}: give two alike, (N, C, H, W)")
    at_least(1, window=window)
    height, width = first.shape[-2:]
    side = min(window, height - 1 + height % 2, width - 1 + width % 2)
    x, y = (_unit(places(relevance, absolute)).view(-1, 1, height, width) for relevance in (first, second))
    sample = side * side / max(side * side - 1, 1)
    mean_x, mean_y = F.avg_pool2d(x, side, 1), F.avg_pool2d(y, side, 1)
    var_x = sample * (F.avg_pool2d(x * x, side, 1) - mean_x**2)
    var_y = sample * (F.avg_pool2d(y * y, side, 1) - mean_y**2)
    both = sample * (F.avg_pool2d(x * y, side, 1) - mean_x * mean_y)
    low, high = 0.01**2, 0.03**2
    found = (2 * mean_x * mean_y + low) * (2 * both + high)
    return (found / ((mean_x**2 + mean_y**2 + low) * (var_x + var_y + high))).flatten(1).mean(1)


def _unit(values: Tensor) -> Tensor:
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1)


@checked
def agreement(relevances: Mapping[str, Tensor], *, absolute: bool = False) -> Tensor:
    """How much methods agree: the mean over examples of their maps' rank correlations, ``(M, M)``, in the mapping's order.

    An example whose map is constant under one of two methods is left out for that pair; NaN where none is left.
    """
    maps = list(relevances.values())
    found = torch.eye(len(maps), dtype=torch.float64)
    for i, first in enumerate(maps):
        for j, second in enumerate(maps[:i]):
            mean = rank_correlation(first, second, absolute=absolute).nanmean()
            found[i, j] = found[j, i] = mean.cpu()
    return found
