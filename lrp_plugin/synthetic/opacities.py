"""What disease adds to a procedural radiograph, where it lies, and the text marker that may betray it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked
from lrp_plugin.synthetic.anatomy import Anatomy, Thorax, smooth_step
from lrp_plugin.synthetic.film import Field

#: The four classes of the COVID-19 Radiography Database, in label order (sorted by name).
CLASSES = ("COVID", "Lung Opacity", "Normal", "Viral Pneumonia")


@dataclass(frozen=True)
class Patch:
    """One elliptic opacity in body coordinates: centre, half axes, tilt (radians) and added attenuation."""

    x: float
    y: float
    half_width: float
    half_height: float
    tilt: float
    density: float


def place_patches(label: int, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Patch, ...]:
    """Choose the opacities of one picture of class ``label``: about 3 % of it, none for Normal.

    COVID: four hazy patches at the chest wall, two in each lung, middle and lower zones. Lung Opacity: one dense
    consolidation in one lung. Viral Pneumonia: streaks around both hila. ``rng`` yields equally many values for each class.
    """
    u = rng.uniform(-1.0, 1.0, 20).tolist()
    name = CLASSES[label]
    if name == "COVID":
        return tuple(
            _peripheral(side, level, anatomy, u[5 * k : 5 * k + 5])
            for k, (side, level) in enumerate([(-1, -0.08), (-1, 0.27), (1, -0.08), (1, 0.27)])
        )
    if name == "Lung Opacity":
        side = -1.0 if u[0] < 0 else 1.0
        level = -0.30 if u[1] < 0 else 0.16
        # The heart covers the inner part of the left lower zone.
        centre = 0.42 + (0.11 if side > 0 and level > 0 else 0.0)
        x, y, wider = side * (centre + 0.03 * u[2]), level + 0.05 * u[3], 0.02 * u[4]
        return (Patch(x, y, 0.185 + wider, 0.215 - wider, 0.3 * u[5], 0.36 + 0.06 * u[6]),)
    if name == "Viral Pneumonia":
        return tuple(
            Patch(side * (0.285 + 0.02 * a), -0.06 + 0.05 * b, 0.122, 0.177, side * 0.2 * c, 0.36 + 0.06 * d)
            for side, (a, b, c, d) in ((-1.0, u[:4]), (1.0, u[4:8]))
        )
    return ()


def _peripheral(side: int, level: float, anatomy: Anatomy, u: list[float]) -> Patch:
    y = level + 0.05 * u[0]
    half_width, half_height = 0.090 + 0.01 * u[1], 0.111 - 0.01 * u[1]
    x = side * (anatomy.lateral(y) - 0.115 + 0.02 * u[2])
    return Patch(x, y, half_width, half_height, 0.4 * side * u[3], 0.25 + 0.04 * u[4])


def draw_patches(
    label: int, patches: tuple[Patch, ...], thorax: Thorax, cloud: Field, net: Field, contrast: float
) -> tuple[Field, NDArray[np.bool_]]:
    """Draw the opacities.

    Args:
        label: index into :data:`CLASSES`; decides the texture.
        patches, thorax: where and how dense; an opacity lies in the drawn lungs.
        cloud: ``(H, W)`` smooth noise of unit scale that frays the edges and makes the patches lumpy.
        net: ``(H, W)`` finer noise of unit scale; its zero lines are the threads of an interstitial pattern.
        contrast: factor on every density.

    Returns:
        Added attenuation and evidence mask (pixels of a lung inside a patch's frayed ellipse), both ``(H, W)``.
    """
    grid = thorax.grid
    added = np.zeros_like(grid.x)
    evidence = np.zeros(grid.x.shape, bool)
    if not patches:
        return added, evidence
    for patch in patches:
        reach = 1.6 * max(patch.half_width, patch.half_height)
        near = grid.exposure.window(patch.x, patch.y, reach, grid.size)
        across, down = grid.x[near] - patch.x, grid.y[near] - patch.y
        cos, sin = math.cos(patch.tilt), math.sin(patch.tilt)
        square = np.square((across * cos + down * sin) / patch.half_width)
        square += np.square((down * cos - across * sin) / patch.half_height) + 0.22 * cloud[near]
        added[near] += contrast * patch.density * smooth_step((1.25 - square) * 1.1)
        evidence[near] |= square < 1.0
    added *= thorax.lungs * _texture(label, cloud, net)
    return added, evidence & (thorax.lungs > 0.5)


def _texture(label: int, cloud: Field, net: Field) -> Field:
    if CLASSES[label] == "Viral Pneumonia":
        return 1.35 - 1.15 * np.minimum(np.abs(net), 1.0)
    return 1.0 + (0.25 if CLASSES[label] == "COVID" else 0.12) * cloud


@checked
@dataclass(frozen=True)
class Shortcut:
    """A text marker at a known place whose presence goes with one class: a planted Clever-Hans feature.

    With base rate q and strength s, a picture of the marked class carries the marker with probability
    ``q + s (1 - q)``, any other with ``q (1 - s)``: at strength 1 the marker *is* the class, at 0 it says
    nothing.

    Attributes:
        label: name of the marked class.
        strength: in [0, 1].
        text: what the marker says.
        base_rate: share of marked pictures at strength 0.
    """

    label: str = "COVID"
    strength: float = 1.0
    text: str = "PORTABLE"
    base_rate: float = 0.25

    def __post_init__(self) -> None:
        if self.label not in CLASSES:
            raise ValueError(f"Shortcut(label={told(self.label)}): no such class; legal are {', '.join(CLASSES)}")
        for name in ("strength", "base_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Shortcut({name}={told(getattr(self, name))}): must lie in [0, 1]")
        if not self.text.strip():
            raise ValueError("Shortcut(text=...) is blank: give the marker at least one printable character")

    def probability(self, label: int) -> float:
        """Probability that a picture of class ``label`` carries the marker."""
        if CLASSES[label] == self.label:
            return self.base_rate + self.strength * (1.0 - self.base_rate)
        return self.base_rate * (1.0 - self.strength)


@lru_cache(maxsize=16)
def draw_marker(text: str, size: int) -> tuple[Field, NDArray[np.bool_]]:
    """Draw ``text``, white on a black label, for the upper left corner of a film of ``size`` pixels a side.

    The label lies on the film, not on the patient: its place does not move with the pose.

    Returns:
        Ink ``(size, size)`` in [0, 1] and the label's area ``(size, size)``, both read-only (they are shared).
    """
    font = ImageFont.load_default()
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    letters = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(letters).text((1 - left, 1 - top), text, fill=255, font=font)
    height = max(7, round(0.07 * size))
    width = min(round(height * letters.width / letters.height), round(0.36 * size))
    corner = max(1, round(0.03 * size))
    label = np.s_[corner : corner + height, corner : corner + width]
    ink, area = np.zeros((size, size), np.float32), np.zeros((size, size), bool)
    area[label] = True
    ink[label] = np.asarray(letters.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255.0
    ink.flags.writeable = area.flags.writeable = False
    return ink, area
