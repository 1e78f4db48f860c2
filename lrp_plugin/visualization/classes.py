"""Three pictures of a labelled dataset and a classifier's results on it, each in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrp_plugin.kinds import checked


@checked
def plot_class_histogram(dataset: Any, ax: Axes | None = None) -> Figure:
    """Draw how many pictures each class has; no picture is read.

    Args:
        dataset: with ``classes`` and ``labels``.
        ax: where to draw; None makes a figure.

    Returns:
        The figure.
    """
    classes, labels = _known(dataset)
    figure, ax = _axes(ax, (4.5, 3.0))
    counts = np.bincount(labels, minlength=len(classes))
    bars = ax.bar([literal(name) for name in classes], counts, color="#4477aa")
    ax.bar_label(bars, fontsize=8)
    ax.set_ylabel("pictures")
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


@checked
def plot_class_examples(dataset: Any, seed: int = 0) -> Figure:
    """Show one picture of each class that has any, chosen by ``seed``.

    Args:
        dataset: with ``classes`` and ``labels``.
        seed: of the choice.

    Returns:
        The figure.

    Raises:
        ValueError: No picture has a class, or the seed is negative.
    """
    classes, known = _known(dataset)
    labels = np.asarray(known)
    shown = [label for label in range(len(classes)) if (labels == label).any()]
    if not shown or seed < 0:
        raise ValueError(f"pictures of {len(shown)} classes, seed={seed}: legal are at least one and 0 or more")
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(2.4 * len(shown), 2.7), layout="constrained")
    for ax, label in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        index = int(rng.choice(np.flatnonzero(labels == label)))
        ax.imshow(dataset[index]["image"][0].numpy(), cmap="gray", vmin=0.0, vmax=1.0)
        ax.set_title(literal(classes[label]), fontsize=10)
        ax.axis("off")
    return figure


@checked
def plot_confusion_matrix(
    matrix: torch.Tensor | np.ndarray[Any, Any], classes: Sequence[str], ax: Axes | None = None
) -> Figure:
    """Draw a confusion matrix with class names and counts.

    Args:
        matrix: ``(K, K)``, rows true, columns predicted.
        classes: K names.
        ax: where to draw; None makes a figure.

    Returns:
        The figure.

    Raises:
        ValueError: the matrix is not ``(K, K)``.
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"confusion matrix of shape {counts.shape} for {len(classes)} classes {list(classes)}")
    figure, ax = _axes(ax, (1.3 + 0.8 * len(classes), 1.0 + 0.75 * len(classes)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.6 else "black"
        ax.text(column, row, f"{count:g}", ha="center", va="center", color=color, fontsize=9)
    names = [literal(name) for name in classes]
    ax.set_xticks(range(len(classes)), names, rotation=30, ha="right", fontsize=8)
    ax.set_yticks(range(len(classes)), names, fontsize=8)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    return figure


def literal(text: str) -> str:
    """Text for matplotlib as it is: a pair of dollar signs would be read as a formula."""
    return text.replace("$", r"\$")


def _known(dataset: Any) -> tuple[Sequence[str], list[int]]:
    """A data set's class names and labels (torchvision's word: ``targets``)."""
    classes, labels = (getattr(dataset, name, None) for name in ("classes", "labels"))
    labels = getattr(dataset, "targets", None) if labels is None else labels
    if classes is None or labels is None:
        raise TypeError(f"dataset is a {type(dataset).__name__}; legal is one with `classes` (names) and `labels`")
    return classes, [int(label) for label in labels]


def _axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Any, Axes]:
    if ax is not None:
        return ax.figure, ax
    # Figure, not pyplot: works without a display and leaves no window in pyplot's list.
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()
