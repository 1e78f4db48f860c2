"""What stands below and above every map: the curves of random orders, and of the greedy search for the best order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.evaluation.faithfulness import (
    Curves,
    Fill,
    _Task,
    counts_of,
    joined,
    perturbation_curves,
    share_points,
    tasks,
)
from lrp_plugin.evaluation.regions import Regions, relevance_of
from lrp_plugin.evaluation.scoring import Scorer
from lrp_plugin.kinds import at_least, checked

MOST_REGIONS = 256


@checked
def random_curves(
    model: Callable[..., Any] | Scorer, inputs: Tensor, target: Any, *, draws: int = 5, seed: int = 0, **options: Any
) -> Curves:
    """The floor: the mean curves of ``draws`` random orders, each the same for every example.

    Arguments else as in `perturbation_curves`. A random order read backwards is a random order, so the area between the
    two curves is 0 on average; the curves themselves are not: removing anything at all changes the output.
    """
    at_least(1, draws=draws)
    found = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed + draw)
        order = torch.randn(inputs.shape[1:], generator=generator).to(inputs.device)
        found.append(
            perturbation_curves(model, inputs, order.expand(inputs.shape), target, seed=seed + draw, **options)
        )
    return Curves(
        found[0].shares,
        torch.stack([one.morf for one in found]).mean(0),
        torch.stack([one.lerf for one in found]).mean(0),
    )


@checked
def greedy_curves(
    model: Callable[..., Any] | Scorer, inputs: Tensor, target: Any, *, regions: Regions | Tensor | None = None,
    replacement: Fill = "mean", shares: Sequence[float] | int = 10, output: str = "auto", batch_size: int = 64,
    seed: int = 0,
) -> Curves:  # fmt: skip
    """The ceiling: at each step the region whose removal changes the score most is removed, down for MoRF, up for LeRF.

    Costs K (K + 1) forward passes for each example with K regions. Greedy is no proof of the best order, but no map is
    made with the answers in hand, so hardly one comes near it.

    Raises:
        ValueError: More than 256 regions, or as in `perturbation_curves`.
    """
    scorer = model if isinstance(model, Scorer) else Scorer(model, output=output, batch_size=batch_size)
    points, found = share_points(shares, inputs.device), []
    for _, task in tasks(scorer, inputs, target, regions, replacement, seed):
        _, present = relevance_of(task.labels, torch.zeros(task.inputs.shape, device=inputs.device))
        sizes = present.sum(1)
        if int(sizes.max()) > MOST_REGIONS:
            raise ValueError(
                f"{int(sizes.max())} regions: the greedy search takes at most {MOST_REGIONS}, give larger ones"
            )
        orders = [_greedy(task, present, sign) for sign in (1, -1)]
        morf, lerf = task.scores(orders, counts_of(points, sizes), sizes)
        found.append((morf, lerf))
    return joined(points, found)


def _greedy(task: _Task, present: Tensor, sign: int) -> Tensor:
    """When each region is removed ``(N, K)``: next the one whose removal makes ``sign * score`` lowest."""
    examples, total = present.shape
    order = torch.full((examples, total), total, device=present.device)
    for step in range(int(present.sum(1).max())):
        left = ((order == total) & present).nonzero()
        scores = torch.full((examples, total), torch.inf, dtype=torch.float64, device=present.device)
        for some in left.split(task.scorer.batch_size):
            rows, region = some.unbind(1)
            tried = torch.where(order[rows] < total, 0, 1).scatter(1, region[:, None], 0)
            removed = task.removed(rows, tried, torch.ones_like(rows))
            scores[rows, region] = sign * task.scorer(task.perturb(rows, removed), task.target, rows)
        best = scores.argmin(1)
        going = scores.gather(1, best[:, None])[:, 0] < torch.inf
        order[going, best[going]] = step
    return order
