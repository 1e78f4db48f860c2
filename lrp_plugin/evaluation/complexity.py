"""How much a map says: entropy, sparseness, the effective rank of a class's maps; and how it stands noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.evaluation.faithfulness import check_examples
from lrp_plugin.evaluation.similarity import places, rank_correlation
from lrp_plugin.kinds import at_least, checked


@checked
def entropy(relevance: Tensor) -> Tensor:
    """Entropy of each map's shares ``|R_i| / sum |R|``, ``(N,)``, in nats, 0 to log(places); lower is simpler.

    Bhatt et al. 2020 (IJCAI, arXiv:2005.00631), complexity. NaN for a map of zeros.
    """
    shares = _shares(relevance)
    return -torch.special.xlogy(shares, shares).sum(1)


@checked
def sparseness(relevance: Tensor) -> Tensor:
    """Gini index of each map's magnitudes, ``(N,)``, in [0, 1); higher is sparser; 0 for equal ones.

    Chalasani et al. 2020 (ICML, arXiv:1810.06583). NaN for a map of zeros.
    """
    shares = _shares(relevance).sort(1).values
    count = shares.shape[1]
    weights = (count - torch.arange(1, count + 1, dtype=shares.dtype, device=shares.device) + 0.5) / count
    return 1 - 2 * (shares * weights).sum(1)


def _shares(relevance: Tensor) -> Tensor:
    sizes = places(relevance, absolute=True)
    total = sizes.sum(1, keepdim=True)
    return (sizes / total).masked_fill(total == 0, math.nan)


@checked
def effective_rank(relevance: Tensor) -> float:
    """How many different maps a set of them amounts to, from 1 to the smaller of N and places.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007, EUSIPCO), each map scaled to
    norm 1 first. Near 1 for a class's maps: the method draws the same map whatever the example shows.

    Args:
        relevance: ``(N, ...)``, the maps of one class; maps of zeros are left out.

    Raises:
        ValueError: No map is left.
    """
    maps = places(relevance)
    norms = maps.norm(dim=1)
    kept = maps[norms > 0] / norms[norms > 0, None]
    if not len(kept):
        raise ValueError("no map holds anything: the effective rank of nothing is not defined")
    values = torch.linalg.svdvals(kept)
    shares = values / values.sum()
    return math.exp(-float(torch.special.xlogy(shares, shares).sum()))


@checked
def noise_stability(
    explain: Callable[[Tensor, Any], Tensor], inputs: Tensor, target: Any, *, scale: float = 0.05, samples: int = 3,
    seed: int = 0, relevance: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean rank correlation of each map with that of the noisy input, ``(N,)``, in [-1, 1]; higher is steadier.

    Args:
        explain: ``(inputs, target) -> relevance``.
        inputs: ``(N, ...)``, floating point. target: An int or ``(N,)``.
        scale: The noise's standard deviation over each example's own.
        samples: How many noises, the same for all examples. seed: Theirs.
        relevance: The map without noise, where it is known.
    """
    check_examples(inputs)
    at_least(1, samples=samples)
    clean = explain(inputs, target) if relevance is None else relevance
    spread = scale * inputs.flatten(1).std(1).view(-1, *[1] * (inputs.ndim - 1))
    found = []
    for sample in range(samples):
        generator = torch.Generator().manual_seed(seed + sample)
        drawn = torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64).to(inputs)
        found.append(rank_correlation(clean, explain(inputs + spread * drawn, target)))
    return torch.stack(found).mean(0)
