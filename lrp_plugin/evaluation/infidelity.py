"""Captum's own infidelity and sensitivity (Yeh et al. 2019, NeurIPS, arXiv:1901.09392), batched and seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max as captum_sensitivity
from torch import Tensor

from lrp_plugin.errors import told
from lrp_plugin.evaluation.faithfulness import Fill, check_examples, checked_relevance, tasks
from lrp_plugin.evaluation.regions import Regions
from lrp_plugin.evaluation.scoring import Scorer, of_rows
from lrp_plugin.kinds import at_least, checked

Explain = Callable[[Tensor, Any], Tensor]


@checked
def infidelity(
    model: Callable[..., Any] | Scorer, inputs: Tensor, relevance: Tensor, target: Any, *,
    regions: Regions | Tensor | None = None, replacement: Fill = "mean", share: float = 0.3, samples: int = 20,
    normalize: bool = True, output: str = "logit", batch_size: int = 64, seed: int = 0,
) -> Tensor:  # fmt: skip
    """How badly sums of relevance predict what the output loses, ``(N,)``, lower is better; by ``captum.metrics``.

    ``mean over subsets of (sum of R over the removed - (f(x) - f(x removed)))^2``: Yeh et al.'s definition for maps in the
    output's unit, the perturbation being what is removed, not a small noise. The subsets are the same for all examples.

    Args:
        model, inputs, relevance, target, regions, replacement, output, batch_size, seed: As in `perturbation_curves`.
        share: The chance of each region to be in a subset.
        samples: How many subsets.
        normalize: The map is scaled first as fits best, so that methods without a unit can be compared.
    """
    at_least(1, samples=samples)
    scorer = model if isinstance(model, Scorer) else Scorer(model, output=output, batch_size=batch_size)
    maps, found = checked_relevance(inputs, relevance).expand(inputs.shape), []
    for part, task in tasks(scorer, inputs, target, regions, replacement, seed):
        for rows in torch.arange(len(task.inputs), device=inputs.device).split(max(scorer.batch_size // samples, 1)):
            generator = torch.Generator().manual_seed(seed)
            total = int(task.labels.max()) + 1
            subsets = (torch.rand(samples, total, generator=generator) < share).to(inputs.device)

            def perturb(
                _: Tensor, task: Any = task, rows: Tensor = rows, subsets: Tensor = subsets
            ) -> tuple[Tensor, Tensor]:
                which = rows.repeat_interleave(len(subsets))
                order = torch.where(subsets, 0, 1).repeat(len(rows), 1)
                removed = task.removed(which, order, torch.ones_like(which))
                return removed.to(maps.dtype), task.perturb(which, removed)

            def forward(x: Tensor, which: Tensor, task: Any = task) -> Tensor:
                return task.scorer(x, task.target, which).to(maps.dtype)

            found.append(
                captum_infidelity(
                    forward, perturb, task.inputs[rows], maps[part][rows], additional_forward_args=(rows,),
                    n_perturb_samples=samples, normalize=normalize,
                )
            )  # fmt: skip
    return torch.cat(found).double()


@checked
def sensitivity(
    explain: Explain, inputs: Tensor, target: Any, *, radius: float = 0.02, samples: int = 10, batch_size: int = 64,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """The largest relative change of the map under small noise, ``(N,)``, lower is better; by ``captum.metrics``.

    Args:
        explain: ``(inputs, target) -> relevance``.
        inputs: ``(N, ...)``. target: An int or ``(N,)``.
        radius: The noise is uniform in plus and minus this, in the inputs' units.
        samples: How many noises, the same for all examples.
        batch_size: How many inputs are explained at a time.
        seed: Of the noise.

    Raises:
        ValueError: No example.
    """
    check_examples(inputs)
    at_least(1, samples=samples, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    drawn = (2 * torch.rand(samples, *inputs.shape[1:], generator=generator) - 1).to(inputs) * radius
    found = []
    for rows in torch.arange(len(inputs)).split(max(batch_size // samples, 1)):
        goal = of_rows(target, rows)

        def perturb(x: Tensor, _: float, count: int = len(rows)) -> tuple[Tensor, ...]:
            given = x[0] if isinstance(x, tuple) else x
            return (given + drawn.repeat(count, *[1] * (inputs.ndim - 1)),)

        def explained(x: Any, target: Any = None) -> tuple[Tensor, ...]:
            given = x[0] if isinstance(x, tuple) else x
            relevance = explain(given, target)
            if not isinstance(relevance, Tensor) or not bool(torch.isfinite(relevance).all()):
                raise ValueError(f"explain returned {told(relevance)}; it should return a tensor of finite numbers")
            return (relevance.detach() if relevance.is_floating_point() else relevance.double(),)

        found.append(captum_sensitivity(
            explained, inputs[rows], perturb, perturb_radius=radius, n_perturb_samples=samples, target=goal
        ))  # fmt: skip
    return torch.cat(found).double()
