"""Does the model use what the map says it uses? What the output does while regions are removed in the map's order.

MoRF removes the most relevant regions first, LeRF the least relevant (Samek et al. 2017, arXiv:1509.06321). All measures
here are points or areas of the two curves, with the share of regions removed, f, from 0 to 1:

==================  =======================================================================================
`srg`               area of LeRF - area of MoRF: symmetric relevance gain (Bluecher et al. 2024, arXiv:2401.06654); higher
                    is better, 0 is a random order. The replacement's own bias is in both curves and falls out.
`deletion`          area of MoRF, lower is better (Petsiuk et al. 2018, RISE, arXiv:1806.07421).
`insertion`         area of LeRF, higher is better: inserting the most relevant first is removing the least relevant
                    first, read backwards (same paper).
`comprehensiveness` mean of f(x) - f(x without its top share), higher is better (DeYoung et al. 2020, ERASER,
                    arXiv:1911.03429).
`sufficiency`       mean of f(x) - f(its top share alone), lower is better (same paper).
==================  =======================================================================================

With ``replacement="road"`` they are ROAD's curves. Areas are trapezoids over f, in the output's unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.errors import told
from lrp_plugin.evaluation.regions import Regions, labels_of, patches, relevance_of
from lrp_plugin.evaluation.replacement import Perturb, Replacement, replacement
from lrp_plugin.evaluation.scoring import Scorer
from lrp_plugin.kinds import checked

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""DeYoung et al.'s shares for comprehensiveness and sufficiency."""

Fill = str | float | Tensor | Replacement


@dataclass(frozen=True)
class Curves:
    """The output while regions are removed.

    Attributes:
        shares: The share of regions removed, ``(S,)``, from 0 to 1.
        morf: The target's score, the most relevant removed first, ``(N, S)``.
        lerf: The least relevant first, ``(N, S)``.
    """

    shares: Tensor
    morf: Tensor
    lerf: Tensor

    @property
    def srg(self) -> Tensor:
        """Symmetric relevance gain ``(N,)``, higher is better."""
        return self.insertion - self.deletion

    @property
    def deletion(self) -> Tensor:
        """The area under MoRF ``(N,)``, lower is better."""
        return torch.trapezoid(self.morf, self.shares, dim=1)

    @property
    def insertion(self) -> Tensor:
        """The area under LeRF ``(N,)``, higher is better."""
        return torch.trapezoid(self.lerf, self.shares, dim=1)

    @property
    def unmoved(self) -> Tensor:
        """Which examples' score no removal changed ``(N,)``: nothing can be said of their maps."""
        both = torch.cat([self.morf, self.lerf], 1)
        return both.amax(1) == both.amin(1)


@dataclass(frozen=True)
class _Task:
    """What stays the same over all curves of one batch of examples."""

    scorer: Scorer
    inputs: Tensor
    target: Any
    labels: Tensor
    perturb: Perturb

    def scores(self, orders: Sequence[Tensor], counts: Tensor, sizes: Tensor) -> list[Tensor]:
        """The score with the first ``counts`` regions of each order removed: for each order ``(N, S)``."""
        examples, steps = counts.shape
        found = torch.full((len(orders), examples, steps), torch.nan, dtype=torch.float64, device=counts.device)
        # Nothing and everything removed are the same in every order.
        same = (counts == 0) | (counts == sizes[:, None])
        needed = torch.stack([torch.ones_like(same), *[~same] * (len(orders) - 1)])
        jobs = needed.nonzero()
        for some in jobs.split(self.scorer.batch_size):
            which, rows, step = some.unbind(1)
            ranks = torch.stack(list(orders))[which, rows]
            found[which, rows, step] = self.scorer(
                self.perturb(rows, self.removed(rows, ranks, counts[rows, step])), self.target, rows
            )
        found = torch.where(needed, found, found[:1])
        return list(found)

    def removed(self, rows: Tensor, ranks: Tensor, counts: Tensor) -> Tensor:
        """What is removed of these examples: regions whose rank is below the count; of the inputs' shape."""
        labels = self.labels[rows] if len(self.labels) == len(self.inputs) else self.labels.expand(
            len(rows), *self.labels.shape[1:]
        )  # fmt: skip
        below = ranks.gather(1, labels.flatten(1)) < counts[:, None]
        return below.view(labels.shape).expand(len(rows), *self.inputs.shape[1:])


@checked
def perturbation_curves(
    model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, *,
    regions: Regions | Tensor | None = None, replacement: Fill = "mean", shares: Sequence[float] | int = 10,
    output: str = "auto", batch_size: int = 64, seed: int = 0,
) -> Curves:  # fmt: skip
    """The target's score while regions are removed in the order of their relevance.

    Args:
        model: A model, or a `Scorer` (then ``output`` and ``batch_size`` are its own).
        inputs: ``(N, ...)``, on the model's device. Never written to.
        relevance: Of the inputs' shape, or broadcastable to it (``(N, 1, H, W)``); summed over each region.
        target: An int, or ``(N,)``, or a function of the output.
        regions: What is removed together; None: patches of an eighth of a picture's shorter side, else single steps.
        replacement: ``"zero"``, ``"mean"``, ``"blur"``, ``"noise"``, ``"road"``, a value, or a replacement.
        shares: The shares of regions removed, from 0 to 1; an int n: n equal steps.
        output: As in `Scorer`.
        batch_size: How many inputs are in one forward pass at most.
        seed: Of the order of equal regions and of what a replacement draws.

    Raises:
        ValueError: NaN in the relevance, another shape, or an argument that is not legal.
    """
    scorer = model if isinstance(model, Scorer) else Scorer(model, output=output, batch_size=batch_size)
    maps = checked_relevance(inputs, relevance)
    points = share_points(shares, inputs.device)
    found = [
        _curves(task, maps[part], points, seed)
        for part, task in tasks(scorer, inputs, target, regions, replacement, seed)
    ]
    return joined(points, found)


def _curves(task: _Task, relevance: Tensor, shares: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    sums, present = relevance_of(task.labels, relevance.expand(task.inputs.shape))
    sizes = present.sum(1)
    orders = [ranks(sums, present, first_highest, seed) for first_highest in (True, False)]
    morf, lerf = task.scores(orders, counts_of(shares, sizes), sizes)
    return morf, lerf


def tasks(
    scorer: Scorer, inputs: Tensor, target: Any, regions: Regions | Tensor | None, fill: Fill, seed: int
) -> list[tuple[slice, _Task]]:
    """The examples in parts that bound memory, each with its regions and its replacement begun."""
    check_examples(inputs)
    begin, found = replacement(fill), []
    chosen = regions if regions is not None else default_regions(inputs)
    wanted = _as_classes(target, inputs.device) if isinstance(target, list) else target
    for start in range(0, len(inputs), scorer.batch_size):
        part = slice(start, start + scorer.batch_size)
        own = chosen[part] if isinstance(chosen, Tensor) and chosen.ndim and len(chosen) == len(inputs) > 1 else chosen
        goal = wanted[part] if isinstance(wanted, Tensor) and wanted.ndim else wanted
        found.append((part, _Task(_part(scorer, part, len(inputs)), inputs[part], goal, labels_of(own, inputs[part]),
                                  begin(inputs[part], seed))))  # fmt: skip
    return found


def _as_classes(target: list[Any], device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(target, device=device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"target={told(target)}; give one class for all inputs, or a list with one for each") from None


def _part(scorer: Scorer, part: slice, examples: int) -> Scorer:
    """The same scorer with the arguments of a part of the examples."""
    arguments = [
        value[part] if isinstance(value, Tensor) and value.ndim and len(value) == examples else value
        for value in scorer.arguments
    ]
    return Scorer(
        scorer.model, output=scorer.output, batch_size=scorer.batch_size, arguments=arguments, choose=scorer.choose
    )


def default_regions(inputs: Tensor) -> Regions:
    """Patches of an eighth of the shorter side of pictures; single steps or columns otherwise."""
    from lrp_plugin.evaluation.regions import time_steps

    return patches(max(min(inputs.shape[2:]) // 8, 1)) if inputs.ndim > 3 else time_steps(1)


def check_examples(inputs: Tensor) -> None:
    """Raises ``ValueError`` for inputs (N, ...) without an example."""
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or not len(inputs):
        what = f"of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise ValueError(f"inputs is {what}; give a tensor (N, ...) of one example or more")


def checked_relevance(inputs: Tensor, relevance: Tensor) -> Tensor:
    """The relevance, detached, if it fits the inputs and is finite.

    Raises:
        ValueError: It does not, or is not.
    """
    if not isinstance(relevance, Tensor):
        raise ValueError(f"relevance is a {type(relevance).__name__}; give a tensor of the inputs' shape")
    if inputs.ndim < 2:
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}; give (N, ...), examples of one entry or more")
    if relevance.ndim == inputs.ndim - 1 and relevance.shape[1:] == inputs.shape[2:]:
        relevance = relevance.unsqueeze(1)
    if relevance.ndim != inputs.ndim or any(r not in (1, i) for r, i in zip(relevance.shape, inputs.shape)):
        raise ValueError(f"relevance {tuple(relevance.shape)} does not fit the inputs {tuple(inputs.shape)}")
    wrong = (~torch.isfinite(relevance)).flatten(1).any(1)
    if bool(wrong.any()):
        raise ValueError(f"relevance of {int(wrong.sum())} of {len(wrong)} examples holds NaN or infinite values")
    relevance = relevance if relevance.is_floating_point() else relevance.double()
    # One channel for all is shared evenly, so that sums over a region are those of the one.
    spread = inputs.numel() // max(relevance.numel(), 1)
    return relevance.detach() / spread if spread > 1 else relevance.detach()


def share_points(shares: Sequence[float] | int, device: torch.device) -> Tensor:
    """The shares as a tensor ``(S,)``.

    Raises:
        ValueError: None, or one outside [0, 1], or out of order.
    """
    points = torch.linspace(0, 1, shares + 1) if isinstance(shares, int) and shares > 0 else torch.as_tensor(shares)
    points = points.to(device, torch.float64)
    if points.ndim != 1 or not len(points) or points.min() < 0 or points.max() > 1 or (points.diff() < 0).any():
        raise ValueError(
            f"shares={told(shares)}; give a positive number of steps, or shares in ascending order from 0 to 1"
        )
    return points


def ranks(sums: Tensor, present: Tensor, highest_first: bool, seed: int) -> Tensor:
    """When each region is removed ``(N, K)``, 0 first; equal regions in one random order, absent ones last."""
    total = sums.shape[1]
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(sums.device)
    keys = torch.where(present, -sums if highest_first else sums, torch.inf)[:, shuffled]
    order = shuffled[keys.argsort(dim=1, stable=True)]
    return torch.empty_like(order).scatter_(1, order, torch.arange(total, device=sums.device).expand_as(order))


def counts_of(shares: Tensor, sizes: Tensor) -> Tensor:
    """How many regions each share is ``(N, S)``: rounded, at least one where the share is not 0."""
    counts = (shares[None] * sizes[:, None]).round().long()
    return torch.where(shares[None] > 0, counts.clamp(min=1), counts)


def joined(shares: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Curves:
    """The curves of all parts of the examples."""
    return Curves(shares, *(torch.cat(found) for found in zip(*parts)))


@checked
def srg(model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, **options: Any) -> Tensor:
    """Symmetric relevance gain ``(N,)``; arguments as in `perturbation_curves`."""
    return perturbation_curves(model, inputs, relevance, target, **options).srg


@checked
def deletion(
    model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, **options: Any
) -> Tensor:
    """The area under MoRF ``(N,)``, lower is better; arguments as in `perturbation_curves`, zero for what is removed."""
    return perturbation_curves(model, inputs, relevance, target, **{"replacement": "zero", **options}).deletion


@checked
def insertion(
    model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, **options: Any
) -> Tensor:
    """The area under the insertion curve ``(N,)``, higher is better; inserted into a blurred picture unless told."""
    fill = "blur" if inputs.ndim == 4 else "mean" if inputs.is_floating_point() else "zero"
    return perturbation_curves(model, inputs, relevance, target, **{"replacement": fill, **options}).insertion


def _listed(shares: Any) -> list[Any]:
    """The shares one by one; a tensor or array of no dimension is none."""
    if getattr(shares, "shape", (1,)) == ():
        raise ValueError(f"shares={told(shares)}: legal is a sequence of numbers from 0 to 1, as (0.1, 0.2)")
    return list(shares)


@checked
def comprehensiveness(
    model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, *,
    shares: Sequence[float] = SHARES, **options: Any,
) -> Tensor:  # fmt: skip
    """Mean over ``shares`` of f(x) - f(x without its top share), ``(N,)``, higher is better."""
    curves = perturbation_curves(model, inputs, relevance, target, shares=[0.0, *sorted(_listed(shares))], **options)
    return (curves.morf[:, :1] - curves.morf[:, 1:]).mean(1)


@checked
def sufficiency(
    model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, *,
    shares: Sequence[float] = SHARES, **options: Any,
) -> Tensor:  # fmt: skip
    """Mean over ``shares`` of f(x) - f(its top share alone), ``(N,)``, lower is better."""
    points = [0.0, *sorted(1 - share for share in _listed(shares))]
    curves = perturbation_curves(model, inputs, relevance, target, shares=points, **options)
    return (curves.lerf[:, :1] - curves.lerf[:, 1:]).mean(1)
