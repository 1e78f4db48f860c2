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
from .runfolder import Parts
from .trainer import Trainer

MARKER_REGION = "text marker in the upper left corner"


@dataclass(frozen=True)
class Findings:
    """What was measured on the N test pictures that could be read.

    Attributes:
        test: The pictures. labels: Their classes ``(N,)``. probabilities: ``(N, K)``.
        metrics: Of :meth:`lrp_plugin.cxr.Trainer.evaluate`.
        scores: Where each method's relevance lies.
        marker_tests: Accuracy with and without the planted marker; empty where none was planted.
        comparison: The methods measured against each other; None where that was not asked for.
    """

    test: LabelledSubset
    metrics: Mapping[str, Any]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    scores: EvidenceScores
    marker_tests: Sequence[RemovalTest]
    comparison: Comparison | None = None


def report_run(
    model: CXRClassifier, parts: Parts, methods: Sequence[str], folder: Path, command: str, *, examples: int = 2,
    compared: int = 24, progress: bool = True,
) -> tuple[Findings, Report, list[Path]]:  # fmt: skip
    """Measure a model and write what was found, each file whole or not at all: page (first), evidence table, metrics."""
    findings = examine(model, parts, methods, compared=compared, progress=progress)
    report = build_report(model, parts, findings, explain_examples(model, parts, findings, examples), command)
    suspected = {
        found.test.class_name: {
            "accuracy_with": found.test.accuracy_with.mean,
            "accuracy_without": found.test.accuracy_without.mean,
            "methods_outside_lungs": [entry.method for entry in found.agreeing],
        }
        for found in suspicions(report)
    }
    written = [
        write_report(folder / "report.html", report),
        write_evidence(folder, {region: findings.scores.intervals(region) for region in findings.scores.areas}),
        write_metrics(folder, {**findings.metrics, "suspected_shortcuts": suspected}),
    ]
    return findings, report, written


def examine(
    model: CXRClassifier, parts: Parts, methods: Sequence[str], *, compared: int = 24, progress: bool = True
) -> Findings:
    """Evaluate a model on its device, explain its test pictures, and remove the planted marker where there is one.

    On ``compared`` pictures at most, spread over all, the methods are measured against each other.
    """
    whole, batch_size = parts.whole, parts.settings.batch_size
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
    predicted, surest = findings.probabilities.argmax(1), np.argsort(-findings.probabilities.max(1), kind="stable")
    chosen: list[int] = []
    for label in range(len(parts.whole.classes)):
        own = surest[findings.labels[surest] == label]
        chosen += [*own[predicted[own] == label][:per_class], *own[predicted[own] != label][:1]]
    whole, places = parts.whole, [findings.test.indices[position] for position in chosen]
    return [explain_sample(model, whole[i], made, whole.classes, whole.picture_name(i), region="lungs") for i in places]


def build_report(
    model: CXRClassifier, parts: Parts, findings: Findings, examples: Sequence[Example], command: str
) -> Report:
    """Fill the page's dataclasses."""
    settings, classes, scores = parts.settings, parts.whole.classes, findings.scores
    data = settings.data
    if data == "synthetic":
        marker = "no marker" if settings.shortcut is None else f"COVID marker of strength {settings.shortcut:g}"
        data = f"SyntheticCXR, seed {settings.seed}, {marker}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Report(
        title="What the chest X-ray model looks at",
        model=f"{settings.model}, {parameters / 1e6:.2f} M parameters",
        dataset=f"{data}: {len(findings.labels)} test pictures of {settings.size} x {settings.size} pixels",
        class_names=classes,
        metrics=_metrics(findings),
        confusion=findings.metrics["confusion_matrix"],
        examples=examples,
        region="the lungs",
        caution="For research on models. Not a medical device; not for diagnosis.",
        localisation=[row for row in scores.intervals("lungs") if row.class_name != ALL_CLASSES],
        removal_tests=findings.marker_tests,
        comparison=findings.comparison,
        # Warned of is where a map without knowledge would do better: the lungs' mean share of the picture. Half of the
        # relevance would be too much to ask: epsilon and saliency are noisy, and on the synthetic data they fall below it
        # for a model that demonstrably uses the opacities.
        minimum_inside=float(scores.areas["lungs"].nanmean().nan_to_num()),
        class_metrics={"AUROC": [findings.metrics["auroc"][name] for name in classes]},
        settings={
            "Methods": ", ".join(scores.shares["lungs"]),
            "Explained": "per class: the logit of the true class; examples: the logit of the predicted class",
            "Intervals": "95 % percentile bootstrap over pictures, 2000 resamples",
            "Training": f"{len(parts.train)} pictures, {len(parts.val)} to validate, {settings.epochs} epochs, "
            f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}, seed {settings.seed}",
            "Versions": f"lrp_plugin {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        },
        command=command,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


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


def write_evidence(folder: Path, tables: Mapping[str, Sequence[Localisation]]) -> Path:
    """Write each region's rows into ``evidence.csv``; rows of other methods that it holds stay."""
    path = folder / "evidence.csv"
    return write_atomically(path, evidence_csv(tables, path.read_bytes() if path.is_file() else b""))


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """Write ``metrics.json``; shortcuts that an earlier report suspected stay while the model answers as it did then."""
    path, suspected, found = folder / "metrics.json", "suspected_shortcuts", dict(metrics)
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
    parts: Parts, indices: Sequence[int] | None, files: Sequence[Path] | None
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield identifier, source (different for every picture) and sample of ``files``, else of the data at ``indices``.

    None takes the first test picture of each class; files are resized to the run's ``size``. IndexError, RadiographError.
    """
    settings, whole = parts.settings, parts.whole
    for path in files or ():
        image = TF.resize_image(read_radiograph(path), [settings.size, settings.size], antialias=True)
        yield path.name, str(path.resolve()), {"image": image.clamp(0.0, 1.0)}
    if indices is None:
        firsts = dict(reversed(list(zip(parts.test.labels, parts.test.indices))))
        indices = [] if files else [firsts[label] for label in sorted(firsts)]
    for index in indices:
        sample, name = whole[index], whole.picture_name(index)
        if int(sample["disease"]) != IGNORED:
            yield name, f"{settings.data} {name}", sample
