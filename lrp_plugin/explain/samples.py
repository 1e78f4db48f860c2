"""One sample of a labelled set explained by several methods: for a report, as figure, maps and numbers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lrp_plugin.evaluation.methods import Explain
from lrp_plugin.evidence import mask_share
from lrp_plugin.files import file_stem, write_atomically, write_json
from lrp_plugin.report import Example, Explanation
from lrp_plugin.visualization import plot_comparison, save_figure
from lrp_plugin.visualization.classes import literal

# Shown in a picture's caption where relevance sums to the logit; a gradient's sum says nothing.
_WITHOUT_TOTAL = ("saliency", "smoothgrad", "gradcam", "guided_gradcam", "occlusion", "random")

CAUTION = (
    "The model answers one of its classes for any picture, also for one that shows none of them: without a label nothing "
    "says whether it is right"
)
"""Said of every picture whose class nobody told."""


def explain_sample(
    model: nn.Module, sample: Mapping[str, Any], explainers: Mapping[str, Explain], classes: Sequence[str],
    identifier: str, *, region: str = "region", finding: str = "evidence",
) -> Example:  # fmt: skip
    """Explain the predicted class of one picture.

    Args:
        model: Pictures ``(N, C, H, W)`` to logits ``(N, K)``, on any device.
        sample: With ``image`` ``(C, H, W)`` in [0, 1]; ``disease`` and masks ``(1, H, W)`` where known.
        explainers: Method's name -> ``(images, target) -> relevance``.
        classes: K names.
        identifier: What the picture is called.
        region, finding: What the sample calls the masks of where evidence should lie, and of where it does.

    Returns:
        The picture with its maps; ``true_class`` is None where no label came.
    """
    image = sample["image"].as_subclass(Tensor)
    batch = image[None].to(next(model.parameters()).device)
    with torch.no_grad():
        logits = model.eval()(batch)[0].cpu()
    predicted = int(logits.argmax())
    inner, found = (
        None if sample.get(name) is None or not sample[name].any() else sample[name].as_subclass(Tensor)
        for name in (region, finding)
    )
    explanations = []
    for name, explain in explainers.items():
        relevance = explain(batch, predicted).cpu()
        inside = None if inner is None else float(mask_share(relevance, inner[None]))
        total = None if name in _WITHOUT_TOTAL else float(relevance.double().sum())
        explanations.append(Explanation(name, relevance[0], inside, total))
    true = classes[int(sample["disease"])] if "disease" in sample else None
    return Example(
        identifier, image, true, classes[predicted], float(logits.softmax(0)[predicted]), explanations,
        logit=float(logits[predicted]), region=inner, finding=found,
    )  # fmt: skip


def plot_example(example: Example, region: str = "region") -> Figure:
    """One picture and each method's map over it; the finding outlined, or the region where there is none."""
    unknown, right = example.true_class is None, example.predicted_class == example.true_class
    truth = " (true class unknown)" if unknown else "" if right else f", in truth {example.true_class}"
    mask, what = (example.region, region) if example.finding is None else (example.finding, "finding")
    outlined = "" if mask is None else f" ({what} outlined)"
    title = f"{example.identifier}: {example.predicted_class}, {100 * example.probability:.1f} %{truth}{outlined}"
    return plot_comparison(
        np.asarray(example.image),
        {entry.method: np.asarray(entry.relevance) for entry in example.explanations},
        logit=example.logit,
        totals=[entry.method for entry in example.explanations if entry.total is not None],
        mask=mask,
        title=literal(title),
    )


def save_example(folder: Path, example: Example, source: str, region: str = "region") -> list[Path]:
    """Write the figure (PNG), the maps (npz, one array for each method) and the figures of merit (JSON).

    The files are called after the picture; those of another picture of the same name are left alone (the JSON says whose
    they are), those of the same picture are replaced.

    Args:
        folder: Where to.
        example: What to write.
        source: What tells the picture from every other, such as its absolute path.
        region: What the region is called.
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
        "methods": {
            entry.method: {f"inside_{region}": entry.inside, "sum": entry.total} for entry in example.explanations
        },
    }
    return [
        save_figure(plot_example(example, region), folder / f"{stem}.png"),
        write_atomically(folder / f"{stem}.npz", maps.getvalue()),
        write_json(folder / f"{stem}.json", facts),
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
