"""Soft shapes on a square canvas, from which the phantoms are made.

The canvas runs from -1 to 1 in both directions, x to the right and y downwards. A shape is an array [side, side] of
cover between 0 and 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, float]

_CURVE_STEPS = 7


@dataclass(frozen=True, slots=True)
class Canvas:
    """Pixel centres of a square canvas.

    Attributes:
        x: Horizontal place of each pixel, [side, side].
        y: Vertical place of each pixel, [side, side].
    """

    x: Floats
    y: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.x.shape[0]), int(self.x.shape[1])


@lru_cache(maxsize=4)
def canvas(side: int) -> Canvas:
    """Return the canvas of `side` times `side` pixels."""
    places = (np.arange(side) + 0.5) * 2.0 / side - 1.0
    x, y = np.meshgrid(places, places)
    return Canvas(x, y)


def soft(signed: Floats, softness: float) -> Floats:
    """Return the cover of a shape whose signed distance from the edge is given, positive inside."""
    return np.asarray(np.clip(0.5 + signed / (2.0 * softness), 0.0, 1.0))


def ellipse(
    on: Canvas, centre: Point, radii: Point, *, degrees: float = 0.0, softness: float = 0.02, power: float = 2.0
) -> Floats:
    """Return an ellipse, turned clockwise by `degrees`; a `power` above 2 makes it squarer."""
    angle = np.deg2rad(degrees)
    x, y = on.x - centre[0], on.y - centre[1]
    across = (np.cos(angle) * x + np.sin(angle) * y) / radii[0]
    along = (-np.sin(angle) * x + np.cos(angle) * y) / radii[1]
    distance = (np.abs(across) ** power + np.abs(along) ** power) ** (1.0 / power)
    return soft((1.0 - distance) * min(radii), softness)


def below(on: Canvas, level: Floats | float, *, softness: float = 0.02) -> Floats:
    """Return everything under the line `y = level`."""
    return soft(on.y - level, softness)


def curve(points: Sequence[Point]) -> NDArray[np.float64]:
    """Return points [n, 2] on a smooth curve through the corners (Catmull-Rom spline)."""
    corners = np.array([points[0], *points, points[-1]], dtype=np.float64)
    steps = (np.arange(_CURVE_STEPS) / _CURVE_STEPS)[:, None]
    pieces = []
    for before, start, end, after in zip(corners, corners[1:], corners[2:], corners[3:], strict=False):
        cubic = -before + 3 * start - 3 * end + after
        square = 2 * before - 5 * start + 4 * end - after
        pieces.append(0.5 * (2 * start + (end - before) * steps + square * steps**2 + cubic * steps**3))
    return np.concatenate([*pieces, corners[-1:]])


def tube(
    on: Canvas, points: Sequence[Point], radius: float | tuple[float, float], *, softness: float = 0.012
) -> Floats:
    """Return a tube along the curve through `points`; the radius may run from a first to a last value."""
    path = curve(points)
    first, last = radius if isinstance(radius, tuple) else (radius, radius)
    reach = max(first, last) + softness
    (left, top), (right, bottom) = path.min(axis=0) - reach, path.max(axis=0) + reach
    near = (on.x >= left) & (on.x <= right) & (on.y >= top) & (on.y <= bottom)
    x, y = on.x[near], on.y[near]
    best = np.full(x.shape, -reach)
    radii = np.linspace(first, last, len(path))
    for start, end, thickness in zip(path, path[1:], radii, strict=False):
        np.maximum(best, thickness - _segment_distance(x, y, start, end), out=best)
    cover = np.zeros(on.shape)
    cover[near] = soft(best, softness)
    return cover


def _segment_distance(x: Floats, y: Floats, start: Floats, end: Floats) -> Floats:
    dx, dy = end - start
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.asarray(np.hypot(x - start[0] - along * dx, y - start[1] - along * dy))


def polygon(on: Canvas, corners: Sequence[Point], *, softness: float = 0.015) -> Floats:
    """Return a convex polygon whose corners run clockwise as seen on the screen."""
    inside = np.full(on.shape, np.inf)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = float(np.hypot(x1 - x0, y1 - y0))
        side = ((x1 - x0) * (on.y - y0) - (y1 - y0) * (on.x - x0)) / length
        np.minimum(inside, side, out=inside)
    return soft(inside, softness)


def texture(on: Canvas, random: np.random.Generator, *, cells: int) -> Floats:
    """Return smooth noise of mean 0 and standard deviation of about 1, with `cells` bumps along a side."""
    coarse = random.normal(0.0, 1.0, (cells + 2, cells + 2))
    places = (np.arange(on.shape[0]) + 0.5) / on.shape[0] * cells
    left = np.floor(places).astype(int)
    share = places - left
    share = share * share * (3.0 - 2.0 * share)
    rows = coarse[left] * (1.0 - share)[:, None] + coarse[left + 1] * share[:, None]
    return np.asarray(1.4 * (rows[:, left] * (1.0 - share) + rows[:, left + 1] * share))


def reduced(values: Floats, factor: int) -> Floats:
    """Return the means of blocks of `factor` times `factor` pixels."""
    side = values.shape[0] // factor
    return np.asarray(values.reshape(side, factor, side, factor).mean(axis=(1, 3)))
