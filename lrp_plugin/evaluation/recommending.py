"""A rule chosen for one's own model and data, and what it is worth on data that the choice did not see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.composites import Composite
from lrp_plugin.errors import told
from lrp_plugin.evaluation.candidates import Candidate, candidates
from lrp_plugin.evaluation.comparing import bar, compare
from lrp_plugin.evaluation.comparison import Comparison, _has_zero, interval_text
from lrp_plugin.evaluation.examples import Batch, Examples
from lrp_plugin.evaluation.faithfulness import Fill
from lrp_plugin.evaluation.intervals import Interval
from lrp_plugin.evaluation.methods import BASELINES, builder
from lrp_plugin.evaluation.metrics import Case, Metric, Settings, chosen_metrics
from lrp_plugin.evaluation.regions import Regions
from lrp_plugin.evaluation.scoring import Scorer
from lrp_plugin.kinds import checked

ETA = 3
RECOMMENDED, DEFAULT = "recommended", "default (epsilon)"
_HEADER = (
    "from lrp_plugin import Composite, UnifiedLRP, rule\n"
    "from lrp_plugin.composites import convolutions, dense, depth, first, linear_maps, operation\n"
    "from lrp_plugin.composites.ready import handing_on\n\n"
)


@dataclass(frozen=True)
class Round:
    """One round of the search. ``scores``: candidate -> mean over ``examples`` examples, NaN where it failed."""

    examples: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Recommendation:
    """The rule that was chosen, and its account.

    Attributes:
        composite: Ready to use: ``UnifiedLRP(model, composite=found.composite)``.
        code: The same as Python; ``low`` and ``high`` are the bounds where it names them.
        name: The candidate's name.
        metric: What it was chosen by.
        rounds: The search, on the one part of the data.
        held_out: The winner, the baselines and the package's default on the other part.
        failures: Candidate -> why it could not be tried.
    """

    composite: Composite
    code: str
    name: str
    metric: Metric
    rounds: tuple[Round, ...]
    held_out: Comparison
    failures: dict[str, str]

    @property
    def interval(self) -> Interval:
        """The winner's mean on the held-out part, with its interval."""
        found = self.held_out.interval(RECOMMENDED, self.metric.name)
        assert found is not None
        return found

    def against(self, baseline: str) -> Interval:
        """The paired difference to a baseline on the held-out part; above 0 the winner is better.

        Raises:
            KeyError: The baseline has no values (it failed).
        """
        found = self.held_out.difference(self.metric.name, RECOMMENDED, baseline)
        if self.metric.higher:
            return found
        return Interval(-found.mean, -found.high, -found.low, found.count, found.missing)

    @property
    def best_baseline(self) -> str | None:
        """The best of the others on the held-out part; None where all failed."""
        others = [name for name in self.held_out.ranking(self.metric.name) if name not in (RECOMMENDED, "random")]
        return others[0] if others else None

    @property
    def better(self) -> bool:
        """Whether the winner's paired difference to the best baseline is above 0, interval and all."""
        return self.best_baseline is None or self.against(self.best_baseline).low > 0

    def __str__(self) -> str:
        best = self.best_baseline
        tried, used, others = len(self.rounds[0].scores), self.rounds[-1].examples, len(self.held_out.targets)
        lines = [f"{self.name}: {self.metric.title} {interval_text(self.interval)} on {others} held-out examples; "
                 f"chosen among {tried} candidates on {used} others."]  # fmt: skip
        if best is not None:
            gap = self.against(best)
            if self.better:
                said = f"It beats the best baseline, {best}"
            elif _has_zero(gap):
                said = f"No candidate beats the baseline {best}: the difference is not told from 0"
            else:
                said = f"No candidate beats the baseline: {best} is better"
            lines.append(f"{said}; paired difference {interval_text(gap)}.")
        lines += [f"{name}: {reason}" for name, reason in self.failures.items()]
        return "\n".join([*lines, "", str(self.held_out), "", _HEADER + self.code])


@checked
def recommend(
    model: nn.Module, data: Any, *, metric: str | Metric = "srg", held_out: float | Any = 0.5,
    tried: Sequence[Candidate] | None = None, bounds: tuple[Any, Any] | None = None,
    baselines: Sequence[str] = BASELINES, regions: Regions | Tensor | None = None, replacement: Fill = "mean",
    shares: int = 10, output: str = "auto", examples: int = 96, batch_size: int = 64, seed: int = 0, progress: bool = True,
) -> Recommendation:  # fmt: skip
    """The composite that serves a model best by one metric, by successive halving; its worth on data it was not chosen on.

    All candidates explain a few examples; the better third goes on to three times as many, until one is left or the
    search part is used up (Jamieson and Talwalkar 2016, AISTATS, arXiv:1502.07943). The winner then meets the baselines on
    the held-out part: the best of many candidates looks better than it is on the data that chose it.

    Args:
        model: As in `compare`.
        data: As in `compare`.
        metric: The name of a measure, or a `Metric`.
        held_out: The share of the examples that the search does not see, or other data for the report.
        tried: The candidates; None: `candidates` of this model.
        bounds: The least and greatest value of an entry of the first map's input; z^B is tried where they are given.
        baselines: Methods that the winner is held against, besides the package's default.
        regions, replacement, shares, output, batch_size, seed, progress: As in `compare`.
        examples: How many examples the search uses at most.

    Raises:
        ValueError: For arguments that are not legal, fewer than two examples, or where every candidate failed.
    """
    whole = Examples(data, batch_size)
    chosen = next(iter(chosen_metrics([metric], whole.masked).values()))
    shared = isinstance(held_out, (int, float))
    if shared and not 0 < held_out < 1:
        raise ValueError(f"held_out={told(held_out)}; give a share of the examples between 0 and 1, or other data")
    share = float(held_out) if shared else 0.0
    search = _some(Examples(_Part(whole, share, seed, False), batch_size), examples, seed)
    report = _Part(whole, share, seed, True) if shared else held_out
    found = list(tried) if tried is not None else candidates(model, search.inputs, bounds)
    if not found:
        raise ValueError("no candidate: give at least one")
    settings = Settings(regions, replacement, shares, seed)
    settings.check(search.inputs)
    halving = _Halving(model, search, chosen, settings,
                       Scorer(model, output=output, batch_size=batch_size), progress)  # fmt: skip
    winner = halving.run(found)
    methods = {RECOMMENDED: winner.composite, **{name: name for name in baselines}, DEFAULT: "epsilon"}
    judged = compare(
        model, report, methods, [chosen], regions=regions, replacement=replacement, shares=shares, output=output,
        bounds=bounds, agreement=0, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    return Recommendation(
        winner.composite, winner.code, winner.name, chosen, tuple(halving.rounds), judged, halving.failures
    )


class _Part:
    """One of two parts of the examples, gone through without keeping them: which example is in which is drawn once."""

    def __init__(self, whole: Examples, share: float, seed: int, held: bool) -> None:
        self.whole, self.share, self.seed, self.held = whole, share, seed, held

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:
        generator = torch.Generator().manual_seed(self.seed)
        for batch in self.whole:
            mine = (torch.rand(len(batch.inputs), generator=generator) < self.share) == self.held
            if bool(mine.any()):
                yield tuple(None if value is None else value[mine.to(value.device)] for value in batch)


def _some(part: Examples, most: int, seed: int) -> Batch:
    """At most so many examples of a part, drawn at random; never more than these and a batch are held."""
    held: Batch | None = None
    generator = torch.Generator().manual_seed(seed)
    keys = torch.zeros(0)
    for batch in part:
        drawn = torch.rand(len(batch.inputs), generator=generator)
        both = batch if held is None else Batch(*(
            None if old is None or new is None else torch.cat([old, new]) for old, new in zip(held, batch)
        ))  # type: ignore[arg-type]  # fmt: skip
        keys = torch.cat([keys, drawn])
        best = keys.argsort()[:most]
        keys = keys[best]
        held = Batch(*(None if value is None else value[best.to(value.device)] for value in both))  # type: ignore[arg-type]
    assert held is not None
    return held


class _Halving:
    """The search: candidates, the examples they are judged on, the rounds so far."""

    def __init__(
        self, model: Any, search: Batch, metric: Metric, settings: Settings, scorer: Scorer, progress: bool
    ) -> None:
        self.model, self.search, self.metric, self.settings = model, search, metric, settings
        self.scorer, self.progress = scorer, progress
        self.rounds: list[Round] = []
        self.failures: dict[str, str] = {}

    def run(self, tried: Sequence[Candidate]) -> Candidate:
        """The winner. Values of a candidate's first examples are kept from round to round."""
        total, left = len(self.search.inputs), list(tried)
        rounds = max(math.ceil(math.log(max(len(left), 2), ETA)), 1)
        size = max(min(total, 6), math.ceil(total / ETA ** (rounds - 1)))
        while True:
            scores = {}
            for one in bar(left, self.progress, f"{len(left)} candidates on {size} examples"):
                scores[one.name] = self._score(one, min(size, total))
            self.rounds.append(Round(min(size, total), scores))
            sign = -1 if self.metric.higher else 1
            known = sorted(
                (one for one in left if not math.isnan(scores[one.name])), key=lambda c: sign * scores[c.name]
            )
            if not known:
                raise ValueError(
                    f"every candidate failed: {next(iter(self.failures.values()), 'no example has a value')}"
                )
            if size >= total or len(known) == 1:
                return known[0]
            left, size = known[: math.ceil(len(known) / ETA)], size * ETA

    def _score(self, candidate: Candidate, count: int) -> float:
        try:
            values = torch.cat(list(self._values(candidate, count)))
        except Exception as error:  # the recommendation says why, the others are tried
            self.failures[candidate.name] = f"{type(error).__name__}: {error}"
            return math.nan
        return float(values.nanmean())

    def _values(self, candidate: Candidate, count: int) -> Iterator[Tensor]:
        build = builder(candidate.composite, self.model)
        explain, device = build(self.model), self._device()
        for start in range(0, count, self.scorer.batch_size):
            part = slice(start, min(start + self.scorer.batch_size, count))
            inputs, target, mask = (None if value is None else value[part].to(device) for value in self.search)
            assert inputs is not None
            if target is None:
                with torch.no_grad():
                    target = Arguments().call(self.model, (inputs,)).argmax(1)
            relevance = explain(inputs, target)
            if not bool(torch.isfinite(relevance).all()):
                raise ValueError("its maps hold NaN or infinite values")
            case = Case(self.scorer, self.model, inputs, target, mask, relevance, explain, build, self.settings)
            yield self.metric.evaluate(case).double().cpu()

    def _device(self) -> torch.device:
        return next((value.device for value in self.model.parameters()), self.search.inputs.device)
