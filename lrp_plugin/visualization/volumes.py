"""A volume's relevance: three slices through its strongest place, and three projections."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typing_extensions import Unpack

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import Array, ArrayLike, _as_array, display_image
from lrp_plugin.visualization.look import Look, LookOptions
from lrp_plugin.visualization.style import PAGE, canvas, figure_style, finish, fit_titles


@checked
def plot_volume(
    volume: ArrayLike,
    relevance: ArrayLike,
    *,
    at: tuple[int, int, int] | None = None,
    axes: Sequence[str] = ("axis 0", "axis 1", "axis 2"),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
    **look: Unpack[LookOptions],
) -> Figure:
    """Above: one slice across each axis, through one place. Below: everything along each axis added up.

    Args:
        volume: ``(D, H, W)`` or ``(1, D, H, W)``, any range.
        relevance: The same shape, or ``(C, D, H, W)`` whose channels are added up.
        at: The place (depth, row, column) the slices meet in; None takes that of the greatest relevance.
        axes: The axes' names, such as ``("axial", "coronal", "sagittal")``.
        spacing: The size of a voxel along each axis, for proportions.
        title: Above the panels.
        ax: A place to divide; None makes a new figure.
        save_path: Where to save.
        **look: See `Look`.

    Returns:
        The figure. The volume is averaged along the axis in a projection, relevance is added up.

    Raises:
        TypeError: An unknown keyword.
        ValueError: The shapes differ or are not legal, `at` lies outside, or there are no three axes.
    """
    style = Look.of(look)
    body, values = _one("volume", volume), _one("relevance", relevance)
    if body.shape != values.shape:
        raise ValueError(f"volume has shape {body.shape}, relevance {values.shape}; give the same")
    peak = tuple(int(place) for place in np.unravel_index(np.abs(values).argmax(), values.shape)) if at is None else at
    _check_geometry(peak, body.shape, axes, spacing)
    with figure_style():
        figure = canvas(ax, PAGE, PAGE * 0.72)
        panels = figure.subplots(2, 3)
        grey = display_image(body.reshape(1, body.shape[0], -1)).reshape(body.shape)
        slices = [style.values(values.take(peak[axis], axis)) for axis in range(3)]
        sums = [style.values(values.sum(axis)) for axis in range(3)]
        for row, maps in enumerate((slices, sums)):
            (scale, *_) = style.scales(maps)
            for axis in range(3):
                panel = panels[row, axis]
                picture = grey.take(peak[axis], axis) if row == 0 else display_image(grey.mean(axis))
                style.draw(panel, maps[axis], scale, picture)
                high, wide = [spacing[other] for other in range(3) if other != axis]
                panel.set_aspect(high / wide)
                what = f"slice {peak[axis] + 1} of {body.shape[axis]} across {axes[axis]}"
                panel.set_title(what if row == 0 else f"added up along {axes[axis]}")
            style.bar(panels[row, 2], [scale], over_image=True)
        figure.suptitle(title or "", fontsize=9)
        figure.supxlabel(style.changed, fontsize=7)
        fit_titles(list(panels.ravel()))
        return finish(figure, save_path)


def _check_geometry(peak: Sequence[int], shape: Sequence[int], axes: Sequence[str], spacing: Sequence[float]) -> None:
    if len(peak) != 3 or not all(0 <= place < size for place, size in zip(peak, shape, strict=True)):
        raise ValueError(f"at is {peak}; give a place inside {tuple(shape)}")
    if len(axes) != 3 or not all(0 < size < float("inf") for size in spacing):
        raise ValueError(f"axes={told(axes)}, spacing={told(spacing)}; give three names, and three sizes above 0")


def _one(name: str, given: ArrayLike) -> Array:
    array = _as_array(name, given).astype(np.float64)
    shape = array.shape
    if array.ndim == 5 and len(array) == 1:
        array = array[0]
    if array.ndim == 4 and (name == "relevance" or len(array) == 1):
        array = array.sum(0)
    if array.ndim != 3:
        raise ValueError(f"{name} has shape {shape}; give (D, H, W) or (1, D, H, W): one example")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} NaN or infinite values")
    return array
