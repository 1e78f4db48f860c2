"""Several maps beside each other: methods on one image, or one method on a batch.

Arguments as in `lrp_plugin.visualization.maps`. A given ``ax`` must have been made by ``subplots``: its place
is divided into the panels.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typing_extensions import Unpack

from lrp_plugin.kinds import at_least, checked
from lrp_plugin.visualization.arrays import Array, ArrayLike, relevance_map
from lrp_plugin.visualization.look import (
    CONTOUR_ON_IMAGE,
    CONTOUR_ON_WHITE,
    Look,
    LookOptions,
    draw_image,
    draw_mask_contour,
    shape_of,
)
from lrp_plugin.visualization.style import PAGE, canvas, figure_style, finish, fit_titles, number, percent

SIGNLESS = frozenset({"saliency", "gradient saliency", "smoothgrad", "gradcam", "guided_gradcam"})
"""Methods whose values say how much but not for or against, as their names stand in `lrp_plugin.gradients`."""


def _total(relevance: ArrayLike, logit: float | None) -> str:
    # Of the map as it came: resizing it for the eye does not keep the sum.
    total = float(relevance_map(relevance).sum())
    return f"{percent(total / logit)} of the logit" if logit else f"total {number(total)}"


def comparison_layout(
    names: Collection[str], size: tuple[int, int], columns: int = 4, title: str | None = None,
    signless: Collection[str] = SIGNLESS,
) -> tuple[int, int, float]:  # fmt: skip
    """Columns, rows, and the height in inches of a page-wide `plot_comparison` of a picture of ``size`` pixels."""
    at_least(1, columns=columns)
    across = min(columns, len(names) + 1)
    down = -(-(len(names) + 1) // across)
    below = 0.42 if any(name in signless for name in names) else 0.0
    return across, down, down * (PAGE * 0.92 / across * size[0] / size[1] + 0.36 + below) + (0.25 if title else 0)


@checked
def plot_comparison(
    image: ArrayLike,
    relevances: Mapping[str, ArrayLike],
    *,
    logit: float | None = None,
    totals: Collection[str] | None = None,
    signless: Collection[str] = SIGNLESS,
    overlay: bool = True,
    columns: int = 4,
    mask: ArrayLike | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """The image first, then each method's map of it, with the map's total below the method's name.

    Args:
        image: The image; see `plot_overlay`.
        relevances: Method's name to map; see `plot_overlay`.
        logit: The explained logit. Each total is then given as its share, which for LRP should be near
            100 % (the rest is what biases and the stabilizer absorbed).
        totals: The methods whose total is shown; it says something where relevance is conserved. None: all but
            those without a sign.
        signless: The methods whose values have no sign: green, with a bar of their own.
        overlay: Lay maps over the image; False shows them on white.
        columns: Panels in a row, the image counted.
        mask: A region to outline in every panel, ``(h, w)``, inside where above 0.
        title, ax, save_path: Above all panels; a place to divide; where to save.
        **look: See `Look`; `normalize` is True unless given, since methods differ in unit.

    Raises:
        TypeError: An unknown keyword.
        ValueError: `relevances` is empty, or a shape or value is not legal.
    """
    if not relevances:
        raise ValueError("relevances is empty; give at least one {name: map}")
    style = Look.of(look, normalize=True)
    picture = style.picture(image)
    height, width = shape_of(picture)
    across, down, inches = comparison_layout(relevances, (height, width), columns, title, signless)
    with figure_style():
        figure = canvas(ax, PAGE, inches)
        panels = list(figure.subplots(down, across, squeeze=False).ravel())
        draw_image(panels[0], picture)
        panels[0].set_title("image" if logit is None else f"image\nlogit {number(logit)}")
        _draw_methods(style, panels[1:], picture, relevances, overlay, signless, across)
        named = [name for name in relevances if (name not in signless if totals is None else name in totals)]
        for panel, (name, values) in zip(panels[1:], relevances.items(), strict=False):
            panel.set_title(f"{name}\n{_total(values, logit)}" if name in named else f"{name}\n")
        for index, panel in enumerate(panels[: len(relevances) + 1] if mask is not None else ()):
            colour = CONTOUR_ON_IMAGE if overlay or not index else CONTOUR_ON_WHITE
            draw_mask_contour(panel, mask, (height, width), color=colour)  # type: ignore[arg-type]
        figure.suptitle(title or "", fontsize=9)
        figure.supxlabel(style.changed.strip(), fontsize=7)
        fit_titles(panels[: len(relevances) + 1])
        return finish(figure, save_path)


def _draw_methods(
    style: Look, panels: Sequence[Axes], picture: Array, relevances: Mapping[str, ArrayLike], overlay: bool,
    signless: Collection[str], across: int,
) -> None:  # fmt: skip
    """One method a panel, a colour bar at the end and below what has no sign, nothing in the panels left."""
    maps = {name: style.values(values, shape_of(picture)) for name, values in relevances.items()}
    signed = [name for name in maps if name not in signless]
    scales = dict(zip(signed, style.scales([maps[name] for name in signed]), strict=True))
    for panel, (name, values) in zip(panels, maps.items(), strict=False):
        scale = scales.get(name) or style.magnitude(values)
        style.draw(panel, values, scale, picture if overlay else None)
        if name not in scales:
            style.bar_below(panel, scale, overlay)
    for panel in panels[len(maps) :]:
        panel.set_axis_off()
    if scales:  # beside the last column, where it takes no room from between the panels
        style.bar(panels[min(across - 2, len(maps) - 1)], list(scales.values()), overlay)


@checked
def plot_batch(
    images: ArrayLike,
    relevances: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    overlay: bool = False,
    columns: int = 6,
    masks: ArrayLike | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """A batch: images above, their maps below, all maps on one symmetric scale.

    Args:
        images: ``(N, C, H, W)`` or ``(N, H, W)``.
        relevances: ``(N, C, h, w)`` or ``(N, h, w)``.
        titles: One for each image, such as ``"COVID (0.93)"``.
        overlay: Lay maps over the images; False shows them on white.
        columns: Images in a row; more begin a new pair of rows.
        masks: ``(N, H, W)`` or ``(N, 1, H, W)``, outlined on image and map.
        title: Above all panels.
        ax: A place to divide.
        save_path: Where to save.
        **look: See `Look`; with `normalize` each map has its own scale, and maps are not comparable.

    Returns:
        The figure.

    Raises:
        TypeError: An unknown keyword.
        ValueError: The lengths differ, or a shape or value is not legal.
    """
    if any(getattr(values, "ndim", 1) == 0 for values in (images, relevances, masks)):
        raise ValueError(
            "images, relevances and masks are batches; give (N, C, H, W) or (N, H, W), not a single number"
        )
    count = len(images)
    for name, values in (("relevances", relevances), ("titles", titles), ("masks", masks)):
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} images; give one for each")
    at_least(1, columns=columns)
    style = Look.of(look)
    pictures = [style.picture(image) for image in images]
    height, width = shape_of(pictures[0])
    across = min(columns, count)
    pairs = -(-count // across)
    with figure_style():
        # A few images would otherwise be as large as the page.
        cell = min(PAGE * 0.9 / across, 1.8)
        inches = pairs * (2 * cell * height / width + (0.28 if titles else 0.12)) + (0.25 if title else 0)
        figure = canvas(ax, cell * across + 0.75, inches)
        panels = figure.subplots(2 * pairs, across, squeeze=False)
        for panel, text in zip(panels[::2].ravel(), titles or (), strict=False):
            panel.set_title(text, fontsize=7.5)
        _draw_pairs(style, panels, pictures, relevances, masks, overlay)
        figure.suptitle(title or "", fontsize=9)
        figure.supxlabel(style.changed.strip(), fontsize=7)
        return finish(figure, save_path)


def _draw_pairs(
    style: Look,
    panels: np.ndarray,
    pictures: Sequence[Array],
    relevances: ArrayLike,
    masks: ArrayLike | None,
    overlay: bool,
) -> None:
    """Image i above map i, in pairs of rows; panels without an image stay empty."""
    size = shape_of(pictures[0])
    maps = [style.values(values, size) for values in relevances]
    scales = style.scales(maps)
    above, below = panels[::2].ravel(), panels[1::2].ravel()
    for index, (picture, values, scale) in enumerate(zip(pictures, maps, scales, strict=True)):
        draw_image(above[index], picture)
        style.draw(below[index], values, scale, picture if overlay else None)
        if masks is not None:
            draw_mask_contour(above[index], masks[index], size)
            colour = CONTOUR_ON_IMAGE if overlay else CONTOUR_ON_WHITE
            draw_mask_contour(below[index], masks[index], size, color=colour)
    for panel in (*above[len(maps) :], *below[len(maps) :]):
        panel.set_axis_off()
    style.bar(panels[1, -1], scales, overlay)
