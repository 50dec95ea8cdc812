"""Draws frontal chest films: what a film must show is decided elsewhere, the rest varies from film to film.

Shapes add up to a thickness of tissue, and the film darkens as X-rays do: brightness is 1 - exp(-thickness). The
patient's right is on the left of the film.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tools.mini_suite.drawing import Canvas, Floats, below, canvas, ellipse, reduced, soft, texture, tube

Side = Literal["right", "left"]
Zone = Literal["upper", "mid", "lower"]
Size = Literal["normal", "mild", "marked"]
Amount = Literal["small", "large"]
Device = Literal["tube", "port", "pacemaker"]

ZONES: tuple[Zone, ...] = ("upper", "mid", "lower")
SIDES: tuple[Side, ...] = ("right", "left")

_SIGN: dict[Side, float] = {"right": -1.0, "left": 1.0}
_ZONE_HEIGHT: dict[Zone, float] = {"upper": -0.42, "mid": -0.06, "lower": 0.30}
_HEART_HALF_WIDTH: dict[Size, float] = {"normal": 0.30, "mild": 0.41, "marked": 0.53}
_FLUID_LEVEL: dict[Amount, float] = {"small": 0.36, "large": 0.0}
_DRAWN_SIDE, _FACTOR = 208, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a film shows; an empty field shows nothing.

    Attributes:
        heart: Size of the heart.
        effusions: Amount of fluid by side.
        consolidation: Side and zone of a dense, ragged patch.
        nodule: Side and zone of a round spot.
        pneumothorax: Side of a collapsed lung.
        device: A tube in the trachea, a port on the right or a pacemaker on the left.
    """

    heart: Size = "normal"
    effusions: tuple[tuple[Side, Amount], ...] = ()
    consolidation: tuple[Side, Zone] | None = None
    nodule: tuple[Side, Zone] | None = None
    pneumothorax: Side | None = None
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class _Chest:
    """One body: where its lungs end, and the source of what else varies."""

    on: Canvas
    random: np.random.Generator
    width: float
    domes: dict[Side, float]

    def lung(self, side: Side, *, scale: float = 1.0) -> Floats:
        """Return the air of one lung above its dome."""
        sign = _SIGN[side]
        centre = (sign * 0.43 * self.width, 0.02)
        shape = ellipse(self.on, centre, (0.335 * self.width * scale, 0.84 * scale), power=2.5, softness=0.03)
        dome = self.domes[side] + 1.1 * (self.on.x - sign * 0.40 * self.width) ** 2
        return np.asarray(shape * (1.0 - below(self.on, dome, softness=0.015)))

    def place(self, side: Side, zone: Zone) -> tuple[float, float]:
        """Return a place in a zone of a lung, away from heart and edge."""
        inward = 0.36 if zone == "upper" else 0.47
        x = _SIGN[side] * (inward * self.width + self.random.uniform(-0.05, 0.06))
        return float(x), float(_ZONE_HEIGHT[zone] + self.random.uniform(-0.06, 0.06))


def draw_chest(findings: Findings, random: np.random.Generator) -> NDArray[np.float64]:
    """Return a film of 104 x 104 pixels, brightness between 0 and 1, [height, width].

    Args:
        findings: What the film must show.
        random: Source of everything else: build, breath, exposure, tilt and noise.
    """
    on = _tilted(canvas(_DRAWN_SIDE), random)
    breath = random.uniform(0.50, 0.62)
    domes: dict[Side, float] = {"right": breath - 0.05, "left": breath}
    chest = _Chest(on, random, random.uniform(0.92, 1.06), domes)
    thickness = _body(chest) + _bones(chest) + _middle(chest, findings.heart)
    for side in SIDES:
        thickness += _lung(chest, side, collapsed=findings.pneumothorax == side)
    thickness += _lesions(chest, findings)
    if findings.device is not None:
        thickness += _device(chest, findings.device)
    return _film(thickness, random)


def _tilted(on: Canvas, random: np.random.Generator) -> Canvas:
    angle, zoom = np.deg2rad(random.uniform(-4.0, 4.0)), random.uniform(0.96, 1.10)
    dx, dy = random.uniform(-0.05, 0.05, 2)
    x = zoom * (np.cos(angle) * on.x - np.sin(angle) * on.y) + dx
    y = zoom * (np.sin(angle) * on.x + np.cos(angle) * on.y) + dy
    return Canvas(x, y)


def _body(chest: _Chest) -> Floats:
    on, width = chest.on, chest.width
    trunk = ellipse(on, (0.0, 0.42), (0.93 * width, 1.28), power=3.2, softness=0.05)
    shoulders = ellipse(on, (0.0, -0.56), (1.12 * width, 0.32), power=2.6, softness=0.06)
    neck = ellipse(on, (0.0, -1.0), (0.30, 0.42), softness=0.05)
    belly = np.maximum(
        below(on, chest.domes["right"] + 1.1 * (on.x + 0.40 * width) ** 2, softness=0.02) * (on.x < 0.0),
        below(on, chest.domes["left"] + 1.1 * (on.x - 0.40 * width) ** 2, softness=0.02) * (on.x >= 0.0),
    )
    bubble = ellipse(on, (0.42, chest.domes["left"] + 0.17), (0.15, 0.075), degrees=-8.0, softness=0.03)
    flesh = np.maximum(np.maximum(trunk, shoulders), neck)
    return np.asarray(0.60 * flesh + 0.50 * belly * trunk - 0.28 * bubble * chest.random.uniform(0.3, 1.0))


def _bones(chest: _Chest) -> Floats:
    on, width = chest.on, chest.width
    spine = soft(0.085 - np.abs(on.x), 0.02) * (0.9 + 0.1 * np.cos(on.y * 34.0))
    total = 0.22 * spine
    for side in SIDES:
        sign = _SIGN[side] * width
        for level in np.arange(-0.74, 0.42, 0.145):
            back = [(sign * 0.10, level), (sign * 0.42, level - 0.03), (sign * 0.70, level + 0.13)]
            front = [(sign * 0.72, level + 0.16), (sign * 0.58, level + 0.32), (sign * 0.34, level + 0.42)]
            total = total + 0.12 * tube(on, back, 0.026) + 0.05 * tube(on, front, (0.030, 0.020))
        collar = [(sign * 0.09, -0.62), (sign * 0.36, -0.70), (sign * 0.78, -0.80)]
        total = total + 0.20 * tube(on, collar, 0.036)
    return np.asarray(total)


def _middle(chest: _Chest, size: Size) -> Floats:
    on, random = chest.on, chest.random
    half = (_HEART_HALF_WIDTH[size] + random.uniform(-0.02, 0.02)) * chest.width
    floor = chest.domes["left"]
    centre = (0.06 + 0.16 * half, floor - 0.20 - 0.10 * half)
    heart = ellipse(on, centre, (half * 1.04, 0.25 + 0.22 * half), degrees=24.0, softness=0.02, power=2.2)
    upper = ellipse(on, (0.0, -0.28), (0.155, 0.62), softness=0.03)
    knob = ellipse(on, (0.145, -0.30), (0.085, 0.10), softness=0.02)
    shadow = np.maximum(np.maximum(heart, upper), knob)
    windpipe = tube(on, [(0.0, -1.1), (0.005, -0.55), (0.01, -0.24)], 0.042)
    return np.asarray(0.52 * shadow - 0.24 * windpipe)


def _lung(chest: _Chest, side: Side, *, collapsed: bool) -> Floats:
    """Return the (negative) thickness of the air of one lung with its vessels."""
    on, sign, random = chest.on, _SIGN[side], chest.random
    air = chest.lung(side)
    hilum = (sign * 0.20, -0.04)
    vessels = 0.11 * ellipse(on, hilum, (0.075, 0.13), softness=0.06)
    for angle in np.linspace(-1.15, 1.2, 7) + random.normal(0.0, 0.08, 7):
        reach = random.uniform(0.32, 0.50)
        tip = (hilum[0] + sign * reach * np.cos(angle), hilum[1] + 1.15 * reach * np.sin(angle))
        bend = ((hilum[0] + tip[0]) / 2, (hilum[1] + tip[1]) / 2 + random.normal(0.0, 0.03))
        vessels = np.maximum(vessels, 0.09 * tube(on, [hilum, bend, tip], (0.022, 0.006)))
    grain = 0.018 * texture(on, random, cells=26)
    if not collapsed:
        return np.asarray(air * (vessels + grain - 0.46))
    # A collapsed lung: it shrinks towards the hilum, a thin line marks its edge, and nothing is drawn outside of it.
    edge = ellipse(on, (sign * 0.28, 0.06), (0.27, 0.60), power=2.3, softness=0.012)
    rim = edge * (1.0 - ellipse(on, (sign * 0.28, 0.06), (0.252, 0.58), power=2.3, softness=0.012))
    shrunk = edge * (vessels + grain - 0.34)
    return np.asarray(air * (shrunk + 0.20 * rim - 0.56 * (1.0 - edge)))


def _lesions(chest: _Chest, findings: Findings) -> Floats:
    on, random = chest.on, chest.random
    total = np.zeros(on.shape)
    for side, amount in findings.effusions:
        level = _FLUID_LEVEL[amount] + random.uniform(-0.05, 0.05)
        outward = np.clip(np.abs(on.x) / chest.width - 0.15, 0.0, 0.65)
        meniscus = level + (0.16 if amount == "small" else 0.08) - 0.34 * outward**2 / 0.4
        total += 0.46 * chest.lung(side) * below(on, meniscus, softness=0.04)
    if findings.consolidation is not None:
        side, zone = findings.consolidation
        ragged = 1.0 + 0.30 * texture(on, random, cells=9)
        patch = ellipse(on, chest.place(side, zone), tuple(random.uniform(0.17, 0.24, 2)), softness=0.13)
        total += 0.44 * chest.lung(side) * np.clip(patch * ragged, 0.0, 1.2)
    if findings.nodule is not None:
        side, zone = findings.nodule
        radius = random.uniform(0.055, 0.085)
        total += 0.42 * ellipse(on, chest.place(side, zone), (radius, radius * 0.95), softness=0.018)
    return total


def _device(chest: _Chest, device: Device) -> Floats:
    on, random = chest.on, chest.random
    if device == "tube":
        end = random.uniform(-0.44, -0.36)
        wall = [tube(on, [(x, -1.1), (x, -0.7), (x, end)], 0.012) for x in (-0.026, 0.030)]
        return np.asarray(0.75 * np.maximum(*wall))
    if device == "port":
        disc = (-0.52, -0.34 + random.uniform(-0.04, 0.04))
        line = [disc, (-0.44, -0.66), (-0.20, -0.72), (-0.13, -0.40), (-0.11, -0.05)]
        ring = ellipse(on, disc, (0.065, 0.065)) - 0.6 * ellipse(on, disc, (0.035, 0.035))
        return np.asarray(np.maximum(0.9 * ring, 0.7 * tube(on, line, 0.011)))
    box = (0.55, -0.50 + random.uniform(-0.04, 0.04))
    lead = [box, (0.34, -0.68), (0.02, -0.50), (-0.10, -0.05), (0.02, 0.26), (0.20, 0.40)]
    case = ellipse(on, box, (0.13, 0.105), power=3.5, softness=0.015)
    return np.asarray(np.maximum(1.5 * case, 0.8 * tube(on, lead, 0.011)))


def _film(thickness: Floats, random: np.random.Generator) -> Floats:
    exposure, contrast = random.uniform(1.25, 1.55), random.uniform(0.9, 1.2)
    bright = 1.0 - np.exp(-exposure * np.clip(thickness, 0.0, None))
    small = reduced(bright**contrast, _FACTOR)
    return np.asarray(np.clip(small * random.uniform(0.95, 1.08) + random.normal(0.0, 0.006, small.shape), 0.0, 1.0))
