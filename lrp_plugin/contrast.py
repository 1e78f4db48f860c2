"""Targets that are contrasts: one class against another, one against all the rest.

A target may be any function of the output, ``(N, classes) -> (N,)``; these two are ready made. Relevance starts at the
outputs as ``z * df/dz``: the class explained for, the others against. It sums to that, not to f: log-odds lose the entropy of
the rest, which is no output's relevance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Class = int | list[int] | Tensor


def _column(value: Tensor, place: Class) -> Tensor:
    index = torch.as_tensor(place, device=value.device)
    index = index.expand(len(value)) if index.ndim == 0 else index
    if value.ndim != 2 or index.shape != (len(value),):
        raise ValueError(
            f"classes {tuple(index.shape)} of an output {tuple(value.shape)}: give one class, or one for each example of "
            "an output (N, classes)"
        )
    if bool(((index < -value.shape[1]) | (index >= value.shape[1])).any()):
        raise ValueError(f"class {place} is out of range: legal are 0 to {value.shape[1] - 1}")
    return index % value.shape[1]


def _some(place: Class, rows: Any) -> Class:
    given = torch.as_tensor(place)
    return place if given.ndim == 0 else given[rows]


@dataclass(frozen=True)
class Difference:
    """``z_a - z_b``: what speaks for class ``a`` rather than ``b``; each an int, or one for each example.

    >>> lrp.attribute(images, target=Difference(281, 285))  # why a tabby and not an Egyptian cat
    """

    a: Class
    b: Class

    def __call__(self, value: Tensor) -> Tensor:
        """The difference of each example, ``(N,)``."""
        first, second = (value.gather(1, _column(value, one)[:, None])[:, 0] for one in (self.a, self.b))
        return first - second

    def of(self, rows: Any) -> Difference:
        """The same for some of the examples."""
        return Difference(_some(self.a, rows), _some(self.b, rows))


@dataclass(frozen=True)
class LogOdds:
    """``log p / (1 - p) = z_a - log sum_(j != a) exp z_j`` of the softmax: what speaks for ``a`` against all the rest.

    Relevance starts as ``z_a`` at the class and ``-z_j`` times j's share of the rest at the others.
    """

    a: Class

    def __call__(self, value: Tensor) -> Tensor:
        """The log-odds of each example, ``(N,)``."""
        index = _column(value, self.a)[:, None]
        own = torch.zeros_like(value, dtype=torch.bool).scatter(1, index, True)
        rest = value.masked_fill(own, -torch.inf).logsumexp(1)
        return value.gather(1, index)[:, 0] - rest

    def of(self, rows: Any) -> LogOdds:
        """The same for some of the examples."""
        return LogOdds(_some(self.a, rows))
