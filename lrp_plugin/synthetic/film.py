"""Where each pixel of a film looks through the body, and how a film turns attenuation into grey values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]

# Shadows without sharp edges are drawn on this many points a side and enlarged: a quarter of the work at
# 128 pixels.
_COARSE = 64
_TONES = 2048  # Steps of the film curve; grain is ten times as coarse.
_GRAIN_SIDE = 1024  # Side of the sheet of noise that grain is cut from.


@dataclass(frozen=True)
class Exposure:
    """How the film was taken: pose of the patient and the X-ray set's settings.

    Attributes:
        turn: in-plane rotation, radians.
        zoom: picture widths per body width.
        shift: offset of the body, x and y, in half pictures.
        low, high: attenuations shown black and white.
        gamma: exponent of the film's response.
        grain: standard deviation of the noise, in units of the picture's range [0, 1].
        tilt: brightness slope across and down the film.
    """

    turn: float
    zoom: float
    shift: tuple[float, float]
    low: float
    high: float
    gamma: float
    grain: float
    tilt: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Exposure:
        """Draw one film from ``rng``."""
        u = rng.uniform(-1.0, 1.0, 9).tolist()
        return cls(
            turn=math.radians(5.0) * u[0],
            zoom=1.0 + 0.06 * u[1],
            shift=(0.04 * u[2], 0.04 * u[3]),
            low=0.06 + 0.05 * u[4],
            high=1.32 + 0.12 * u[5],
            gamma=1.0 + 0.2 * u[6],
            grain=0.018 + 0.008 * u[7],
            tilt=(0.04 * u[8], 0.03 * u[6]),
        )

    def body_coordinates(self, size: int) -> tuple[Field, Field]:
        """Body coordinates x and y of the pixels, each ``(size, size)``."""
        across, down = _pixel_centres(size)
        cos, sin = math.cos(self.turn) / self.zoom, math.sin(self.turn) / self.zoom
        across, down = across - np.float32(self.shift[0]), down - np.float32(self.shift[1])
        return (np.float32(cos) * across + np.float32(sin) * down, np.float32(cos) * down - np.float32(sin) * across)

    def window(self, x: float, y: float, reach: float, size: int) -> tuple[slice, slice]:
        """Rows and columns of the pixels within ``reach`` (body units) of the body point ``(x, y)``."""
        cos, sin = math.cos(self.turn) * self.zoom, math.sin(self.turn) * self.zoom
        column = (cos * x - sin * y + self.shift[0] + 1.0) * size / 2.0
        row = (cos * y + sin * x + self.shift[1] + 1.0) * size / 2.0
        far = reach * self.zoom * size / 2.0 + 1.0
        return tuple(
            slice(min(size, max(0, int(at - far))), min(size, max(0, int(at + far) + 1))) for at in (row, column)
        )  # type: ignore[return-value]

    def develop(self, attenuation: Field, rng: np.random.Generator) -> Field:
        """Turn attenuation ``(H, H)`` into grey values in [0, 1]: window, film curve, uneven field, grain."""
        size = attenuation.shape[0]
        across, down = _pixel_centres(size)
        scale = _TONES / (2.0 * (self.high - self.low))
        step = np.minimum(np.maximum((attenuation - self.low) * scale, 0.0), _TONES - 1.0).astype(np.intp)
        curve = np.linspace(0.0, 2.0, _TONES, dtype=np.float32) ** np.float32(self.gamma)
        tone = (1.12 * (1.0 - np.exp(-1.9 * curve))).take(step)
        tone += self.tilt[0] * across + self.tilt[1] * down
        tone += self.grain * _cut_grain(rng, size)
        return np.minimum(np.maximum(tone, 0.0), 1.0)


@dataclass(frozen=True)
class Grid:
    """The body coordinates a picture is drawn on: every pixel, and a coarse grid for soft shadows.

    Attributes:
        exposure: the pose.
        size: side of the picture, pixels.
        x, y: body coordinates of the pixels, ``(size, size)``.
        coarse_x, coarse_y: body coordinates of the coarse grid.
    """

    exposure: Exposure
    size: int
    x: Field
    y: Field
    coarse_x: Field
    coarse_y: Field

    @classmethod
    def lay(cls, exposure: Exposure, size: int) -> Grid:
        """Lay the grid of a film."""
        return cls(exposure, size, *exposure.body_coordinates(size), *exposure.body_coordinates(_COARSE))

    def enlarge(self, field: Field) -> Field:
        """Bring a field of the coarse grid to the pixels, linearly."""
        return _sandwich(_enlarger(self.size), field)


@lru_cache(maxsize=16)
def _pixel_centres(size: int) -> tuple[Field, Field]:
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    return centres[None, :], centres[:, None]


@lru_cache(maxsize=8)
def _enlarger(size: int) -> Field:
    """Weights ``(size, coarse)`` of linear interpolation between the coarse grid's pixel centres."""
    at = np.clip((np.arange(size) + 0.5) * (_COARSE / size) - 0.5, 0.0, _COARSE - 1.0)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(_COARSE)[None, :])).astype(np.float32)


@lru_cache(maxsize=16)
def _spline(knots: int, size: int) -> Field:
    """Weights ``(size, knots)`` of smooth interpolation between ``knots`` values, rows of unit length."""
    at = np.linspace(0.0, knots - 1.0, size)[:, None]
    weights = np.exp(-1.2 * (at - np.arange(knots)[None, :]) ** 2)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def smooth_noise(rng: np.random.Generator, knots: int, size: int) -> Field:
    """Noise ``(size, size)`` of unit variance with ``knots`` independent values a side."""
    return _sandwich(_spline(knots, size), rng.standard_normal((knots, knots), np.float32))


def _sandwich(weights: Field, field: Field) -> Field:
    """``weights @ field @ weights.T`` in pieces so small that OpenBLAS stays in this thread.

    Above 2^18 multiplications it starts others and waits for them: that made a picture ten times as dear where cores are busy.
    """
    return _product(_product(weights, field), weights.T)


def _product(left: Field, right: Field) -> Field:
    rows = max(1, 2**17 // right.size)
    return np.concatenate([left[start : start + rows] @ right for start in range(0, len(left), rows)])


@lru_cache(maxsize=1)
def _grain_sheet() -> Field:
    return np.random.default_rng(0).standard_normal((_GRAIN_SIDE, _GRAIN_SIDE), np.float32)


def _cut_grain(rng: np.random.Generator, size: int) -> Field:
    """White noise ``(size, size)``, cut from one sheet: a tenth of the cost of drawing it anew."""
    if size > _GRAIN_SIDE // 2:
        return rng.standard_normal((size, size), np.float32)
    row, column = (int(u * (_GRAIN_SIDE - size)) for u in rng.uniform(size=2))
    return _grain_sheet()[row : row + size, column : column + size]
