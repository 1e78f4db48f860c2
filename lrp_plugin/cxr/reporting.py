"""From a trained model and its test pictures to the figures, tables and the page that tell about it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from lrp_plugin.evaluation import Comparison, compare
from lrp_plugin.evidence import bootstrap_mean
from lrp_plugin.files import write_atomically
from lrp_plugin.images import IGNORED
from lrp_plugin.report import Example, Metric, RemovalTest, Report, suspicions, write_report
from lrp_plugin.synthetic import SyntheticCXR
from lrp_plugin.version import __version__

from .explaining import ALL_CLASSES, EvidenceScores, evidence_csv, score_evidence
from .loaders import get_dataloader
from .models import CXRClassifier
from .runfolder import Parts, RunSettings
from .splits import CXRSubset
from .trainer import Trainer

MARKER_REGION = "text marker in the upper left corner"


@dataclass(frozen=True)
class Findings:
    """What was measured on the test pictures.

    Attributes:
        metrics: of :meth:`lrp_plugin.cxr.Trainer.evaluate`.
        labels: true classes ``(N,)``.
        probabilities: ``(N, K)``.
        scores: where each method's relevance lies.
        marker_tests: accuracy with and without the planted marker; empty where none was planted.
        comparison: the methods measured against each other; None where that was not asked for.
    """

    metrics: Mapping[str, Any]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    scores: EvidenceScores
    marker_tests: Sequence[RemovalTest]
    comparison: Comparison | None = None


def examine(
    model: CXRClassifier, parts: Parts, methods: Sequence[str], *, compared: int = 24, batch_size: int = 32,
    progress: bool = True,
) -> Findings:  # fmt: skip
    """Evaluate a model, explain its test pictures, and remove the planted marker where there is one.

    Args:
        model: the classifier; its device is where it runs.
        parts: of :func:`lrp_plugin.cxr.runfolder.open_parts`.
        methods: names of `lrp_plugin.evaluation.methods.method_names`.
        compared: on how many pictures at most the methods are measured against each other; 0: on none.
        batch_size: pictures at once.
        progress: show bars.
    """
    trainer = Trainer(model, parts.whole.classes, device=next(model.parameters()).device, progress=progress)
    loader = get_dataloader(parts.test, batch_size)
    labels, probabilities, _ = trainer.inference(loader)
    return Findings(
        trainer.evaluate(loader),
        labels,
        probabilities,
        score_evidence(model, parts.test, methods, batch_size=batch_size, progress=progress),
        marker_tests(trainer, parts.test, batch_size),
        compare_methods(model, parts, methods, compared, batch_size=batch_size, progress=progress)
        if compared
        else None,
    )


def compare_methods(
    model: CXRClassifier, parts: Parts, methods: Sequence[str], count: int, *, batch_size: int = 32, progress: bool = True
) -> Comparison:  # fmt: skip
    """What the prediction does while regions are removed in each map's order, and where each map lies.

    Args:
        model: the classifier; its device is where it runs.
        parts: of :func:`lrp_plugin.cxr.runfolder.open_parts`.
        methods: names of `lrp_plugin.evaluation.methods.method_names`.
        count: at most so many readable test pictures, spread over all.
        batch_size: pictures in one pass at most.
        progress: show a bar.
    """
    readable = [place for place in range(len(parts.test)) if int(parts.test[place]["disease"]) != IGNORED]
    count = min(count, len(readable))
    chosen = [readable[place * len(readable) // count] for place in range(count)]
    data = Subset(parts.test, chosen)
    return compare(
        model.eval(), data, list(methods), bounds=model.pixel_range, batch_size=batch_size, progress=progress
    )


def marker_tests(trainer: Trainer, test: CXRSubset, batch_size: int = 32) -> list[RemovalTest]:
    """Accuracy on each class's marked pictures, and on the same pictures without the marker.

    Returns:
        One test for each class that has marked pictures; none for data without a planted marker.
    """
    planted = test.dataset
    if not isinstance(planted, SyntheticCXR) or planted.shortcut is None:
        return []
    marked = [index for index in test.indices if planted[index]["marker"].any()]
    if not marked:
        return []
    right = []
    for dataset in (planted, planted.without_shortcut()):
        labels, probabilities, _ = trainer.inference(get_dataloader(CXRSubset(dataset, marked), batch_size))
        right.append((probabilities.argmax(1) == labels).astype(float))
    tests = []
    for label, name in enumerate(planted.classes):
        chosen = labels == label
        if chosen.any():
            before, after = right[0][chosen], right[1][chosen]
            intervals = (bootstrap_mean(values) for values in (before, after, before - after))
            tests.append(RemovalTest(name, MARKER_REGION, *intervals))
    return tests


def build_report(
    model: CXRClassifier,
    settings: RunSettings,
    parts: Parts,
    findings: Findings,
    examples: Sequence[Example],
    command: str,
) -> Report:
    """Fill the page's dataclasses."""
    data = settings.data
    if data == "synthetic":
        marker = "no marker" if settings.shortcut is None else f"COVID marker of strength {settings.shortcut:g}"
        data = f"SyntheticCXR, seed {settings.seed}, {marker}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    matrix = findings.metrics["confusion_matrix"]
    return Report(
        title="What the chest X-ray model looks at",
        model=f"{settings.model}, {parameters / 1e6:.2f} M parameters",
        dataset=f"{data}: {len(findings.labels)} test pictures of {settings.size} x {settings.size} pixels",
        class_names=parts.whole.classes,
        metrics=_metrics(findings),
        confusion=matrix,
        examples=examples,
        region="the lungs",
        caution="For research on models. Not a medical device; not for diagnosis.",
        localisation=[row for row in findings.scores.intervals("lungs") if row.class_name != ALL_CLASSES],
        removal_tests=findings.marker_tests,
        comparison=findings.comparison,
        minimum_inside=_chance_inside(findings),
        class_metrics={
            **_by_class(matrix.double()),
            "AUROC": [findings.metrics["auroc"][name] for name in parts.whole.classes],
        },
        settings=_made_with(settings, parts, findings),
        command=command,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _by_class(matrix: Tensor) -> dict[str, list[float]]:
    """Each class against the rest, from the confusion matrix; NaN where nothing is divided by nothing."""
    true, total = matrix.diagonal(), matrix.sum()
    actual, called = matrix.sum(1), matrix.sum(0)
    rest = total - actual - called + true
    return {
        "Sensitivity": (true / actual).tolist(),
        "Specificity": (rest / (total - actual)).tolist(),
        "PPV": (true / called).tolist(),
        "NPV": (rest / (total - called)).tolist(),
    }


def _chance_inside(findings: Findings) -> float:
    """Warn where a map without knowledge would do better: the lungs' mean share of the picture.

    Half of the relevance would be too much to ask: epsilon and saliency are noisy, and on the synthetic data
    they fall below it for a model that demonstrably uses the opacities.
    """
    chance = float(findings.scores.areas["lungs"].nanmean())
    return 0.0 if math.isnan(chance) else chance


def _metrics(findings: Findings) -> list[Metric]:
    right = (findings.probabilities.argmax(1) == findings.labels).astype(float)
    metrics = findings.metrics
    rows = [
        Metric("Accuracy", metrics["accuracy"], bootstrap_mean(right), percent=True),
        Metric("Macro F1", metrics["f1_macro"], percent=True),
        Metric("Macro AUROC", metrics["auroc_macro"]),
        Metric("Calibration error", metrics["ece"], percent=True, note="expected, 15 bins"),
        Metric("Loss", metrics["loss"], note="mean cross entropy, nats"),
    ]
    for region, note in (("evidence", "inside the drawn opacities"), ("marker", "on the planted marker")):
        for row in findings.scores.intervals(region) if region in findings.scores.areas else ():
            if row.class_name == ALL_CLASSES:
                name = f"Relevance {note}, {row.method}"
                rows.append(Metric(name, row.inside.mean, row.inside, True, f"chance {100 * row.chance:.1f} %"))
    return rows


def _made_with(settings: RunSettings, parts: Parts, findings: Findings) -> dict[str, str]:
    return {
        "Methods": ", ".join(findings.scores.shares["lungs"]),
        "Explained": "per class: the logit of the true class; examples: the logit of the predicted class",
        "Intervals": "95 % percentile bootstrap over pictures, 2000 resamples",
        "Training": f"{len(parts.train)} pictures, {len(parts.val)} to validate, {settings.epochs} epochs, "
        f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}, seed {settings.seed}",
        "Versions": f"lrp_plugin {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def write_findings(folder: Path, report: Report, findings: Findings) -> list[Path]:
    """Write the page, the evidence table (CSV) and the metrics (JSON), each whole or not at all.

    Returns:
        The paths, the page first.
    """
    regions = {region: findings.scores.intervals(region) for region in findings.scores.areas}
    suspected = {
        found.test.class_name: {
            "accuracy_with": found.test.accuracy_with.mean,
            "accuracy_without": found.test.accuracy_without.mean,
            "methods_outside_lungs": [entry.method for entry in found.agreeing],
        }
        for found in suspicions(report)
    }
    summary = {**findings.metrics, "suspected_shortcuts": suspected}
    return [
        write_report(folder / "report.html", report),
        write_atomically(folder / "evidence.csv", evidence_csv(regions)),
        write_metrics(folder, summary),
    ]


def plain_metrics(value: Any) -> Any:
    """Metrics as JSON can hold them: the confusion matrix as lists, NaN as None."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain_metrics(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """Write metrics as ``metrics.json``."""
    return write_atomically(folder / "metrics.json", (json.dumps(plain_metrics(metrics), indent=2) + "\n").encode())
