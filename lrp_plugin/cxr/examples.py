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

from lrp_plugin.evaluation.methods import Explain, builders
from lrp_plugin.evidence import mask_share
from lrp_plugin.files import file_stem, write_atomically
from lrp_plugin.images import IGNORED
from lrp_plugin.report import Example, Explanation
from lrp_plugin.visualization import plot_comparison, save_figure
from lrp_plugin.visualization.classes import literal

from .folders import read_radiograph
from .models import CXRClassifier
from .runfolder import Parts, RunSettings

# Shown in a picture's caption where relevance sums to the logit; a gradient's sum says nothing.
_WITHOUT_TOTAL = ("saliency", "smoothgrad", "gradcam", "guided_gradcam", "occlusion", "random")

#: Said of every picture whose class nobody told.
CAUTION = (
    "The model answers one of its classes for any picture, also for one that is no chest X-ray: without a label nothing "
    "says whether it is right"
)


def build_explainers(methods: Sequence[str], model: CXRClassifier) -> dict[str, Explain]:
    """Functions ``(images, target) -> relevance`` by their names in `lrp_plugin.evaluation.method_names`.

    Raises:
        ValueError: an unknown name; the legal ones are listed.
    """
    return {name: build(model) for name, build in builders(methods, model, model.pixel_range).items()}


def explain_sample(
    model: CXRClassifier, sample: Mapping[str, Any], explainers: Mapping[str, Explain], classes: Sequence[str],
    identifier: str,
) -> Example:  # fmt: skip
    """Explain the predicted class of one picture.

    Args:
        model: the classifier.
        sample: with ``image`` ``(C, H, W)`` in [0, 1]; ``disease``, ``lungs`` and ``evidence`` where known.
        explainers: of :func:`build_explainers`.
        classes: K names.
        identifier: what the picture is called.

    Returns:
        The picture with its maps; ``true_class`` is None where no label came.
    """
    image = sample["image"].as_subclass(Tensor)
    batch = image[None].to(next(model.parameters()).device)
    with torch.no_grad():
        logits = model.eval()(batch)[0].cpu()
    predicted = int(logits.argmax())
    lungs, finding = (
        None if sample.get(name) is None or not sample[name].any() else sample[name].as_subclass(Tensor)
        for name in ("lungs", "evidence")
    )
    explanations = []
    for name, explain in explainers.items():
        relevance = explain(batch, predicted).cpu()
        inside = None if lungs is None else float(mask_share(relevance, lungs[None]))
        total = None if name in _WITHOUT_TOTAL else float(relevance.double().sum())
        explanations.append(Explanation(name, relevance[0], inside, total))
    true = classes[int(sample["disease"])] if "disease" in sample else None
    return Example(
        identifier, image, true, classes[predicted], float(logits.softmax(0)[predicted]), explanations,
        logit=float(logits[predicted]), region=lungs, finding=finding,
    )  # fmt: skip


def plot_example(example: Example) -> Figure:
    """One radiograph and each method's map over it; the finding outlined, or the lungs where there is none."""
    unknown, right = example.true_class is None, example.predicted_class == example.true_class
    truth = " (true class unknown)" if unknown else "" if right else f", in truth {example.true_class}"
    mask, region = (example.region, "lungs") if example.finding is None else (example.finding, "finding")
    outlined = "" if mask is None else f" ({region} outlined)"
    title = f"{example.identifier}: {example.predicted_class}, {100 * example.probability:.1f} %{truth}{outlined}"
    return plot_comparison(
        np.asarray(example.image),
        {entry.method: np.asarray(entry.relevance) for entry in example.explanations},
        logit=example.logit,
        totals=[entry.method for entry in example.explanations if entry.total is not None],
        mask=mask,
        title=literal(title),
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
        **{name: getattr(example, name) for name in ("true_class", "predicted_class", "probability", "logit")},
        **({"caution": CAUTION} if example.true_class is None else {}),
        "methods": {entry.method: {"inside_lungs": entry.inside, "sum": entry.total} for entry in example.explanations},
    }
    return [
        save_figure(plot_example(example), folder / f"{stem}.png"),
        write_atomically(folder / f"{stem}.npz", maps.getvalue()),
        write_atomically(folder / f"{stem}.json", (json.dumps(facts, indent=2) + "\n").encode()),
    ]


def _free_stem(folder: Path, identifier: str, source: str) -> str:
    """The picture's name; with a part of its source's hash where another picture's files are called so."""
    stem = file_stem(Path(identifier).stem)
    try:
        if json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["source"] == source:
            return stem
    except FileNotFoundError:
        return stem
    except (ValueError, KeyError, TypeError):  # No file of ours: it is left alone.
        pass
    return f"{stem}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


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
    whole = parts.whole
    firsts = dict(reversed(list(zip(parts.test.labels, parts.test.indices))))
    for index in [firsts[label] for label in sorted(firsts)] if indices is None else indices:
        if not -len(whole) <= index < len(whole):
            told = f"which has {len(whole)} pictures: 0 to {len(whole) - 1}"
            raise ValueError(f"index {index} lies outside the data, {told}")
        sample, name = whole[index], whole.picture_name(index)
        if int(sample["disease"]) != IGNORED:
            yield name, f"{settings.data} {name}", sample
