"""Single radiographs explained: which, by which methods, as figure, maps and numbers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from lrp_plugin.evaluation.methods import Explain
from lrp_plugin.evidence import mask_share
from lrp_plugin.files import file_stem, write_atomically
from lrp_plugin.images import IGNORED
from lrp_plugin.report import Example, Explanation
from lrp_plugin.visualization import plot_comparison, save_figure
from lrp_plugin.visualization.classes import literal

from .explaining import build_explainer
from .folders import read_radiograph
from .models import CXRClassifier
from .parts import picture_name
from .reporting import Findings
from .runfolder import Parts, RunSettings

# Shown in a picture's caption where relevance sums to the logit; a gradient's sum says nothing.
_WITHOUT_TOTAL = ("saliency", "smoothgrad", "gradcam", "guided_gradcam", "occlusion", "random")

#: Said of every picture whose class nobody told.
CAUTION = (
    "The model answers one of its classes for any picture, also for one that is no chest X-ray: without a label nothing "
    "says whether it is right"
)


def plot_example(example: Example) -> Figure:
    """One radiograph and each method's map over it; the finding outlined, or the lungs where there is none."""
    unknown, right = example.true_class is None, example.predicted_class == example.true_class
    truth = " (true class unknown)" if unknown else "" if right else f", in truth {example.true_class}"
    mask, region = (example.region, "lungs") if example.finding is None else (example.finding, "finding")
    outlined = "" if mask is None else f" ({region} outlined)"
    return plot_comparison(
        np.asarray(example.image),
        {entry.method: np.asarray(entry.relevance) for entry in example.explanations},
        logit=example.logit,
        totals=[entry.method for entry in example.explanations if entry.total is not None],
        mask=mask,
        title=literal(
            f"{example.identifier}: {example.predicted_class}, {100 * example.probability:.1f} %{truth}{outlined}"
        ),
    )


def save_example(folder: Path, example: Example, source: str) -> list[Path]:
    """Write the figure (PNG), the maps (npz, one array for each method) and the figures of merit (JSON).

    The files are called after the picture; those of another picture of the same name are left alone (the JSON says whose
    they are), those of the same picture are replaced.

    Args:
        folder: where to.
        example: what to write.
        source: what tells the picture from every other, such as its absolute path.
    """
    stem = _free_stem(folder, example.identifier, source)
    maps = io.BytesIO()
    arrays: dict[str, Any] = {entry.method: np.asarray(entry.relevance) for entry in example.explanations}
    np.savez_compressed(maps, **arrays)
    facts = {
        "picture": example.identifier,
        "source": source,
        "true_class": example.true_class,
        "predicted_class": example.predicted_class,
        "probability": example.probability,
        "logit": example.logit,
        **({"caution": CAUTION} if example.true_class is None else {}),
        "methods": {entry.method: {"inside_lungs": entry.inside, "sum": entry.total} for entry in example.explanations},
    }
    return [
        save_figure(plot_example(example), folder / f"{stem}.png"),
        write_atomically(folder / f"{stem}.npz", maps.getvalue()),
        write_atomically(folder / f"{stem}.json", (json.dumps(facts, indent=2) + "\n").encode()),
    ]


def _free_stem(folder: Path, identifier: str, source: str) -> str:
    short, long = file_stem(Path(identifier).stem), file_stem(identifier)
    for stem in (short, long):
        try:
            owner = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8")).get("source")
        except FileNotFoundError:
            return stem
        except (ValueError, AttributeError):
            continue
        if owner == source:
            return stem
    return f"{long}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


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
    explainers: Mapping[str, Explain],
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
        relevance = explainer(image[None].to(device), predicted).cpu()
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
