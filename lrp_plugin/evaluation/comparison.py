"""What a comparison of methods found: values, intervals, paired differences; as text, table, picture, page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.evaluation.intervals import Interval, bootstrap_mean, paired_difference
from lrp_plugin.evaluation.methods import RANDOM
from lrp_plugin.evaluation.metrics import METRICS, Metric

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cost:
    """What explaining costs. ``seconds``: for one example, mean; ``mebibytes``: the peak of a call of ``examples``."""

    seconds: float
    mebibytes: float
    examples: int


@dataclass(frozen=True)
class Comparison:
    """Methods against metrics, on the same examples.

    Attributes:
        methods: Their names, in the order they were given.
        metrics: The measures by name, in order.
        values: (method, metric) -> ``(N,)``, float64; NaN where an example has no value.
        targets: The explained classes, ``(N,)``.
        costs: Method -> what explaining cost.
        failures: Method, or (method, metric) -> why it has no values.
        notes: What should be known of the examples (maps that were not finite, predictions that never moved).
        curves: Method -> mean MoRF and LeRF, each example's, ``(2, N, S)``; where asked for.
        shares: The curves' shares removed, ``(S,)``.
        agreement: Mean rank correlation of the methods' maps, ``(M, M)`` over ``methods``; NaN where a method failed.
        sorted_by: The metric that orders the tables.
    """

    methods: tuple[str, ...]
    metrics: Mapping[str, Metric]
    values: Mapping[tuple[str, str], Tensor]
    targets: Tensor
    costs: Mapping[str, Cost]
    failures: Mapping[Any, str]
    notes: tuple[str, ...]
    curves: Mapping[str, Tensor]
    shares: Tensor
    agreement: Tensor
    sorted_by: str

    def interval(self, method: str, metric: str) -> Interval | None:
        """The mean with its 95 % bootstrap interval; None where there are no values."""
        found = self.values.get((method, metric))
        return None if found is None else bootstrap_mean(found, resamples=1000)

    def difference(self, metric: str, first: str, second: str) -> Interval:
        """The paired difference ``first - second`` on the same examples, with its interval.

        Raises:
            KeyError: One of them has no values of that metric.
        """
        return paired_difference(self.values[first, metric], self.values[second, metric], resamples=1000)

    def ranking(self, metric: str | None = None) -> list[str]:
        """The methods that have values, the best first."""
        metric = self.sorted_by if metric is None else metric
        sign = -1 if self.metrics[metric].higher else 1
        means = {
            name: float(self.values[name, metric].nanmean()) for name in self.methods if (name, metric) in self.values
        }
        known = [name for name, mean in means.items() if not math.isnan(mean)]
        return sorted(known, key=lambda name: sign * means[name])

    def leaders(self, metric: str | None = None) -> list[str]:
        """The best method, and those whose paired difference from it has 0 in its interval; the random floor never is."""
        metric = self.sorted_by if metric is None else metric
        order = [name for name in self.ranking(metric) if name != RANDOM]
        if not order:
            return []
        tied = [name for name in order[1:] if _has_zero(self.difference(metric, order[0], name))]
        return [order[0], *tied]

    def ordered(self) -> list[str]:
        """All methods, by `sorted_by`, those without a value of it last."""
        order = self.ranking()
        return [*order, *(name for name in self.methods if name not in order)]

    def reason(self, method: str) -> str | None:
        """Why a method, or some of its metrics, have no values; None where all have."""
        if method in self.failures:
            return self.failures[method]
        why: dict[str, list[str]] = {}
        for key, metric in self.metrics.items():
            values = self.values.get((method, key))
            if (method, key) in self.failures:
                why.setdefault(self.failures[method, key], []).append(key)
            elif values is not None and len(values) and bool(values.isnan().all()):
                why.setdefault(_undefined(metric), []).append(key)
        return "; ".join(f"{', '.join(keys)}: {text}" for text, keys in why.items()) or None

    def mean_ranks(self, metric: str | None = None) -> dict[str, Interval]:
        """Each method's rank among all, averaged over the examples that all have a value for; 1 is best."""
        metric = self.sorted_by if metric is None else metric
        order = self.ranking(metric)
        table = torch.stack([self.values[name, metric] for name in order], 1) if order else torch.zeros(0, 0)
        table = table[~table.isnan().any(1)]
        from lrp_plugin.evaluation.similarity import ordered

        ranks = ordered(-table if self.metrics[metric].higher else table) + 1 if len(table) else table
        return (
            {name: bootstrap_mean(ranks[:, place], resamples=1000) for place, name in enumerate(order)}
            if len(table)
            else {}
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each method, best first: method, for each metric mean, low and high, seconds, mebibytes, reason."""
        found = []
        for name in self.ordered():
            row: dict[str, Any] = {"method": name}
            for metric in self.metrics:
                interval = self.interval(name, metric)
                for end in ("mean", "low", "high"):
                    row[metric if end == "mean" else f"{metric}_{end}"] = (
                        getattr(interval, end) if interval else math.nan
                    )
            cost = self.costs.get(name)
            row["seconds"] = cost.seconds if cost else math.nan
            row["mebibytes"] = cost.mebibytes if cost else math.nan
            row["reason"] = self.reason(name) or ""
            found.append(row)
        return found

    def __str__(self) -> str:
        leaders = {metric: set(self.leaders(metric)) for metric in self.metrics}
        arrows = {name: "up" if metric.higher else "down" for name, metric in self.metrics.items()}
        head = ["method", *(f"{metric.title} ({arrows[name]})" for name, metric in self.metrics.items()), "ms", "MiB"]
        lines = [head]
        for name in self.ordered():
            cells = [interval_text(self.interval(name, metric)) + ("*" if name in leaders[metric] else " ")
                     for metric in self.metrics]  # fmt: skip
            cost = self.costs.get(name)
            lines.append(
                [name, *cells, f"{1000 * cost.seconds:.1f}" if cost else "-", f"{cost.mebibytes:.1f}" if cost else "-"]
            )
        widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        text.append(f"{len(self.targets)} examples, mean [95 % bootstrap interval]. * leads, or its paired difference "
                    "from the leader has 0 in its interval.")  # fmt: skip
        text += [f"{name}: {self.reason(name)}" for name in self.methods if self.reason(name)]
        return "\n".join([*text, *self.notes])

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame, indexed by method.

        Raises:
            ImportError: pandas is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_frame() needs pandas: pip install pandas; rows() gives the same without it"
            ) from error
        return pandas.DataFrame(self.rows()).set_index("method")

    def plot(self, methods: Sequence[str] | None = None) -> Figure:
        """The curves with bands; see `lrp_plugin.evaluation.pictures.plot_curves`."""
        from lrp_plugin.evaluation.pictures import plot_curves

        return plot_curves(self, methods)

    def plot_ranks(self, metric: str | None = None) -> Figure:
        """Mean ranks with intervals, and which methods are not told apart; see `plot_ranks` of `pictures`."""
        from lrp_plugin.evaluation.pictures import plot_ranks

        return plot_ranks(self, self.sorted_by if metric is None else metric)

    def to_html(self, path: str | Path | None = None) -> str:
        """The whole as one page that needs no other file; written to ``path`` where it is given."""
        from lrp_plugin.evaluation.page import comparison_page
        from lrp_plugin.files import write_atomically

        text = comparison_page(self)
        if path is not None:
            write_atomically(path, text.encode())
        return text


def interval_text(interval: Interval | None) -> str:
    """``0.312 [0.290, 0.334]``, a dash for none."""
    if interval is None or math.isnan(interval.mean):
        return "-"
    # + 0.0: no "-0.000"
    mean, low, high = (f"{round(value, 3) + 0.0:.3f}" for value in (interval.mean, interval.low, interval.high))
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def _has_zero(interval: Interval) -> bool:
    """Whether nothing is shown: 0 lies in the interval, or there is none."""
    return not (interval.low > 0 or interval.high < 0)


def _undefined(metric: Metric) -> str:
    """Why no example may have a value; of a measure of the user's own nothing is known."""
    if METRICS.get(metric.name) is not metric:
        return "no example has a value"
    what = "an empty mask, or no positive relevance" if metric.needs_mask else "a map without variation"
    return f"no example has a value ({what})"
