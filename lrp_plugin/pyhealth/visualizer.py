"""PyHealth's `SaliencyVisualizer`: its method names over the plots of `lrp_plugin.visualization`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from lrp_plugin.errors import told
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
from lrp_plugin.visualization.grids import comparison_layout
from lrp_plugin.visualization.style import NEGATIVE, PAGE, POSITIVE


class SaliencyVisualizer:
    """Pictures of saliency and relevance; a Figure comes back from every plot.

    Images and maps as `lrp_plugin.visualization` takes them. Unlike PyHealth's: channels are summed with their sign, maps
    are resized to the image, zero is white.

    Every plot takes ``plt`` first (``matplotlib.pyplot``, or None for a figure pyplot does not know), ``title`` and, by
    name, ``cmap`` and ``alpha`` (instead of the defaults), ``normalize`` (label the colours -1 to 1, the default; False: in
    the map's unit), ``ax`` (where to draw; None makes a figure), ``show`` (call ``plt.show()``; None: where the figure is
    new), ``save_path`` (300 dpi, written atomically), and, but for the distribution, the keywords of
    `lrp_plugin.visualization.Look` (``mean``, ``std``, ``percentile``, ``limit``, ...).

    Args:
        default_cmap: A diverging colour map whose middle is white is used for every map. Any other, such as ``"hot"``,
            cannot show a sign: it colours maps without negative values, signed ones get blue, white and red. ValueError
            where matplotlib knows none of that name.
        default_alpha: Opacity of the greatest value over an image, 0 to 1.
        figure_size: Width and height on screen, in hundreds of pixels (PyHealth's inches); a comparison's is by its panels.
    """

    @checked
    def __init__(
        self, default_cmap: str | None = "hot", default_alpha: float = 0.3, figure_size: tuple[float, float] = (15, 7)
    ) -> None:
        if default_cmap is not None and default_cmap not in matplotlib.colormaps:
            raise ValueError(f"default_cmap {told(default_cmap)} is unknown; legal are matplotlib's, e.g. 'seismic'")
        self.default_cmap, self.default_alpha, self.figure_size = default_cmap, default_alpha, figure_size

    def plot_saliency_overlay(
        self, plt: Any, image: ArrayLike, saliency: ArrayLike, title: str | None = None, **options: Any
    ) -> Figure:
        """A map over its image. Arguments: see the class."""
        return self._drawn(plt, partial(plot_overlay, image, saliency), [saliency], title=title, **options)

    def plot_saliency_heatmap(self, plt: Any, saliency: ArrayLike, title: str | None = None, **options: Any) -> Figure:
        """A map alone. Arguments: see the class."""
        return self._drawn(plt, partial(plot_heatmap, saliency), [saliency], title=title, **options)

    def plot_multiple_attributions(
        self, plt: Any, image: ArrayLike, attributions: Mapping[str, ArrayLike],
        method_names: Sequence[str] | None = None, **options: Any,
    ) -> Figure:  # fmt: skip
        """The image first, then each method's map over it, with its total.

        Args:
            plt, image: See the class; ``ax`` is one made by ``subplots``.
            attributions: Method's name to map.
            method_names: Which of them, in this order; None: all. ValueError for one that has no map.
            **options: See the class, and `lrp_plugin.visualization.plot_comparison` (``logit``, ``totals``, ``overlay``,
                ``columns``, ``mask``). ``normalize`` gives each map its own scale; False gives all one.
        """
        names = list(attributions if method_names is None else method_names)
        unknown = [name for name in names if name not in attributions]
        if unknown:
            raise ValueError(f"method_names {', '.join(unknown)} have no map; given are {', '.join(attributions)}")
        maps = {name: attributions[name] for name in names}
        told = {name: options[name] for name in ("columns", "title", "signless") if name in options}
        size = PAGE, comparison_layout(maps, display_image(image).shape[:2], **told)[-1]  # type: ignore[arg-type]
        return self._drawn(plt, partial(plot_comparison, image, maps), list(maps.values()), size, **options)

    def plot_attribution_distribution(
        self, plt: Any, attributions: ArrayLike | Mapping[str, ArrayLike], title: str | None = None, bins: int = 50,
        **options: Any,
    ) -> Figure:  # fmt: skip
        """How the values of a map, or of several by name, are distributed; of an even number of bins two meet at zero."""
        return self._drawn(plt, partial(plot_distribution, attributions, bins=bins), title=title, **options)

    def plot_top_k_features(
        self, plt: Any, image: ArrayLike, attributions: ArrayLike, k: int = 10, title: str | None = None, **options: Any
    ) -> Figure:
        """The map over its image with the ``k`` pixels of greatest magnitude ringed, red for the class, blue against it.

        For regions instead of pixels: `lrp_plugin.visualization.plot_top_regions`. ValueError for more than there are, or 0.
        """
        values = relevance_map(attributions, display_image(image).shape[:2])  # type: ignore[arg-type]
        if not 1 <= k <= values.size:
            raise ValueError(f"k is {told(k)}; legal are 1 to {values.size}, the number of pixels")

        def draw(ax: Axes, **look: Any) -> Figure:
            order = np.argsort(-np.abs(values), axis=None, kind="stable")[:k]
            rows, columns = np.unravel_index(order, values.shape)
            edges = [POSITIVE if values[row, column] >= 0 else NEGATIVE for row, column in zip(rows, columns)]
            ax.scatter(columns, rows, s=26, facecolors="none", edgecolors=edges, linewidths=1.1, zorder=3)
            return plot_overlay(image, attributions, ax=ax, **look)

        return self._drawn(plt, draw, [attributions], title=title, **options)

    def _drawn(
        self, plt: Any, draw: Callable[..., Figure], maps: Sequence[ArrayLike] = (),
        size: tuple[float, float] | None = None, *, ax: Axes | None = None, show: bool | None = None, **options: Any,
    ) -> Figure:  # fmt: skip
        """The figure of a plot that takes ``ax`` and these options; the defaults where they say nothing of the maps."""
        if plt is not None and not callable(getattr(plt, "figure", None)):
            raise TypeError(
                f"plt is a {type(plt).__name__}; legal are matplotlib.pyplot, and None for a figure outside it"
            )
        if maps:
            alpha, colours = options.pop("alpha", None), self._colours(options.pop("cmap", None), maps)
            options = {"normalize": True, **options, "cmap": colours}
            options["alpha"] = self.default_alpha if alpha is None else alpha
        figure = draw(ax=self._new_axes(plt, size) if ax is None else ax, **options)
        if plt is not None and (ax is None if show is None else show):
            plt.show()
        return figure

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
        return ListedColormap(np.concatenate([np.ones((128, 4)), chosen(np.linspace(0, 1, 129))]))

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
    plt: Any, image: ArrayLike, attribution: ArrayLike, title: str | None = None, method: str = "overlay", **options: Any
) -> Figure:  # fmt: skip
    """One picture in one call: the image's map as ``"overlay"``, ``"heatmap"`` or ``"top_k"``.

    The other arguments are those of the `SaliencyVisualizer` method; ValueError for another ``method``.
    """
    visualizer = SaliencyVisualizer(default_cmap=None, default_alpha=0.9)
    if method == "heatmap":
        return visualizer.plot_saliency_heatmap(plt, attribution, title, **options)
    if method not in ("overlay", "top_k"):
        raise ValueError(f"method {told(method)} is unknown; legal are 'overlay', 'heatmap', 'top_k'")
    draw = visualizer.plot_saliency_overlay if method == "overlay" else visualizer.plot_top_k_features
    return draw(plt, image, attribution, title=title, **options)
