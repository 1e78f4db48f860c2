"""The figure of each kind of explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrp_plugin.visualization import (
    SIGNLESS,
    plot_detection,
    plot_features,
    plot_overlay,
    plot_segmentation,
    plot_signal,
    plot_text,
    plot_token_matrix,
    plot_volume,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lrp_plugin.explain.explanation import Explanation


def draw_image(explanation: Explanation, **options: Any) -> Figure:
    """The map over the part of the picture that the network saw."""
    options = {"unit": explanation.unit, "signless": explanation.method in SIGNLESS, **options}
    return plot_overlay(explanation.view["picture"], explanation.relevance, **options)


def draw_segmentation(explanation: Explanation, **options: Any) -> Figure:
    """The map over the picture, the pixels given the class outlined."""
    options.setdefault("label", f"pixels given {explanation.target_name or f'class {explanation.target}'}")
    return plot_segmentation(explanation.view["picture"], explanation.relevance, explanation.view["region"], **options)


def draw_detection(explanation: Explanation, **options: Any) -> Figure:
    """The map over the picture, the explained box on it."""
    options.setdefault("label", f"{explanation.title}")
    options.setdefault("unit", explanation.unit)
    return plot_detection(explanation.view["picture"], explanation.relevance, explanation.view["box"], **options)


def draw_text(explanation: Explanation, **options: Any) -> Figure:
    """The words on their colours; for generated text a matrix."""
    view = explanation.view
    if view.get("generated"):
        return plot_token_matrix(
            view["tokens"], view["generated"], explanation.relevance, unit=explanation.unit, **options
        )
    return plot_text(view["words"], view["word_relevance"], unit=explanation.unit, **options)


def draw_signal(explanation: Explanation, **options: Any) -> Figure:
    """The curves, relevance behind them."""
    view = explanation.view
    options = {"rate": view["rate"], "channels": view["channels"], "unit": explanation.unit, **options}
    return plot_signal(explanation.input, explanation.relevance, **options)


def draw_table(explanation: Explanation, **options: Any) -> Figure:
    """A bar for each feature."""
    view = explanation.view
    options = {"values": view["values"], "unit": explanation.unit, **options}
    return plot_features(explanation.relevance, view["names"], **options)


def draw_volume(explanation: Explanation, **options: Any) -> Figure:
    """Slices and projections."""
    options = {"unit": explanation.unit, **explanation.view["geometry"], **options}
    return plot_volume(explanation.view["volume"], explanation.relevance, **options)
