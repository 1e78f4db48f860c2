"""Figures and files of explained radiographs, and of how much relevance lies inside a region."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lrp_plugin.files import file_stem, write_atomically
from lrp_plugin.report import Example
from lrp_plugin.visualization import plot_comparison, save_figure
from lrp_plugin.visualization.classes import literal

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
