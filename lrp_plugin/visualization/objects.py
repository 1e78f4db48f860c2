"""A segmented region or a detected box, with what it rests on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from typing_extensions import Unpack

from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import ArrayLike
from lrp_plugin.visualization.look import CONTOUR_ON_IMAGE, Look, LookOptions, draw_mask_contour, shape_of
from lrp_plugin.visualization.style import COLUMN, axes_for, figure_style, finish


@checked
def plot_segmentation(
    image: ArrayLike,
    relevance: ArrayLike,
    region: ArrayLike,
    *,
    label: str = "explained region",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """The region that was given a class, outlined, over what its class rests on, inside it and outside.

    Args:
        image: See `plot_overlay`.
        relevance: The map of the class summed over the region; see `plot_overlay`.
        region: ``(h, w)``, above 0 inside.
        label: What the outline is.
        title: Above the picture.
        ax: Where to draw; None makes a new figure.
        save_path: Where to save.
        **look: See `Look`.

    Returns:
        The figure.

    Raises:
        TypeError: An unknown keyword.
        ValueError: A shape or value is not legal.
    """
    return _marked(image, relevance, title, ax, save_path, Look.of(look), label, region=region)


@checked
def plot_detection(
    image: ArrayLike,
    relevance: ArrayLike,
    box: Sequence[float] | ArrayLike,
    *,
    label: str = "explained box",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """A detected box over what its score rests on, inside it and outside.

    Args:
        image: See `plot_overlay`.
        relevance: The map of the box's score; see `plot_overlay`.
        box: Left, top, right, bottom in pixels of the image.
        label: What the box is.
        title: Above the picture.
        ax: Where to draw; None makes a new figure.
        save_path: Where to save.
        **look: See `Look`.

    Returns:
        The figure.

    Raises:
        TypeError: An unknown keyword.
        ValueError: A shape or value is not legal, or the box is not four numbers.
    """
    corners = [float(value) for value in box] if getattr(box, "ndim", 1) else []
    if len(corners) != 4 or corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise ValueError(f"box is {corners}; give left, top, right, bottom in pixels")
    return _marked(image, relevance, title, ax, save_path, Look.of(look), label, box=corners)


def _marked(
    image: ArrayLike, relevance: ArrayLike, title: str | None, ax: Axes | None,
    save_path: str | os.PathLike[str] | None, style: Look, label: str, *, region: ArrayLike | None = None,
    box: Sequence[float] | None = None,
) -> Figure:  # fmt: skip
    picture = style.picture(image)
    size = shape_of(picture)
    values = style.values(relevance, size)
    (scale,) = style.scales([values])
    with figure_style():
        panel = axes_for(ax, COLUMN * 1.3, COLUMN * size[0] / size[1] + (0.55 if title else 0.35))
        style.draw(panel, values, scale, picture)
        if region is not None:
            draw_mask_contour(panel, region, size, linewidth=1.2)
        if box is not None:
            left, top, right, bottom = box
            outline = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top)
            outline.set(fill=False, ec=CONTOUR_ON_IMAGE, lw=1.4)
            panel.add_patch(outline)
        style.bar(panel, [scale], over_image=True)
        panel.plot([], [], color=CONTOUR_ON_IMAGE, lw=2, label=label)
        if style.changed:
            panel.plot([], [], color="none", label=style.changed)
        panel.legend(loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0.3)
        panel.set_title(title or "")
        return finish(panel.figure, save_path)
