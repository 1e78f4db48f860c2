"""The measures by name, each a function of one batch of explained examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.errors import told
from lrp_plugin.evaluation import complexity, faithfulness, localization
from lrp_plugin.evaluation.faithfulness import Curves, Fill, perturbation_curves, share_points
from lrp_plugin.evaluation.infidelity import infidelity, sensitivity
from lrp_plugin.evaluation.methods import Builder, Explain
from lrp_plugin.evaluation.regions import Regions, labels_of
from lrp_plugin.evaluation.replacement import replacement
from lrp_plugin.evaluation.sanity import parameter_randomization
from lrp_plugin.evaluation.scoring import Scorer


@dataclass(frozen=True)
class Settings:
    """What the measures of one comparison have in common; see `perturbation_curves`."""

    regions: Regions | Tensor | None = None
    replacement: Fill = "mean"
    shares: int = 10
    seed: int = 0

    def check(self, inputs: Tensor) -> None:
        """Raises ``ValueError`` for settings that are legal for no inputs, or not for these, before anything is explained."""
        replacement(self.replacement)
        share_points(self.shares, inputs.device)
        if isinstance(self.regions, Tensor) and self.regions.ndim and len(self.regions) > 1:
            raise ValueError(
                f"regions {tuple(self.regions.shape)} do not fit batches of examples: give (1, ...), the same for all, or a "
                "function of the inputs"
            )
        if self.regions is not None:
            labels_of(self.regions, inputs[:1])


@dataclass(frozen=True)
class Case:
    """One batch of examples, explained by one method.

    Attributes:
        scorer: The model's score. model: The model.
        inputs: ``(N, ...)``. target: ``(N,)``. mask: ``(N, 1, H, W)`` or None.
        relevance: The maps, finite.
        explain: The method. build: What makes it for another model.
        settings: Of the whole comparison.
    """

    scorer: Scorer
    model: Any
    inputs: Tensor
    target: Tensor
    mask: Tensor | None
    relevance: Tensor
    explain: Explain
    build: Builder
    settings: Settings
    _curves: dict[str, Curves] = field(default_factory=dict)

    def curves(self, fill: Fill | None = None) -> Curves:
        """The perturbation curves, made once for all measures that are areas of them."""
        chosen = self.settings.replacement if fill is None else fill
        key = chosen if isinstance(chosen, str) else "own"
        if key not in self._curves:
            self._curves[key] = perturbation_curves(
                self.scorer, self.inputs, self.relevance, self.target, regions=self.settings.regions,
                replacement=chosen, shares=self.settings.shares, seed=self.settings.seed,
            )  # fmt: skip
        return self._curves[key]

    def removal(self) -> dict[str, Any]:
        """The arguments of measures that remove regions at shares of their own."""
        settings = self.settings
        return {"regions": settings.regions, "replacement": settings.replacement, "seed": settings.seed}


@dataclass(frozen=True)
class Metric:
    """One measure.

    Args:
        name: Its key. title: For tables.
        higher: Whether higher is better.
        evaluate: From a `Case` to one number for each example, ``(N,)``; NaN where it has none.
        needs_mask: It needs ``mask``.
        chance: What a map that knows nothing scores, where that is one number.
    """

    name: str
    title: str
    higher: bool
    evaluate: Callable[[Case], Tensor] = field(compare=False)
    needs_mask: bool = False
    chance: float | None = None


def _located(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Case], Tensor]:
    def evaluate(case: Case) -> Tensor:
        if case.mask is None:
            raise ValueError("no mask: give data with masks (N, 1, H, W) as its third part")
        return measure(case.relevance, case.mask)

    return evaluate


def _randomized(case: Case) -> Tensor:
    found = parameter_randomization(
        case.build, case.model, case.inputs, case.target, seed=case.settings.seed, relevance=case.relevance
    )
    return torch.stack(list(found.values())).nanmean(0)


def _randomized_whole(case: Case) -> Tensor:
    import copy

    from lrp_plugin.evaluation.sanity import randomize
    from lrp_plugin.evaluation.similarity import rank_correlation

    changed, generator = copy.deepcopy(case.model), torch.Generator().manual_seed(case.settings.seed)
    for module in changed.modules():
        randomize(module, generator)
    return rank_correlation(case.relevance, case.build(changed)(case.inputs, case.target))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("srg", "SRG", True, lambda case: case.curves().srg, chance=0.0),
        Metric("morf", "MoRF area", False, lambda case: case.curves().deletion),
        Metric("lerf", "LeRF area", True, lambda case: case.curves().insertion),
        Metric("deletion", "deletion", False, lambda case: case.curves("zero").deletion),
        Metric("insertion", "insertion", True,
               lambda case: case.curves("blur" if case.inputs.ndim == 4 else None).insertion),
        Metric("comprehensiveness", "comprehensiveness", True, lambda case: faithfulness.comprehensiveness(
            case.scorer, case.inputs, case.relevance, case.target, **case.removal())),
        Metric("sufficiency", "sufficiency", False, lambda case: faithfulness.sufficiency(
            case.scorer, case.inputs, case.relevance, case.target, **case.removal())),
        Metric("road", "SRG, ROAD", True, lambda case: case.curves("road").srg, chance=0.0),
        Metric("infidelity", "infidelity", False, lambda case: infidelity(
            case.scorer, case.inputs, case.relevance, case.target, **case.removal())),
        Metric("sensitivity", "max-sensitivity", False, lambda case: sensitivity(
            case.explain, case.inputs, case.target, samples=5, seed=case.settings.seed)),
        Metric("mask_share", "mass inside", True, _located(localization.mask_share), True),
        Metric("rank_accuracy", "rank inside", True, _located(localization.rank_accuracy), True),
        Metric("pointing_game", "pointing game", True, _located(localization.pointing_game), True),
        Metric("top_k_inside", "top 5 % inside", True, _located(localization.top_k_inside), True),
        Metric("randomization", "randomized, alike", False, _randomized_whole, chance=0.0),
        Metric("cascade", "cascade, alike", False, _randomized, chance=0.0),
        Metric("stability", "stability", True, lambda case: complexity.noise_stability(
            case.explain, case.inputs, case.target, seed=case.settings.seed, relevance=case.relevance)),
        Metric("entropy", "entropy, nats", False, lambda case: complexity.entropy(case.relevance)),
        Metric("sparseness", "sparseness", True, lambda case: complexity.sparseness(case.relevance)),
    )
}  # fmt: skip
"""Every measure by its name. ``entropy`` and ``sparseness`` say how simple a map is, not whether it is right."""

DEFAULT_METRICS = ("srg", "morf", "lerf", "stability")
MASKED_METRICS = ("mask_share", "pointing_game")


def chosen_metrics(metrics: Sequence[str | Metric] | None, masked: bool) -> dict[str, Metric]:
    """The measures by name, in order; None: the default ones, with localization where there are masks.

    Raises:
        ValueError: For an unknown name, one that needs a mask where there is none, or two of one name.
    """
    given: Sequence[str | Metric] = metrics if metrics is not None else (
        *DEFAULT_METRICS, *(MASKED_METRICS if masked else ())
    )  # fmt: skip
    found: dict[str, Metric] = {}
    for one in given:
        metric = METRICS.get(one) if isinstance(one, str) else one
        if not isinstance(metric, Metric):
            raise ValueError(f"unknown metric {told(one)}; legal are {', '.join(METRICS)}, or a Metric")
        if metric.needs_mask and not masked:
            raise ValueError(f"metric {metric.name!r} needs masks: give data as (inputs, target, mask)")
        if metric.name in found:
            raise ValueError(f"metric {metric.name!r} is given twice")
        found[metric.name] = metric
    if not found:
        raise ValueError(f"no metric: choose from {', '.join(METRICS)}")
    return found


Values = Mapping[tuple[str, str], Tensor]
