"""The thorax of a procedural radiograph, drawn as a map of X-ray attenuation.

Everything is a formula in *body coordinates* ``x, y``: the midline is ``x = 0``, the image spans about [-1, 1] both ways,
``y`` grows downwards, and negative ``x`` (left in the picture) is the patient's right, as on a PA film. A picture of any
size is a sampling of the same formulas, so the size changes the resolution and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrp_plugin.synthetic.film import Field, Grid


@dataclass(frozen=True)
class Anatomy:
    """What differs between two people, in body coordinates (a quarter of the picture is 0.5).

    Attributes:
        apex: ``y`` of the top of the lungs.
        lung_width: distance from the mediastinum to the chest wall.
        domes: ``y`` of the tops of the right and left diaphragm.
        heart: centre x, centre y, half width and half height of the heart's shadow.
        ribs: spacing of the ribs, their phase, and their slope.
        spine_bend: sideways bend of the spine.
        clavicle: slope of the collar bones.
        tissue: thickness of the soft tissue, 1 for the average body.
        breast: strength of the breast shadows.
        vessels: phases of the vessel pattern.
    """

    apex: float
    lung_width: float
    domes: tuple[float, float]
    heart: tuple[float, float, float, float]
    ribs: tuple[float, float, float]
    spine_bend: float
    clavicle: float
    tissue: float
    breast: float
    vessels: tuple[float, float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """Draw one person from ``rng``."""
        u = rng.uniform(-1.0, 1.0, 18).tolist()
        dome = 0.52 + 0.05 * u[2]
        return cls(
            apex=-0.76 + 0.04 * u[0],
            lung_width=0.60 + 0.04 * u[1],
            domes=(dome, dome + 0.06 + 0.03 * u[3]),
            heart=(0.13 + 0.03 * u[4], 0.30 + 0.04 * u[5], 0.33 + 0.05 * u[6], 0.33 + 0.03 * u[7]),
            ribs=(0.150 + 0.012 * u[8], 0.5 * u[9], 0.55 + 0.1 * u[10]),
            spine_bend=0.02 * u[11],
            clavicle=0.20 + 0.10 * u[12],
            tissue=1.0 + 0.15 * u[13],
            breast=max(0.0, 0.10 * u[14]),
            vessels=(3.0 * u[15], 3.0 * u[16], 3.0 * u[17], 2.0 * u[9]),
        )

    def lateral(self, y: float) -> float:
        """Distance of the lung's outer edge from the midline at height ``y``, for placing an opacity."""
        return float(_lateral(np.asarray([y], np.float32), self)[0])


@dataclass(frozen=True)
class Thorax:
    """The drawn thorax, every field ``(H, W)``.

    Attributes:
        grid: what it is drawn on.
        attenuation: attenuation along the ray, about 0 (air) to 1.4 (spine behind the heart).
        lungs: how much lung lies in the ray, 0 to 1, the heart's shadow left out; a mask is this above 0.5.
    """

    grid: Grid
    attenuation: Field
    lungs: Field


def smooth_step(t: Field) -> Field:
    """0 below 0, 1 above 1, and the cubic ``3 t^2 - 2 t^3`` between."""
    # Half the time of np.clip on fields this small; in place from the second line on.
    t = np.maximum(t, np.float32(0.0))
    np.minimum(t, np.float32(1.0), out=t)
    rise = t * np.float32(-2.0)
    rise += np.float32(3.0)
    rise *= t
    rise *= t
    return rise


def draw_thorax(grid: Grid, anatomy: Anatomy) -> Thorax:
    """Draw the thorax of ``anatomy`` on ``grid``."""
    heart = _heart(grid.coarse_x, grid.coarse_y, anatomy)
    soft = grid.enlarge(_soft_shadows(grid.coarse_x, grid.coarse_y, anatomy) + 0.30 * heart)
    side = np.abs(grid.x)
    air, cage = _lungs_and_cage(grid.x, grid.y, side, anatomy)
    attenuation = soft - 0.44 * air
    attenuation += _ribs(side, grid.y, cage, anatomy)
    attenuation += _clavicles(side, grid.y, anatomy)
    attenuation += _vessels(grid.x, grid.y, side, air, anatomy)
    return Thorax(grid, attenuation, air * (1.0 - _around_heart(grid.enlarge(heart), grid.x, anatomy)))


def _around_heart(heart: Field, x: Field, anatomy: Anatomy) -> Field:
    """The heart's shadow with what lies between it and the midline, or under its inner part: slivers of air, no lung."""
    centre, _, half_width, _ = anatomy.heart
    left = np.maximum.accumulate(heart[:, ::-1], axis=1)[:, ::-1]
    shadow = np.where(x > 0, left, np.maximum.accumulate(heart, axis=1))
    return np.where(x < centre + 0.6 * half_width, np.maximum.accumulate(shadow, axis=0), shadow)


def _lateral(y: Field, anatomy: Anatomy) -> Field:
    rise = np.clip((0.22 - y) / (0.22 - anatomy.apex), 0.0, 1.0)
    rise *= rise
    return 0.12 + anatomy.lung_width * np.sqrt(np.clip(1.0 - rise * (0.45 + 0.55 * rise), 0.0, 1.0))


def _lungs_and_cage(x: Field, y: Field, side: Field, anatomy: Anatomy) -> tuple[Field, Field]:
    outer = _lateral(y, anatomy)
    right_dome, left_dome = anatomy.domes
    dome = np.where(x < 0, np.float32(right_dome), np.float32(left_dome))
    off_top = (side - 0.36) * 2.6
    floor = dome + 0.17 * off_top * off_top
    inside = np.minimum(np.minimum(outer - side, side - 0.105), np.minimum(floor, 0.80) - y)
    inside = np.minimum(inside, y - anatomy.apex - 0.01)
    lungs = smooth_step(0.5 + inside * 22.0)
    cage = smooth_step((outer + 0.05 - side) * 14.0) * smooth_step((0.78 - y) * 6.0)
    cage *= smooth_step((y - anatomy.apex + 0.08) * 8.0)
    return lungs, cage


def _body(side: Field, y: Field) -> Field:
    half_width = 0.27 + 0.95 * smooth_step((y + 1.02) * 2.6) - 0.28 * smooth_step((y + 0.5) * 2.5)
    return smooth_step(0.5 + (half_width - side) * 6.0)


def _heart(x: Field, y: Field, anatomy: Anatomy) -> Field:
    centre_x, centre_y, half_width, half_height = anatomy.heart
    # The apex of the heart points down and to the patient's left: the ellipse leans.
    lean = x - centre_x - 0.30 * (y - centre_y)
    square = np.square(lean / half_width) + np.square((y - centre_y) / half_height)
    return smooth_step(0.5 + (1.0 - square) * 3.2)


def _mediastinum(x: Field, y: Field, side: Field, anatomy: Anatomy) -> Field:
    width = 0.11 + 0.05 * smooth_step((y + 0.3) * 2.0)
    column = smooth_step(0.5 + (width - side) * 7.0) * smooth_step((y + 0.95) * 2.0)
    knob = smooth_step(1.2 - (np.square(x - 0.13) + np.square(y + 0.24)) * 90.0)
    windpipe = smooth_step(1.3 - np.abs(x - anatomy.spine_bend) * 22.0) * smooth_step((-0.12 - y) * 6.0)
    return 0.17 * column + 0.12 * knob - 0.12 * windpipe


def _tube(phase: Field, share: float) -> Field:
    """A bone seen from the side at every whole ``phase``: a cylinder with bright cortical edges."""
    depth = (np.cos(phase * np.float32(2.0 * np.pi)) - (1.0 - share)) / share
    depth = np.minimum(np.maximum(depth, 0.0), 1.0)
    return np.sqrt(depth) * (1.25 - 0.5 * depth)


def _ribs(side: Field, y: Field, cage: Field, anatomy: Anatomy) -> Field:
    spacing, phase, slope = anatomy.ribs
    behind = y - side * (slope * 1.5 * side - 0.42)
    front = y + slope * side - 0.5 * side * side
    posterior = _tube(behind / spacing + phase, 0.85) * smooth_step((side - 0.02) * 12.0)
    anterior = _tube(front / spacing + phase + 0.3, 0.7) * smooth_step((side - 0.24) * 5.0)
    return cage * (0.10 * posterior + 0.06 * anterior)


def _spine(x: Field, y: Field, anatomy: Anatomy) -> Field:
    away = np.abs(x - anatomy.spine_bend * np.sin(3.0 * y))
    column = smooth_step(0.5 + (0.085 - away) * 9.0)
    vertebrae = _tube(y / np.float32(anatomy.ribs[0] * 0.95) + anatomy.ribs[1], 1.5)
    return column * (0.05 + 0.07 * vertebrae)


def _clavicles(side: Field, y: Field, anatomy: Anatomy) -> Field:
    middle = -0.53 - anatomy.clavicle * side + 0.05 * np.sin(7.0 * side)
    across = (y - middle) / (0.034 + 0.012 * np.abs(side - 0.35))
    depth = np.clip(1.0 - across * across, 0.0, 1.0)
    along = smooth_step((side - 0.05) * 25.0) * smooth_step((0.84 - side) * 10.0)
    return 0.17 * along * np.sqrt(depth) * (1.25 - 0.5 * depth)


def _vessels(x: Field, y: Field, side: Field, air: Field, anatomy: Anatomy) -> Field:
    """Vessels fan out from each hilum and fork: their angular frequency doubles half-way to the wall."""
    first, second, third, turn = anatomy.vessels
    seen = air > 0.01  # A third of the picture: the trigonometry below is the dearest part of a radiograph.
    across, down = side[seen] - 0.17, y[seen] + 0.03
    far = np.sqrt(across * across + down * down)
    flip = np.where(x[seen] < 0, np.float32(first), np.float32(second))
    angle = np.arctan2(down, across + 0.04) + 0.25 * np.sin(9.0 * far + third)
    stem, fork = _ridge(7.0 * angle + flip), _ridge(14.0 * angle + flip * turn)
    near = smooth_step(1.4 - far * 4.0)
    tree = np.exp(-4.5 * far) * smooth_step(far * 9.0 - 0.2) * (stem * near + fork * (1.0 - near))
    hilum = np.exp(-(across * across * 180.0 + down * down * 70.0))
    vessels = np.zeros_like(air)
    vessels[seen] = air[seen] * (0.30 * tree + 0.17 * hilum)
    return vessels


def _ridge(phase: Field) -> Field:
    crest = np.maximum(np.cos(phase), 0.0)
    crest *= crest
    return crest * crest


def _soft_shadows(x: Field, y: Field, anatomy: Anatomy) -> Field:
    """What has no sharp edge: body, belly, mediastinum, spine, shoulders, stomach bubble, breasts."""
    side = np.abs(x)
    body = _body(side, y)
    shadows = body * (0.62 * anatomy.tissue + 0.22 * smooth_step((y - 0.35) * 2.2))
    shadows += _mediastinum(x, y, side, anatomy) + _spine(x, y, anatomy)
    shoulder = smooth_step((side - 0.62) * 4.0) * smooth_step((-0.25 - y) * 4.0)
    edge = smooth_step(1.3 - np.abs(side - 0.78 - 0.25 * (y + 0.3)) * 12.0)
    blade = edge * smooth_step(1.4 - np.abs(y + 0.3) * 3.5)
    below = y - anatomy.domes[1] - 0.14
    bubble = smooth_step(1.3 - (np.square(x - 0.36) * 40.0 + np.square(below) * 130.0))
    shadows += 0.14 * shoulder + 0.07 * blade - 0.20 * bubble
    if anatomy.breast:
        fold = np.square((side - 0.45) / 0.36) + np.square((y - 0.25) / 0.38)
        shadows += anatomy.breast * smooth_step((1.0 - fold) * 3.0)
    return shadows
