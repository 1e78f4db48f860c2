"""One map in one picture: as a signed heatmap, or laid over its image.

Maps are ``(C, H, W)``, ``(H, W)`` or ``(1, C, H, W)``, and their channels are summed with their sign. Images
are grey or RGB, ``(C, H, W)``, ``(H, W)``, ``(1, C, H, W)`` or ``(H, W, C)``. A map of another size than its
image is resized to it (bilinear). A mask is above 0 inside and drawn as an outline.

Every plot takes the keywords of `lrp_plugin.visualization.look.Look` (``alpha``, ``cmap``, ``normalize``,
``mean``, ``std``, ...), ``title``, ``ax`` (where to draw; None makes a new figure) and ``save_path`` (the
suffix decides the format; 300 dpi; written atomically). It returns the whole ``matplotlib.figure.Figure``, which
a notebook shows as a cell's last line and ``plt.show()`` shows on a screen.
"""

from __future__ import annotations

import os

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typing_extensions import Unpack

from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import ArrayLike
from lrp_plugin.visualization.look import CONTOUR_ON_WHITE, Look, LookOptions, draw_mask_contour, shape_of
from lrp_plugin.visualization.style import COLUMN, axes_for, figure_style, finish, fit_titles


def _height(size: tuple[int, int], title: str | None) -> float:
    """Inches for a picture of `size` pixels that leaves 0.22 of the width to its colour bar."""
    return COLUMN * 0.78 * size[0] / size[1] + (0.3 if title else 0.1)


@checked
def plot_heatmap(
    relevance: ArrayLike,
    *,
    size: tuple[int, int] | None = None,
    mask: ArrayLike | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """A signed map on white: red for the class, blue against it, white exactly at zero.

    Args:
        relevance: The map, ``(C, H, W)``, ``(H, W)`` or ``(1, C, H, W)``, any unit, finite; channels are summed.
        size: Height and width in pixels to resize the map to; None keeps its own.
        mask: A region to outline.
        title: Above the picture.
        ax: Where to draw.
        save_path: Where to save.
        **look: See `Look`.

    Returns:
        The figure.

    Raises:
        TypeError: An unknown keyword.
        ValueError: A shape, a size or a value is not legal; the message says which.
    """
    style = Look.of(look)
    values = style.values(relevance, size)
    (scale,) = style.scales([values])
    with figure_style():
        panel = axes_for(ax, COLUMN, _height(shape_of(values), title))
        style.draw(panel, values, scale)
        if mask is not None:
            draw_mask_contour(panel, mask, shape_of(values), color=CONTOUR_ON_WHITE)
        style.bar(panel, [scale], over_image=False)
        panel.set_title(title or "")
        style.note(panel)
        return finish(panel.figure, save_path)


@checked
def plot_overlay(
    image: ArrayLike,
    relevance: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    signless: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """A map over its image: the more relevance, the less of the image is seen; without any, nothing covers
    it.

    Args:
        image: Grey or RGB, ``(C, H, W)``, ``(H, W)``, ``(1, C, H, W)`` or ``(H, W, C)``: uint8 in [0, 255], floating
            point in [0, 1], or normalized with `mean` and `std` given; other ranges are windowed to their extremes.
        relevance: Its map, ``(C, h, w)``, ``(h, w)`` or ``(1, C, h, w)``, any unit, finite; channels are summed with
            their sign, another size is resized to the image's.
        mask: A region to outline, ``(h, w)`` or ``(1, h, w)``, inside where above 0.
        signless: The values say how much but not for or against, as a gradient's magnitude: green.
        title: Above the picture.
        ax: Where to draw.
        save_path: Where to save.
        **look: See `Look`.

    Returns:
        The figure.

    Raises:
        TypeError: An unknown keyword.
        ValueError: A shape, a size or a value is not legal; the message says which.
    """
    style = Look.of(look)
    picture = style.picture(image)
    values = style.values(relevance, shape_of(picture))
    scale = style.magnitude(values) if signless else style.scales([values])[0]
    with figure_style():
        panel = axes_for(ax, COLUMN, _height(shape_of(picture), title))
        style.draw(panel, values, scale, picture)
        if mask is not None:
            draw_mask_contour(panel, mask, shape_of(picture))
        if signless:
            style.bar_below(panel, scale, over_image=True)
        else:
            style.bar(panel, [scale], over_image=True)
        panel.set_title(title or "")
        if ax is None:
            fit_titles([panel], least=6.5, spare=1.25)
        style.note(panel)
        return finish(panel.figure, save_path)
