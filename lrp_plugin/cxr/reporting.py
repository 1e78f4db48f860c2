"""From a trained model and its test pictures to the figures, tables and the page that tell about it."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset
from torchvision.transforms.v2 import functional as TF

from lrp_plugin.evaluation import Comparison, compare
from lrp_plugin.evaluation.evidence import ALL_CLASSES, EvidenceScores, evidence_csv, removal_tests, score_evidence
from lrp_plugin.evaluation.methods import explainers
from lrp_plugin.evidence import bootstrap_mean
from lrp_plugin.explain.samples import explain_sample
from lrp_plugin.files import write_atomically, write_json
from lrp_plugin.images import IGNORED
from lrp_plugin.images.loaders import get_dataloader
from lrp_plugin.images.splits import LabelledSubset, spread
from lrp_plugin.report import Example, Localisation, Metric, RemovalTest, Report, suspicions, write_report
from lrp_plugin.synthetic import SyntheticCXR
from lrp_plugin.version import __version__

from .folders import read_radiograph
from .models import CXRClassifier
from .runfolder import Parts, RunSettings
from .trainer import Trainer

MARKER_REGION = "text marker in the upper left corner"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Findings:
    """What was measured on the test pictures.

    Attributes:
        test: those that could be read, N.
        metrics: of :meth:`lrp_plugin.cxr.Trainer.evaluate`.
        labels: true classes ``(N,)``.
        probabilities: ``(N, K)``.
        scores: where each method's relevance lies.
        marker_tests: accuracy with and without the planted marker; empty where none was planted.
        comparison: the methods measured against each other; None where that was not asked for.
    """

    test: LabelledSubset
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
    """Evaluate a model on its device, explain its test pictures, and remove the planted marker where there is one.

    On ``compared`` pictures at most, spread over all, the methods are measured against each other.
    """
    whole = parts.whole
    test = LabelledSubset(whole, [i for i in parts.test.indices if int(whole[i]["disease"]) != IGNORED])
    trainer = Trainer(model, whole.classes, device=next(model.parameters()).device, progress=progress)
    loader = get_dataloader(test, batch_size)
    labels, probabilities, _ = trainer.inference(loader)
    how: dict[str, Any] = {"bounds": model.pixel_range, "batch_size": batch_size, "progress": progress}
    chosen = Subset(test, spread(range(len(test)), compared or None))
    return Findings(
        test,
        trainer.evaluate(loader),
        labels,
        probabilities,
        score_evidence(model, test, methods, **how),
        marker_tests(trainer, test, batch_size),
        compare(model.eval(), chosen, list(methods), **how) if compared else None,
    )


def marker_tests(trainer: Trainer, test: LabelledSubset, batch_size: int = 32) -> list[RemovalTest]:
    """Accuracy on each class's marked pictures, and on the same without the marker; none for data without marked ones."""
    planted = test.dataset
    if not isinstance(planted, SyntheticCXR) or planted.shortcut is None:
        return []
    marked = [index for index in test.indices if planted[index]["marker"].any()]
    if not marked:
        return []
    right = []
    for dataset in (planted, planted.without_shortcut()):
        labels, probabilities, _ = trainer.inference(get_dataloader(LabelledSubset(dataset, marked), batch_size))
        right.append(probabilities.argmax(1) == labels)
    return removal_tests(planted.classes, MARKER_REGION, labels, *right)


def explain_examples(model: CXRClassifier, parts: Parts, findings: Findings, per_class: int = 2) -> list[Example]:
    """The report's examples: the surest right pictures of each class, and its surest mistake if any."""
    made = explainers(list(findings.scores.shares["lungs"]), model, model.pixel_range)
    predicted, sure = findings.probabilities.argmax(1), findings.probabilities.max(1)
    chosen: list[int] = []
    for label in range(len(parts.whole.classes)):
        own = np.flatnonzero(findings.labels == label)
        ranked = own[np.argsort(-sure[own], kind="stable")]
        chosen += ranked[predicted[ranked] == label][:per_class].tolist()
        chosen += ranked[predicted[ranked] != label][:1].tolist()
    whole, places = parts.whole, [findings.test.indices[position] for position in chosen]
    return [explain_sample(model, whole[i], made, whole.classes, whole.picture_name(i), region="lungs") for i in places]


def build_report(
    model: CXRClassifier, settings: RunSettings, parts: Parts, findings: Findings, examples: Sequence[Example],
    command: str,
) -> Report:  # fmt: skip
    """Fill the page's dataclasses."""
    data = settings.data
    if data == "synthetic":
        marker = "no marker" if settings.shortcut is None else f"COVID marker of strength {settings.shortcut:g}"
        data = f"SyntheticCXR, seed {settings.seed}, {marker}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    matrix, areas = findings.metrics["confusion_matrix"], findings.metrics["auroc"]
    # Warned of is where a map without knowledge would do better: the lungs' mean share of the picture. Half of the
    # relevance would be too much to ask: epsilon and saliency are noisy, and on the synthetic data they fall below it for
    # a model that demonstrably uses the opacities.
    chance = float(findings.scores.areas["lungs"].nanmean().nan_to_num())
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
        minimum_inside=chance,
        class_metrics={**by_class(matrix.double()), "AUROC": [areas[name] for name in parts.whole.classes]},
        settings={
            "Methods": ", ".join(findings.scores.shares["lungs"]),
            "Explained": "per class: the logit of the true class; examples: the logit of the predicted class",
            "Intervals": "95 % percentile bootstrap over pictures, 2000 resamples",
            "Training": f"{len(parts.train)} pictures, {len(parts.val)} to validate, {settings.epochs} epochs, "
            f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}, seed {settings.seed}",
            "Versions": f"lrp_plugin {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        },
        command=command,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def by_class(matrix: Tensor) -> dict[str, list[float]]:
    """Each class against the rest, from the confusion matrix; NaN where nothing is divided by nothing."""
    true, actual, called = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    rest = matrix.sum() - actual - called + true
    shares = {
        "Sensitivity": true / actual,
        "Specificity": rest / (matrix.sum() - actual),
        "PPV": true / called,
        "NPV": rest / (matrix.sum() - called),
    }
    return {name: values.tolist() for name, values in shares.items()}


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


def write_findings(folder: Path, report: Report, findings: Findings) -> list[Path]:
    """Write the page, the evidence table (CSV) and the metrics (JSON), each whole or not at all; the page comes first."""
    suspected = {
        found.test.class_name: {
            "accuracy_with": found.test.accuracy_with.mean,
            "accuracy_without": found.test.accuracy_without.mean,
            "methods_outside_lungs": [entry.method for entry in found.agreeing],
        }
        for found in suspicions(report)
    }
    regions = {region: findings.scores.intervals(region) for region in findings.scores.areas}
    return [
        write_report(folder / "report.html", report),
        write_evidence(folder, regions),
        write_metrics(folder, {**findings.metrics, "suspected_shortcuts": suspected}),
    ]


def write_evidence(folder: Path, tables: Mapping[str, Sequence[Localisation]]) -> Path:
    """Write each region's rows into ``evidence.csv``; rows of other methods that it holds stay."""
    path = folder / "evidence.csv"
    earlier = path.read_bytes() if path.is_file() else b""
    return write_atomically(path, evidence_csv(tables, earlier))


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """Write metrics as JSON; shortcuts that an earlier report suspected stay while the model answers as it did then."""
    path, suspected, found = folder / METRICS_FILE, "suspected_shortcuts", dict(metrics)
    try:
        earlier = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # none yet, or none of ours: it is replaced
        earlier = {}
    if suspected in earlier and suspected not in found:
        if earlier.get("confusion_matrix") == found["confusion_matrix"].tolist():
            found[suspected] = earlier[suspected]
        else:
            warnings.warn(
                f"{path}: the answers changed, so {suspected} is left out; report measures it anew", stacklevel=2
            )
    return write_json(path, found)


def open_samples(
    settings: RunSettings, parts: Parts, indices: Sequence[int] | None, files: Sequence[Path] | None
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield identifier, source (different for every picture) and sample of ``files`` of one's own, or of the data.

    Of the data: those at ``indices`` (IndexError for one outside it); None takes the first test picture of each class.
    Files are resized to the run's ``size`` (RadiographError where one cannot be read).
    """
    for path in files or ():
        image = TF.resize_image(read_radiograph(path), [settings.size, settings.size], antialias=True)
        yield path.name, str(path.resolve()), {"image": image.clamp(0.0, 1.0)}
    if files:
        return
    whole = parts.whole
    firsts = dict(reversed(list(zip(parts.test.labels, parts.test.indices))))
    for index in [firsts[label] for label in sorted(firsts)] if indices is None else indices:
        sample, name = whole[index], whole.picture_name(index)
        if int(sample["disease"]) != IGNORED:
            yield name, f"{settings.data} {name}", sample
