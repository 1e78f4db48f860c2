"""How a map becomes colours: the options every map plot takes, and the drawing they decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, is_color_like

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import (
    Array,
    ArrayLike,
    display_image,
    pooled,
    region_mask,
    relevance_map,
    smoothed,
)
from lrp_plugin.visualization.style import (
    MAGNITUDE,
    MAGNITUDE_ON_IMAGE,
    RELEVANCE,
    RELEVANCE_ON_IMAGE,
    ColourScale,
    colour_bar,
    colour_scale,
    diverging,
)

CONTOUR_ON_IMAGE, CONTOUR_ON_WHITE = "#ffd60a", "#3a3f47"


class LookOptions(TypedDict, total=False):
    """The keywords of `Look`, for type checkers."""

    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    alpha: float
    fade: bool
    cmap: str | Colormap | None
    normalize: bool
    percentile: float
    limit: float | None
    unit: str
    smooth: float
    pool: int


@checked
@dataclass(frozen=True)
class Look:
    """The options every map plot takes as keywords.

    Attributes:
        mean: What the image's normalisation subtracted, a number or one for each channel; undone before it is
        shown.
        std: What it divided by.
        alpha: Over an image: the opacity of the last colour, 0 to 1.
        fade: Over an image: let the opacity grow with the magnitude, so that nothing covers the image where
            the relevance is 0. False gives every pixel the opacity `alpha` and zero the colour white.
        cmap: A diverging colour map, by name or as an object; zero meets its exact middle. None takes the
            package's: blue, exact white, red.
        normalize: Give each map its own scale and label it -1 to 1. False gives all maps of a figure one
            scale, labelled in `unit`.
        percentile: Which magnitude gets the last colour, in percent of the pixels. The few beyond it share
            that colour, which the colour bar's pointed ends tell; 100 clips nothing.
        limit: That magnitude itself, in `unit`, to give several figures one scale.
        unit: The map's unit, for the colour bar.
        smooth: Blur maps by a Gaussian of this standard deviation in pixels of the picture, for the eye only; the
            picture says so. 0 does not.
        pool: Show the mean of squares of so many pixels a side, for the eye only; the picture says so.

    Raises:
        ValueError: `alpha` is not in [0, 1], `smooth` is negative or `pool` below 1.
    """

    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    alpha: float = 0.9
    fade: bool = True
    cmap: str | Colormap | None = None
    normalize: bool = False
    percentile: float = 99.5
    limit: float | None = None
    unit: str = "logit"
    smooth: float = 0.0
    pool: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; give an opacity from 0 to 1")
        if self.smooth < 0 or self.pool < 1:
            raise ValueError(f"smooth is {self.smooth}, pool is {self.pool}; give 0 or more pixels, 1 or more")

    @classmethod
    def of(cls, options: LookOptions, **defaults: Any) -> Look:
        """The look of a plot's keywords.

        Raises:
            TypeError: A keyword is not one of the options.
        """
        legal = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in options if name not in legal]
        if unknown:
            raise TypeError(f"unknown option {', '.join(unknown)}; besides its own, a plot takes {', '.join(legal)}")
        return cls(**{**defaults, **options})

    def picture(self, image: ArrayLike) -> Array:
        """The image in [0, 1], its normalisation undone; see `display_image`."""
        return display_image(image, self.mean, self.std)

    def values(self, relevance: ArrayLike, size: tuple[int, int] | None = None) -> Array:
        """The map as it is shown: channels summed, resized, then pooled and smoothed where that is asked for."""
        return smoothed(pooled(relevance_map(relevance, size), self.pool), self.smooth)

    @property
    def changed(self) -> str:
        """What was done for display only, as the picture says it; empty where nothing was."""
        done = [f"mean of {self.pool} x {self.pool} pixels"] if self.pool > 1 else []
        done += [f"smoothed by {self.smooth:g} pixel{'s' * (self.smooth != 1)}"] if self.smooth else []
        return f"{', '.join(done)}, for display only" if done else ""

    def note(self, panel: Axes) -> None:
        """Says below the panel what was done for display only."""
        if self.changed:
            panel.text(0, -0.03, self.changed, transform=panel.transAxes, va="top", fontsize=7)

    def scales(self, maps: Sequence[Array]) -> list[ColourScale]:
        """Each map's scale: its own where maps are normalised, else one for all."""
        groups = [[values] for values in maps] if self.normalize else [maps] * len(maps)
        return [
            colour_scale(group, limit=self.limit, percentile=self.percentile, unit=self.unit, normalize=self.normalize)
            for group in groups
        ]

    def magnitude(self, values: Array) -> ColourScale:
        """The scale of one map whose values have no sign, such as the size of a gradient."""
        (scale,) = dataclasses.replace(self, normalize=True).scales([values])
        return dataclasses.replace(
            scale, magnitude=True, label="\n".join(["size, without a sign", *scale.label.splitlines()[1:]])
        )

    def colours(self, over_image: bool, magnitude: bool = False) -> Colormap:
        """The colour map, over an image or on white, of values with a sign or without."""
        if magnitude:
            return MAGNITUDE_ON_IMAGE if over_image else MAGNITUDE
        return diverging(self.cmap, RELEVANCE_ON_IMAGE if over_image else RELEVANCE)

    def layer(self, values: Array, scale: ColourScale) -> Array:
        """What goes over the image: ``(H, W, 4)`` in [0, 1], for a map ``(H, W)``."""
        cmap = self.colours(True, scale.magnitude)
        if not self.fade:
            colours = cmap(scale.norm(values))
            colours[..., 3] = self.alpha
            return colours
        strength = np.abs(values / scale.limit).clip(0, 1)
        # The root gives small values their hue: pale colours at low opacity would only fog the image.
        colours = cmap(scale.norm(np.sign(values) * scale.limit * np.sqrt(strength)))
        colours[..., 3] = self.alpha * strength
        return colours

    def draw(self, panel: Axes, values: Array, scale: ColourScale, picture: Array | None = None) -> None:
        """Show a map ``(H, W)`` over its picture, or on white within a thin frame."""
        if picture is not None:
            draw_image(panel, picture)
            panel.imshow(self.layer(values, scale))
            return
        panel.imshow(values, cmap=self.colours(False, scale.magnitude), norm=scale.norm)
        panel.set_axis_on()
        panel.set(xticks=[], yticks=[])
        for spine in panel.spines.values():
            spine.set(visible=True, linewidth=0.4, color="#9aa3ad")

    def bar(self, panel: Axes, scales: Sequence[ColourScale], over_image: bool) -> None:
        """One colour bar beside the panel, for maps that share a scale or are each drawn on their own."""
        shared = dataclasses.replace(
            scales[0],
            signed=any(scale.signed for scale in scales),
            clipped=any(scale.clipped for scale in scales),
        )
        colour_bar(panel, shared, self.colours(over_image), normalize=self.normalize)

    def bar_below(self, panel: Axes, scale: ColourScale, over_image: bool) -> None:
        """A bar of its own under a panel whose values have no sign."""
        colour_bar(panel, scale, self.colours(over_image, scale.magnitude), normalize=True, below=True)


def draw_image(panel: Axes, picture: Array) -> None:
    """Show a picture in [0, 1], ``(H, W)`` or ``(H, W, 3)``, without ticks or frame."""
    panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
    panel.set_axis_off()


@checked
def draw_mask_contour(
    ax: Axes, mask: ArrayLike, size: tuple[int, int], *, color: str = CONTOUR_ON_IMAGE, linewidth: float = 0.8
) -> None:
    """Outline a region, the lungs for one, on a picture.

    Args:
        ax: Where the picture is.
        mask: ``(H, W)`` or ``(1, H, W)``, above 0 inside; resized to the picture. Nothing is drawn for an
        empty one.
        size: Height and width of the picture in pixels.
        color: Of the line.
        linewidth: In points.

    Raises:
        ValueError: The mask's shape, or the colour, is not legal.
    """
    if not is_color_like(color):
        raise ValueError(f"color={told(color)}: legal is a colour of matplotlib's, as 'red' or '#d04020'")
    inside = region_mask(mask, size)
    if not inside.any():
        return
    # A frame of zeros closes the outline of a region that touches the border.
    padded = np.pad(inside, 1).astype(float)
    columns, rows = np.arange(-1, size[1] + 1), np.arange(-1, size[0] + 1)
    ax.contour(columns, rows, padded, [0.5], colors=color, linewidths=linewidth)
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def shape_of(picture: Array) -> tuple[int, int]:
    """Height and width of a picture in pixels."""
    return picture.shape[0], picture.shape[1]
