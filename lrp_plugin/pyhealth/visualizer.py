"""PyHealth's `SaliencyVisualizer`: its method names over the plots of `lrp_plugin.visualization`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from lrp_plugin.kinds import checked
from lrp_plugin.visualization import (
    display_image,
    plot_comparison,
    plot_distribution,
    plot_heatmap,
    plot_overlay,
    relevance_map,
)
from lrp_plugin.visualization.arrays import ArrayLike
from lrp_plugin.visualization.style import NEGATIVE, PAGE, POSITIVE

Path = str | os.PathLike[str]


class SaliencyVisualizer:
    """Pictures of saliency and relevance; a Figure comes back from every plot.

    Images are grey or RGB, tensors or arrays ``(C, H, W)``, ``(H, W)``, ``(1, C, H, W)`` or ``(H, W, C)``;
    maps likewise, of any size. Unlike PyHealth's: channels are summed with their sign, maps are resized to the image,
    zero is white.

    Every plot takes ``plt`` first (``matplotlib.pyplot``, or None for a figure pyplot does not know), ``title``, ``cmap``
    and ``alpha`` (instead of the defaults), ``normalize`` (label the colours -1 to 1; False: in the map's unit), ``ax``
    (where to draw; None makes a figure), ``show`` (call ``plt.show()``; None: where the figure is new), ``save_path``
    (300 dpi, written atomically), and, but for the distribution, the keywords of `lrp_plugin.visualization.Look`
    (``mean``, ``std``, ``percentile``, ``limit``, ...).

    Args:
        default_cmap: A diverging colour map whose middle is white is used for every map. Any other, such as ``"hot"``,
            cannot show a sign: it colours maps without negative values, signed ones get blue, white and red.
        default_alpha: Opacity of the greatest value over an image, 0 to 1.
        figure_size: Width and height on screen, in hundreds of pixels (PyHealth's inches). The comparison has a size of
            its own, by its panels.

    Raises:
        ValueError: matplotlib knows no such colour map.
    """

    def __init__(
        self, default_cmap: str | None = "hot", default_alpha: float = 0.3, figure_size: tuple[float, float] = (15, 7)
    ) -> None:
        if default_cmap is not None and default_cmap not in matplotlib.colormaps:
            raise ValueError(f"default_cmap {default_cmap!r} is unknown; legal are matplotlib's, e.g. 'seismic'")
        self.default_cmap, self.default_alpha, self.figure_size = default_cmap, default_alpha, figure_size

    def plot_saliency_overlay(
        self, plt: Any, image: ArrayLike, saliency: ArrayLike, title: str | None = None, alpha: float | None = None,
        cmap: str | None = None, normalize: bool = True, show: bool | None = None, save_path: Path | None = None,
        ax: Axes | None = None, **look: Any,
    ) -> Figure:  # fmt: skip
        """A map over its image. Arguments: see the class."""
        look = {**self._look(alpha, cmap, [saliency], normalize), **look}
        return self._shown(
            plt, ax, show, partial(plot_overlay, image, saliency, title=title, save_path=save_path, **look)
        )

    def plot_saliency_heatmap(
        self, plt: Any, saliency: ArrayLike, title: str | None = None, cmap: str | None = None, normalize: bool = True,
        show: bool | None = None, save_path: Path | None = None, ax: Axes | None = None, **look: Any,
    ) -> Figure:  # fmt: skip
        """A map alone. Arguments: see the class."""
        look = {"cmap": self._colours(cmap, [saliency]), "normalize": normalize, **look}
        return self._shown(plt, ax, show, partial(plot_heatmap, saliency, title=title, save_path=save_path, **look))

    def plot_multiple_attributions(
        self, plt: Any, image: ArrayLike, attributions: Mapping[str, ArrayLike],
        method_names: Sequence[str] | None = None, alpha: float | None = None, cmap: str | None = None,
        normalize: bool = True, save_path: Path | None = None, title: str | None = None, show: bool | None = None,
        ax: Axes | None = None, **look: Any,
    ) -> Figure:  # fmt: skip
        """The image first, then each method's map over it, with its total.

        Args:
            plt, image, alpha, cmap, save_path, title, show: See the class; further keywords are `plot_comparison`'s
                (``logit``, ``totals``, ``overlay``, ``columns``, ``mask``).
            attributions: Method's name to map.
            method_names: Which of them, in this order; None: all.
            normalize: Give each map its own scale; False gives all one.
            ax: Made by ``subplots``.

        Raises:
            ValueError: A method name has no map.
        """
        names = list(attributions if method_names is None else method_names)
        unknown = [name for name in names if name not in attributions]
        if unknown:
            raise ValueError(f"method_names {', '.join(unknown)} have no map; given are {', '.join(attributions)}")
        maps = {name: attributions[name] for name in names}
        height, width = display_image(image).shape[:2]
        across = min(int(look.get("columns", 5)), len(maps) + 1)
        down = -(-(len(maps) + 1) // across)
        size = (PAGE, down * (PAGE * 0.92 / across * height / width + 0.36) + (0.25 if title else 0))
        look = {**self._look(alpha, cmap, list(maps.values()), normalize), **look}
        draw = partial(plot_comparison, image, maps, title=title, save_path=save_path, **look)
        return self._shown(plt, ax, show, draw, size)

    def plot_attribution_distribution(
        self, plt: Any, attributions: ArrayLike | Mapping[str, ArrayLike], title: str | None = None, bins: int = 50,
        show: bool | None = None, save_path: Path | None = None, ax: Axes | None = None,
    ) -> Figure:  # fmt: skip
        """How values are distributed: one map with its mean and median, or several by name.

        Args:
            plt, title, show, save_path, ax: See the class.
            attributions: One map, or method's name to map.
            bins: How many; with an even number zero lies between two.
        """
        draw = partial(plot_distribution, attributions, bins=bins, title=title, save_path=save_path)
        return self._shown(plt, ax, show, draw)

    def plot_top_k_features(
        self, plt: Any, image: ArrayLike, attributions: ArrayLike, k: int = 10, title: str | None = None,
        show: bool | None = None, save_path: Path | None = None, ax: Axes | None = None, **look: Any,
    ) -> Figure:  # fmt: skip
        """The map over its image with the ``k`` pixels of greatest magnitude ringed, red for the class, blue against it.

        For regions instead of pixels: `lrp_plugin.visualization.plot_top_regions`.

        Raises:
            ValueError: ``k`` is below 1 or above the number of pixels.
        """
        values = relevance_map(attributions, display_image(image).shape[:2])  # type: ignore[arg-type]
        if not 1 <= k <= values.size:
            raise ValueError(f"k is {k}; legal are 1 to {values.size}, the number of pixels")
        look = {**self._look(None, None, [attributions], True), **look}

        def draw(ax: Axes) -> Figure:
            order = np.argsort(-np.abs(values), axis=None, kind="stable")[:k]
            rows, columns = np.unravel_index(order, values.shape)
            edges = [POSITIVE if values[row, column] >= 0 else NEGATIVE for row, column in zip(rows, columns)]
            ax.scatter(columns, rows, s=26, facecolors="none", edgecolors=edges, linewidths=1.1, zorder=3)
            return plot_overlay(image, attributions, title=title, ax=ax, save_path=save_path, **look)

        return self._shown(plt, ax, show, draw)

    def _look(
        self, alpha: float | None, cmap: str | None, maps: Sequence[ArrayLike], normalize: bool
    ) -> dict[str, Any]:
        opacity = self.default_alpha if alpha is None else alpha
        return {"alpha": opacity, "cmap": self._colours(cmap, maps), "normalize": normalize}

    def _colours(self, cmap: str | None, maps: Sequence[ArrayLike]) -> Colormap | None:
        name = self.default_cmap if cmap is None else cmap
        if name is None:
            return None
        chosen = matplotlib.colormaps[name]
        if min(chosen(0.5)[:3]) > 0.9:
            return chosen
        if any((relevance_map(values) < 0).any() for values in maps):
            return None
        # The scale puts zero in the middle: the whole of a sequential map goes into the upper half.
        upper = chosen(np.linspace(0, 1, 129))
        return ListedColormap(np.concatenate([np.ones((128, 4)), upper]))

    def _shown(
        self, plt: Any, ax: Axes | None, show: bool | None, draw: Callable[..., Figure],
        size: tuple[float, float] | None = None,
    ) -> Figure:  # fmt: skip
        figure = draw(ax=self._new_axes(plt, size) if ax is None else ax)
        if plt is not None and (ax is None if show is None else show):
            plt.show()
        return figure

    def _new_axes(self, plt: Any, size: tuple[float, float] | None) -> Axes:
        dpi = 150.0
        if size is None:
            # The pixels that were asked for, on paper of a printed page's width: letters keep their proportion.
            width, height = self.figure_size
            size, dpi = (PAGE, PAGE * height / width), 100.0 * width / PAGE
        make = Figure if plt is None else plt.figure
        figure: Figure = make(figsize=size, dpi=dpi, layout="constrained")
        return figure.add_subplot()


@checked
def visualize_attribution(
    plt: Any,
    image: ArrayLike,
    attribution: ArrayLike,
    title: str | None = None,
    method: str = "overlay",
    **options: Any,
) -> Figure:
    """One picture in one call.

    Args:
        plt: ``matplotlib.pyplot``, or None for a figure pyplot does not know.
        image: The image.
        attribution: Its map.
        title: Above the picture.
        method: ``"overlay"``, ``"heatmap"`` or ``"top_k"``.
        **options: Of the `SaliencyVisualizer` method.

    Raises:
        ValueError: An unknown method.
    """
    visualizer = SaliencyVisualizer(default_cmap=None, default_alpha=0.9)
    if method == "heatmap":
        return visualizer.plot_saliency_heatmap(plt, attribution, title, **options)
    if method not in ("overlay", "top_k"):
        raise ValueError(f"method {method!r} is unknown; legal are 'overlay', 'heatmap', 'top_k'")
    draw = visualizer.plot_saliency_overlay if method == "overlay" else visualizer.plot_top_k_features
    return draw(plt, image, attribution, title=title, **options)
