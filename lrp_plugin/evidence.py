"""Is the evidence where it should be? Localisation of relevance against a mask, with bootstrap intervals.

Three measures of one map against one mask (the lungs, or a known finding), each in [0, 1], 1 best:

==================  =======================================================================================
`mask_share`        positive relevance inside the mask / all positive relevance. Relevance mass accuracy of
                    Arras et al. 2022 (CLEVR-XAI, Information Fusion 81, arXiv:2003.07258), pooled over
                    the channels as "sum,pos".
`rank_accuracy`     share of the K most relevant pixels that lie inside, K = the mask's area. Relevance rank
                    accuracy, same paper.
`pointing_game`     1 if the most relevant pixel lies inside, else 0 (Zhang et al. 2018, Top-down neural
                    attention by excitation backprop, IJCV 126, arXiv:1608.00507).
==================  =======================================================================================

A map that knows nothing scores the mask's area (`mask_area`) in all three on average: that is chance. A map
without any positive relevance and a mask without any pixel have no score: the value is NaN, which
`bootstrap_mean` leaves out and counts.

    >>> shares = mask_share(relevance, lungs)                       # (N,)
    >>> evidence_by_class(shares, labels, ["COVID", "Normal"])      # {"COVID": Interval(mean=0.81, ...), ...}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own abbreviation

__all__ = [
    "MEASURES",
    "Interval",
    "bootstrap_mean",
    "evidence_by_class",
    "mask_area",
    "mask_share",
    "pointing_game",
    "rank_accuracy",
]


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval.

    Attributes:
        mean: The mean of the values that are numbers; NaN if there is none.
        low: Lower end; NaN with fewer than two values, where nothing can be said about the spread.
        high: Upper end; NaN likewise.
        count: How many values went in.
        missing: How many were NaN and left out.
    """

    mean: float
    low: float
    high: float
    count: int
    missing: int = 0


def _map_and_mask(relevance: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance summed over the channels and the mask as booleans, both checked, ``(N, H * W)``."""
    for name, tensor in (("relevance", relevance), ("mask", mask)):
        if not isinstance(tensor, Tensor) or tensor.ndim not in (2, 3, 4):
            given = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} is {given}; give a tensor (N, C, H, W), (N, H, W) or (H, W)")
    if not torch.isfinite(relevance).all():
        bad = int((~torch.isfinite(relevance)).sum())
        raise ValueError(f"relevance holds {bad} values that are NaN or infinite; such a map cannot be scored")
    # Half precision would lose small shares in the sum over a hundred thousand pixels.
    pooled = relevance.detach().double()
    pooled = pooled.sum(1) if pooled.ndim == 4 else pooled.reshape(-1, *pooled.shape[-2:])
    if mask.ndim == 4 and mask.shape[1] != 1:
        raise ValueError(f"mask has {mask.shape[1]} channels, shape {tuple(mask.shape)}; give (N, 1, H, W)")
    inside = mask.detach().reshape(-1, *mask.shape[-2:]).to(pooled.device)
    if inside.dtype != torch.bool and not ((inside == 0) | (inside == 1)).all():
        raise ValueError("mask holds values other than 0 and 1; threshold it first, e.g. mask > 0")
    if inside.shape != pooled.shape:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not match relevance {tuple(relevance.shape)}; resize it to the "
            "map with torchvision.transforms.v2.functional.resize(mask, size, interpolation=NEAREST)"
        )
    return pooled.flatten(1), inside.flatten(1).bool()


def _without_score(pooled: Tensor, inside: Tensor) -> Tensor:
    """Which examples have no score ``(N,)``: nothing positive in the map, or nothing in the mask."""
    return (pooled.amax(1) <= 0) | ~inside.any(1)


def mask_area(mask: Tensor) -> Tensor:
    """The mask's share of the image, which is what a map without knowledge would score.

    Args:
        mask: Booleans or 0 and 1, ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``.

    Returns:
        ``(N,)``, float64, in [0, 1].

    Raises:
        ValueError: The shape or the values of `mask` are not legal.
    """
    _, inside = _map_and_mask(torch.zeros(mask.shape), mask)
    return inside.double().mean(1)


def mask_share(relevance: Tensor, mask: Tensor) -> Tensor:
    """Relevance mass accuracy: the share of positive relevance that lies inside the mask (Arras et al. 2022).

    Channels are summed with their sign before the positive part is taken, so a pixel that speaks for the
    class in one channel and against it in another counts with the balance.

    Args:
        relevance: ``(N, C, H, W)``, ``(N, H, W)`` or ``(H, W)``, any unit.
        mask: Booleans or 0 and 1, ``(N, 1, H, W)``, ``(N, H, W)`` or ``(H, W)``, of the same H and W.

    Returns:
        ``(N,)``, float64, in [0, 1]; NaN where the map has no positive value or the mask no pixel.

    Raises:
        ValueError: Shapes differ, relevance is not finite, or the mask is not binary.
    """
    pooled, inside = _map_and_mask(relevance, mask)
    positive = pooled.clamp(min=0)
    share = (positive * inside).sum(1) / positive.sum(1)
    return share.masked_fill(_without_score(pooled, inside), math.nan)


def rank_accuracy(relevance: Tensor, mask: Tensor) -> Tensor:
    """Relevance rank accuracy: how many of the K most relevant pixels lie inside, over K = the mask's area.

    Arras et al. 2022. Where pixels tie at the K-th place, the places left are shared evenly between them (the
    expected value of a random order), so the result is deterministic.

    Args:
        relevance: As in `mask_share`.
        mask: As in `mask_share`.

    Returns:
        ``(N,)``, float64, in [0, 1]; NaN as in `mask_share`.

    Raises:
        ValueError: As in `mask_share`.
    """
    pooled, inside = _map_and_mask(relevance, mask)
    area = inside.sum(1, keepdim=True)
    threshold = pooled.sort(1, descending=True).values.gather(1, (area - 1).clamp(min=0))
    above, tied = pooled > threshold, pooled == threshold
    places = area - above.sum(1, keepdim=True)
    hits = (above & inside).sum(1, keepdim=True) + places * (tied & inside).sum(1, keepdim=True) / tied.sum(
        1, keepdim=True
    )
    return (hits / area).squeeze(1).masked_fill(_without_score(pooled, inside), math.nan)


def pointing_game(relevance: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """Pointing game: does the most relevant pixel lie inside the mask? (Zhang et al. 2018).

    Args:
        relevance: As in `mask_share`.
        mask: As in `mask_share`.
        tolerance: A hit may lie this many pixels (Euclidean) outside. Zhang et al. take 15 on photographs of
            about 500 pixels; 0 is strict.

    Returns:
        ``(N,)``, float64: 1 hit, 0 miss, the share of hits where several pixels tie for the maximum; NaN as
        in `mask_share`.

    Raises:
        ValueError: As in `mask_share`; `tolerance` is negative.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance} pixels; give 0 or more")
    pooled, inside = _map_and_mask(relevance, mask)
    nearby = inside
    if tolerance:
        reach = torch.arange(-tolerance, tolerance + 1, device=pooled.device)
        disc = (reach[:, None] ** 2 + reach**2 <= tolerance**2).double()[None, None]
        picture = inside.double().reshape(-1, 1, *relevance.shape[-2:])
        nearby = F.conv2d(picture, disc, padding=tolerance).flatten(1) > 0.5
    tops = pooled == pooled.amax(1, keepdim=True)
    hits = (tops & nearby).sum(1) / tops.sum(1).double()
    return hits.masked_fill(_without_score(pooled, inside), math.nan)


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mask_share": mask_share,
    "rank_accuracy": rank_accuracy,
    "pointing_game": pointing_game,
}
"""The measures by name, each ``(relevance, mask) -> (N,)``."""


def bootstrap_mean(
    values: Tensor | Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean and its percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    The values are drawn with replacement `resamples` times; the interval holds the middle `confidence` of the
    means. The same seed gives the same interval. With a handful of values it is known to be too narrow.

    Args:
        values: ``(N,)``, one per example (per patient, where a patient has several images). NaN is left out.
        confidence: Between 0 and 1.
        resamples: How many resamples are drawn.
        seed: Seeds a generator of its own; the global ones are untouched.

    Returns:
        The interval; see `Interval` for what happens with no or one value.

    Raises:
        ValueError: `values` is not one-dimensional, `confidence` is not inside (0, 1), or `resamples` is
        below 1.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values has shape {array.shape}; give one number per example, (N,)")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence {confidence} must lie between 0 and 1, resamples {resamples} be 1 or more")
    known = array[~np.isnan(array)]
    missing = len(array) - len(known)
    mean = float(known.mean()) if len(known) else math.nan
    if len(known) < 2:
        return Interval(mean, math.nan, math.nan, len(known), missing)
    generator = np.random.default_rng(seed)
    # One resample at a time: all at once would take resamples * N numbers, 640 MB for a test set of 20,000.
    means = [known[generator.integers(0, len(known), len(known))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), len(known), missing)


def evidence_by_class(
    scores: Tensor | Sequence[float],
    labels: Tensor | Sequence[int],
    class_names: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean score of each class over a test set, with bootstrap intervals.

    Collect the scores batch by batch (``torch.cat``); they are small, the maps are not.

    Args:
        scores: One measure's values, ``(N,)``; NaN is left out and counted.
        labels: Class indices, ``(N,)``.
        class_names: The name of class 0, 1, ...
        confidence: As in `bootstrap_mean`.
        resamples: As in `bootstrap_mean`.
        seed: As in `bootstrap_mean`.

    Returns:
        One interval for each class name, in order; a class without examples has count 0 and NaN.

    Raises:
        ValueError: Lengths differ, or a label has no name.
    """
    values, classes = torch.as_tensor(scores, dtype=torch.float64).cpu(), torch.as_tensor(labels).cpu()
    if values.ndim != 1 or values.shape != classes.shape:
        raise ValueError(f"scores {tuple(values.shape)} and labels {tuple(classes.shape)} must both be (N,)")
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(class_names):
        raise ValueError(
            f"labels run from {int(classes.min())} to {int(classes.max())}, but there are {len(class_names)} "
            "class names"
        )
    return {
        name: bootstrap_mean(values[classes == index], confidence=confidence, resamples=resamples, seed=seed)
        for index, name in enumerate(class_names)
    }
