"""Figures and files of explained radiographs, and of how much relevance lies inside a region."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lrp_plugin.files import file_stem, write_atomically
from lrp_plugin.report import Example
from lrp_plugin.visualization import plot_comparison, save_figure

from .explaining import EvidenceRow

#: Said of every picture whose class nobody told.
CAUTION = (
    "The model answers one of its classes for any picture, also for one that is no chest X-ray: without a label nothing "
    "says whether it is right"
)

# Distinct for the colour-blind (Okabe & Ito).
_COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")


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


def literal(text: str) -> str:
    """Text for matplotlib as it is: a pair of dollar signs would be read as a formula."""
    return text.replace("$", r"\$")


def plot_evidence(rows: Sequence[EvidenceRow], region: str) -> Figure:
    """Mean share inside ``region`` with its interval, a group for each class, a colour for each method.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError(f"no picture has the region {region!r}: nothing to draw")
    classes = list(dict.fromkeys(row.class_name for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(7.0, 0.6 + 0.16 * (len(methods) + 1.5) * len(classes)), layout="constrained")
    ax = figure.subplots()
    step = 1.0 / (len(methods) + 1.5)
    for row in rows:
        place = classes.index(row.class_name) + (methods.index(row.method) - (len(methods) - 1) / 2) * step
        colour = _COLOURS[methods.index(row.method) % len(_COLOURS)]
        ax.plot([100 * row.inside.low, 100 * row.inside.high], [place] * 2, color=colour, lw=2)
        ax.plot(100 * row.inside.mean, place, "o", ms=4, color=colour)
        if row.method == methods[0]:
            edges = classes.index(row.class_name) - 0.45, classes.index(row.class_name) + 0.45
            ax.vlines(100 * row.chance, *edges, color="#9aa3ad", lw=1.2, linestyles="--")
    ax.set_yticks(range(len(classes)), [literal(name) for name in classes])
    ax.set_ylim(len(classes) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel(f"positive relevance inside the {region}, % (95 % bootstrap interval)")
    ax.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=_COLOURS[i % len(_COLOURS)], marker="o", ms=4, lw=2) for i in range(len(methods))]
    handles.append(Line2D([], [], color="#9aa3ad", lw=1.2, ls="--"))
    figure.legend(
        handles,
        [*map(literal, methods), "chance (area)"],
        loc="outside upper center",
        ncols=min(len(handles), 5),
        frameon=False,
        fontsize=8,
    )
    return figure
