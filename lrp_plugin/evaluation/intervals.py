"""Means with bootstrap intervals, of one method and of the difference between two on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lrp_plugin.kinds import at_least, checked

Values = Tensor | Sequence[float] | np.ndarray


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


@checked
def bootstrap_mean(
    values: Values,
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
    at_least(0, seed=seed)
    generator = np.random.default_rng(seed)
    # One resample at a time: all at once would take resamples * N numbers, 640 MB for a test set of 20,000.
    means = [known[generator.integers(0, len(known), len(known))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), len(known), missing)


@checked
def paired_difference(
    first: Values, second: Values, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of ``first - second`` over the same examples, with its bootstrap interval.

    Two intervals that overlap say little about a difference: both methods find the same examples hard, and the
    difference within each example varies much less. An interval without 0 is a difference at that confidence.

    Args:
        first: ``(N,)``. second: ``(N,)``, the same examples in the same order; NaN in either leaves the example out.
        confidence: As in `bootstrap_mean`. resamples: Likewise. seed: Likewise.

    Raises:
        ValueError: The lengths differ, or as in `bootstrap_mean`.
    """
    one, other = (np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, np.float64) for v in (first, second))
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} and {other.shape} values cannot be paired: give the same examples in both")
    return bootstrap_mean(one - other, confidence=confidence, resamples=resamples, seed=seed)


@checked
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
