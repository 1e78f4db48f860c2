"""From a trained model and its test pictures to the figures, tables and the page that tell about it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from lrp_plugin.evaluation import Comparison
from lrp_plugin.evidence import bootstrap_mean, mask_share
from lrp_plugin.files import write_atomically
from lrp_plugin.gradients import AttributionMethod
from lrp_plugin.images import IGNORED
from lrp_plugin.report import (
    Example,
    Explanation,
    Localisation,
    Metric,
    RemovalTest,
    Report,
    suspicions,
    write_report,
)
from lrp_plugin.version import __version__

from .explaining import ALL_CLASSES, EvidenceScores, build_explainer, evidence_csv, score_evidence
from .loaders import get_dataloader
from .measuring import compare_methods, marker_tests
from .models import CXRClassifier
from .parts import picture_name
from .radiographs import read_radiograph
from .runfolder import Parts, RunSettings
from .trainer import Trainer

# Shown in a picture's caption where relevance sums to the logit; a gradient's sum says nothing.
_WITHOUT_TOTAL = ("saliency", "smoothgrad", "gradcam", "guided_gradcam", "occlusion")


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
        methods: names of :func:`lrp_plugin.cxr.explaining.method_names`.
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


def choose_examples(findings: Findings, per_class: int = 2) -> list[int]:
    """Positions in the test set: the surest right pictures of each class, and its surest mistake if any."""
    predicted, sure = findings.probabilities.argmax(1), findings.probabilities.max(1)
    chosen: list[int] = []
    for label in range(findings.probabilities.shape[1]):
        own = np.flatnonzero(findings.labels == label)
        ranked = own[np.argsort(-sure[own], kind="stable")]
        chosen += ranked[predicted[ranked] == label][:per_class].tolist()
        chosen += ranked[predicted[ranked] != label][:1].tolist()
    return chosen


def explain_sample(
    model: CXRClassifier,
    sample: Mapping[str, Any],
    explainers: Mapping[str, AttributionMethod],
    classes: Sequence[str],
    identifier: str,
) -> Example:
    """Explain the predicted class of one picture.

    Args:
        model: the classifier.
        sample: with ``image`` ``(C, H, W)`` in [0, 1]; ``disease``, ``lungs`` and ``evidence`` where known.
        explainers: method's name to method.
        classes: K names.
        identifier: what the picture is called.

    Returns:
        The picture with its maps; ``true_class`` is None where no label came.
    """
    device = next(model.parameters()).device
    image = sample["image"].as_subclass(Tensor)
    with torch.no_grad():
        logits = model.eval()(image[None].to(device))[0].cpu()
    predicted = int(logits.argmax())
    lungs, finding = (_known(sample.get(name)) for name in ("lungs", "evidence"))
    explanations = []
    for name, explainer in explainers.items():
        relevance = explainer.attribute(image[None].to(device), predicted).cpu()
        inside = None if lungs is None else float(mask_share(relevance, lungs[None]))
        total = None if name in _WITHOUT_TOTAL else float(relevance.double().sum())
        explanations.append(Explanation(name, relevance[0], inside, total))
    return Example(
        identifier,
        image,
        classes[int(sample["disease"])] if "disease" in sample else None,
        classes[predicted],
        float(logits.softmax(0)[predicted]),
        explanations,
        logit=float(logits[predicted]),
        region=lungs,
        finding=finding,
    )


def _known(mask: Tensor | None) -> Tensor | None:
    return None if mask is None or not mask.any() else mask.as_subclass(Tensor)


def explain_examples(model: CXRClassifier, parts: Parts, findings: Findings, per_class: int = 2) -> list[Example]:
    """The report's examples: those of :func:`choose_examples`, explained with every method of the findings."""
    explainers = {name: build_explainer(name, model) for name in findings.scores.shares["lungs"]}
    # Unreadable pictures were left out of the findings, so positions count readable ones.
    readable = [i for i in range(len(parts.test)) if int(parts.test[i]["disease"]) != IGNORED]
    examples = []
    for position in choose_examples(findings, per_class):
        index = readable[position]
        name = picture_name(parts.whole, parts.test.indices[index])
        examples.append(explain_sample(model, parts.test[index], explainers, parts.whole.classes, name))
    return examples


def open_samples(
    settings: RunSettings, parts: Parts, indices: Sequence[int] | None, files: Sequence[Path] | None
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield identifier, source (different for every picture) and sample of pictures of the data, or of files of one's own.

    Args:
        settings: the run's; files are resized to its ``size``.
        parts: of :func:`lrp_plugin.cxr.runfolder.open_parts`.
        indices: positions in the whole data; None takes the first test picture of each class.
        files: pictures without a label; None takes the data's.

    Raises:
        RadiographError: a file cannot be read.
        ValueError: a position lies outside the data.
    """
    for path in files or ():
        image = TF.resize_image(read_radiograph(path), [settings.size, settings.size], antialias=True)
        yield path.name, str(path.resolve()), {"image": image.clamp(0.0, 1.0)}
    if files:
        return
    if indices is None:
        first = dict(reversed(list(zip(parts.test.labels, parts.test.indices))))
        indices = [first[label] for label in sorted(first)]
    for index in indices:
        if not -len(parts.whole) <= index < len(parts.whole):
            raise ValueError(f"index {index} lies outside the data, which has {len(parts.whole)} pictures: 0 to "
                             f"{len(parts.whole) - 1}")  # fmt: skip
        sample = parts.whole[index]
        if int(sample["disease"]) != IGNORED:
            name = picture_name(parts.whole, index)
            yield name, f"{settings.data} {name}", sample


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
        localisation=[
            Localisation(row.class_name, row.method, row.inside, row.chance)
            for row in findings.scores.intervals("lungs")
            if row.class_name != ALL_CLASSES
        ],
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
    summary = {**plain_metrics(findings.metrics), "suspected_shortcuts": suspected}
    return [
        write_report(folder / "report.html", report),
        write_atomically(folder / "evidence.csv", evidence_csv(regions)),
        write_metrics(folder, summary),
    ]


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as JSON can hold them: the confusion matrix as lists, NaN as None."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    return {name: plain(value) for name, value in metrics.items()}


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """Write plain metrics as ``metrics.json``."""
    return write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
