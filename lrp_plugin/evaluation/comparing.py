"""Methods against metrics in one call: every method explains every example once, every metric looks at the map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.errors import told
from lrp_plugin.evaluation.comparison import Comparison, Cost
from lrp_plugin.evaluation.examples import Batch, Examples, model_fingerprint
from lrp_plugin.evaluation.faithfulness import Fill
from lrp_plugin.evaluation.kept import Kept
from lrp_plugin.evaluation.methods import BASELINES, RANDOM, Builder, builders
from lrp_plugin.evaluation.metrics import Case, Metric, Settings, chosen_metrics
from lrp_plugin.evaluation.regions import Regions, labels_of
from lrp_plugin.evaluation.scoring import Scorer
from lrp_plugin.evaluation.similarity import agreement as agreement_of
from lrp_plugin.evaluation.similarity import places
from lrp_plugin.evaluation.weighing import peak_bytes
from lrp_plugin.kinds import checked

DEFAULT_METHODS = (*BASELINES, "epsilon", "epsilon_plus", "epsilon_plus_flat", "alphabeta")
_COST, _CURVES, _TARGETS = "cost", "curves", "targets"
_WITH_CURVES = {"srg", "morf", "lerf"}


@checked
def compare(
    model: nn.Module, data: Any, methods: Sequence[Any] | Mapping[str, Any] = DEFAULT_METHODS,
    metrics: Sequence[str | Metric] | None = None, *, regions: Regions | Tensor | None = None, replacement: Fill = "mean",
    shares: int = 10, output: str = "auto", bounds: tuple[Any, Any] | None = None, sort_by: str | None = None,
    floor: bool = True, agreement: int = 32, batch_size: int = 64, seed: int = 0, folder: str | Path | None = None,
    progress: bool = True,
) -> Comparison:  # fmt: skip
    """Methods measured on the same examples, with intervals, time and memory.

    Memory does not grow with the number of examples: a batch is explained, measured and let go. A method that fails has a
    row that says why; the others run.

    Args:
        model: A module from inputs ``(N, ...)`` to logits ``(N, K)`` or one number each; explained in evaluation mode.
        data: ``(inputs, target)`` or ``(inputs, target, mask)`` as tensors; a loader or list of such batches or of dicts
            with ``image``, ``disease``, ``evidence``; or a data set of one example each. Without a target the predicted
            class is explained.
        methods: Names (`method_names`), explainers, composites, functions; see `lrp_plugin.evaluation.methods.builder`.
            A mapping gives them names.
        metrics: Names of `METRICS`, or `Metric` objects; None: ``srg``, ``morf``, ``lerf``, ``stability``, and with masks
            ``mask_share`` and ``pointing_game``.
        regions, replacement, shares, seed: As in `perturbation_curves`.
        output: As in `Scorer`.
        bounds: The least and greatest value of an input entry, for ``epsilon_gamma_box``.
        sort_by: The metric that orders the tables; None: the first.
        floor: Add the method ``"random"``.
        agreement: The agreement matrix is over the first so many examples; 0: none.
        batch_size: How many inputs are in one pass at most.
        folder: Values are kept here as they are made, one file for each method and metric; the same call goes on where
            it stopped. Data, weights and settings must be the same; a method is known by its name alone.
        progress: Show a bar on standard error, where tqdm is installed.

    Raises:
        ValueError: For data, metrics or settings that are not legal, and a folder of another comparison.
    """
    examples = Examples(data, batch_size)
    wanted = chosen_metrics(metrics, examples.masked)
    order = sort_by or next(iter(wanted))
    if order not in wanted:
        raise ValueError(f"sort_by={told(order)} is not among the metrics {', '.join(wanted)}")
    made = builders(methods, model, bounds)
    if floor and RANDOM not in made:
        made.update(builders([RANDOM], model))
    settings = Settings(regions, replacement, shares, seed)
    first = next(iter(examples)).inputs
    settings.check(first)
    scorer = Scorer(model, output=output, batch_size=batch_size)
    kept = Kept(None if folder is None else Path(folder), {} if folder is None else {
        "data": examples.fingerprint(), "model": model_fingerprint(model), "output": output, "shares": shares, "seed": seed,
        "replacement": _name(replacement), "agreement": agreement,
        # By what they are: functions of different sizes have one name.
        "regions": "None" if regions is None else _name(labels_of(regions, first[:1])),
    })  # fmt: skip
    run = _Run(model, examples, wanted, settings, scorer, kept, agreement)
    for name, build in bar(list(made.items()), progress, "Comparing"):
        run.method(name, build)
    return run.result(tuple(made), order)


def _name(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {float(value.double().sum()):.12g}"
    return getattr(value, "__qualname__", str(value))


def bar(items: Iterable[Any], shown: bool, text: str) -> Iterator[Any]:
    """The items, with tqdm's bar where it is wanted and installed."""
    if shown:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            shown = False
    yield from tqdm(items, desc=text, leave=False) if shown else items


@dataclass
class _Run:
    """One comparison while it is made."""

    model: nn.Module
    examples: Examples
    metrics: dict[str, Metric]
    settings: Settings
    scorer: Scorer
    kept: Kept
    agreeing: int
    failures: dict[Any, str] = field(default_factory=dict)
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    targets: Tensor | None = None

    def method(self, name: str, build: Builder) -> None:
        """Fills in one method's values, from the folder where they are there."""
        pending = {key: metric for key, metric in self.metrics.items() if not self._restore(name, key)}
        if not pending and self._restored(name):
            return
        try:
            explain = build(self.model)
            found = _Found(name, self, pending)
            for batch in self.examples:
                found.add(batch, explain, build)
        except Exception as error:  # a row says why, the others run
            self.failures[name] = _reason(error)
            return
        found.finish(build)

    def _restore(self, name: str, metric: str) -> bool:
        held = self.kept.tensor(name, metric)
        if held is not None:
            self.values[name, metric] = held
        return held is not None

    def _restored(self, name: str) -> bool:
        """Whether everything else of a finished method is there too."""
        cost, maps, targets = (self.kept.get(name, what) for what in (_COST, "maps", _TARGETS))
        if cost is None or targets is None or (self.agreeing and maps is None):
            return False
        self.costs[name] = Cost(*cost)
        self.targets = torch.tensor(targets)
        if self.agreeing and maps:
            self.maps[name] = torch.tensor(maps, dtype=torch.float64)
        curves = self.kept.tensor(name, _CURVES)
        if curves is not None:
            self.curves[name] = curves
        for note in self.kept.get(name, "notes") or ():
            self.notes[note] = None
        return True

    def result(self, names: tuple[str, ...], order: str) -> Comparison:
        """All that was found."""
        agreed = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
        known = [place for place, name in enumerate(names) if name in self.maps]
        if known:
            table = agreement_of({names[place]: self.maps[names[place]] for place in known})
            agreed[torch.tensor(known)[:, None], torch.tensor(known)[None]] = table
        if self.targets is None:
            self.targets = torch.cat([self.target_of(batch).cpu() for batch in self.examples])
        return Comparison(
            names, self.metrics, self.values, self.targets, self.costs, self.failures, tuple(self.notes), self.curves,
            torch.linspace(0, 1, self.settings.shares + 1, dtype=torch.float64), agreed, order,
        )  # fmt: skip

    def device(self) -> torch.device | None:
        """The model's device, where it has one."""
        return (
            next((value.device for value in self.model.parameters()), None)
            if isinstance(self.model, nn.Module)
            else None
        )

    def target_of(self, batch: Batch) -> Tensor:
        """The classes that are explained: the given ones, or the predicted."""
        device = self.device()
        inputs = batch.inputs if device is None else batch.inputs.to(device)
        if batch.target is not None:
            return batch.target.to(inputs.device)
        with torch.no_grad():
            parts = inputs.split(self.scorer.batch_size)
            logits = torch.cat([Arguments().call(self.model, (part,)) for part in parts])
        return logits.argmax(1) if logits.ndim > 1 else torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)


class _Found:
    """One method's values while its batches go by."""

    def __init__(self, name: str, run: _Run, pending: dict[str, Metric]) -> None:
        self.name, self.run, self.pending = name, run, dict(pending)
        self.parts: dict[str, list[Tensor]] = {key: [] for key in pending}
        self.curves: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.seconds, self.count, self.broken, self.unmoved = 0.0, 0, 0, 0
        self.first: tuple[Tensor, Tensor] | None = None

    def add(self, batch: Batch, explain: Callable[[Tensor, Any], Tensor], build: Builder) -> None:
        run, device = self.run, self.run.device()
        inputs = batch.inputs if device is None else batch.inputs.to(device)
        target = run.target_of(batch)
        relevance = self._explained(explain, inputs, target)
        finite = torch.isfinite(relevance).flatten(1).all(1)
        self.broken += int((~finite).sum())
        if not bool(finite.any()):
            self._extend(dict.fromkeys(self.pending), finite)
            if _WITH_CURVES & set(self.pending):
                self.curves.append(
                    torch.full((len(finite), 2, run.settings.shares + 1), torch.nan, dtype=torch.float64)
                )
            return
        mask = None if batch.mask is None else batch.mask.to(inputs.device)[finite]
        case = Case(
            run.scorer, run.model, inputs[finite], target[finite], mask, relevance[finite], explain, build, run.settings
        )
        values: dict[str, Tensor | None] = {}
        for key, metric in list(self.pending.items()):
            try:
                values[key] = metric.evaluate(case).detach().double().cpu()
            except Exception as error:  # this metric's cell says why, the others run
                run.failures[self.name, key] = _reason(error)
                del self.pending[key], self.parts[key]
        self._extend(values, finite)
        if _WITH_CURVES & set(values):
            curves = case.curves()
            self.unmoved += int(curves.unmoved.sum())
            self.curves.append(_spread(torch.stack([curves.morf, curves.lerf], 1).cpu(), finite.cpu()))

    def _explained(self, explain: Callable[[Tensor, Any], Tensor], inputs: Tensor, target: Tensor) -> Tensor:
        begin = _now(inputs.device)
        relevance = explain(inputs, target)
        self.seconds += _now(inputs.device) - begin
        self.count += len(inputs)
        if relevance.shape[0] != len(inputs):
            raise ValueError(f"the method returned {tuple(relevance.shape)} for {len(inputs)} examples")
        self.first = (inputs[:4], target[:4]) if self.first is None else self.first
        missing = self.run.agreeing - sum(len(part) for part in self.maps)
        if missing > 0:
            self.maps.append(places(relevance[:missing]).cpu())
        self.targets.append(target.cpu())
        return relevance

    def _extend(self, values: Mapping[str, Tensor | None], finite: Tensor) -> None:
        for key, found in values.items():
            if key in self.parts:
                empty = torch.zeros(0, dtype=torch.float64)
                self.parts[key].append(_spread(empty if found is None else found, finite.cpu()))

    def finish(self, build: Builder) -> None:
        run, name = self.run, self.name
        if self.broken == self.count:
            run.failures[name] = f"every one of its {self.count} maps holds NaN or infinite values"
            return
        notes = []
        if self.broken:
            notes.append(f"{name}: {self.broken} of {self.count} maps hold NaN or infinite values and are left out")
        if self.unmoved:
            notes.append(f"{self.unmoved} of {self.count} examples: no removal changes the prediction, their gain is 0")
        run.notes.update(dict.fromkeys(notes))
        assert self.first is not None
        inputs, target = self.first
        held = peak_bytes(lambda: build(run.model)(inputs, target), inputs.device)
        run.costs[name] = Cost(self.seconds / self.count, held / 2**20, len(inputs))
        run.targets = torch.cat(self.targets)
        maps = torch.cat(self.maps) if self.maps else torch.zeros(0, 1)
        if len(maps) and bool(torch.isfinite(maps).all()):
            run.maps[name] = maps.float().double()
        run.kept.put(name, "maps", run.maps[name].tolist() if name in run.maps else [])
        run.kept.put(name, _TARGETS, run.targets.tolist())
        run.kept.put(name, "notes", notes)
        run.kept.put(name, _COST, list(run.costs[name].__dict__.values()))
        if self.curves:
            run.curves[name] = torch.cat(self.curves)
            run.kept.put_tensor(name, _CURVES, run.curves[name])
        for key, parts in self.parts.items():
            run.values[name, key] = torch.cat(parts)
            run.kept.put_tensor(name, key, run.values[name, key])


def _spread(values: Tensor, finite: Tensor) -> Tensor:
    """The values in the places of the examples they belong to, NaN in the others."""
    whole = torch.full((len(finite), *values.shape[1:]), torch.nan, dtype=torch.float64)
    if len(values):
        whole[finite] = values
    return whole


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
