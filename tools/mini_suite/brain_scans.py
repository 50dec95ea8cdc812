"""Draws axial MR slices of the brain at the level of the ventricles; the patient's right is on the left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tools.mini_suite.drawing import Canvas, Floats, canvas, ellipse, reduced, soft, texture, tube
from tools.mini_suite.phantom import Drawn, Phantom, over, pick

_DRAWN_SIDE, _FACTOR = 208, 2
_BACKGROUND, _DARKEST_TISSUE = 0.05, 0.2
_CLEFT_FROM = 0.30
_SIGN = {"right": -1.0, "left": 1.0}
_LOBES = {"frontal": (0.30, -0.48), "parietal": (0.46, 0.16), "occipital": (0.26, 0.60)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """Brightness of tissues in one kind of MR picture."""

    name: str
    modality: str
    white: float
    grey: float
    fluid: float
    lesion: float


_SEQUENCES = (
    _Sequence(name="T1-weighted", modality="MR - T1W - noncontrast", white=0.66, grey=0.50, fluid=0.10, lesion=0.30),
    _Sequence(name="T2-weighted", modality="MR - T2 weighted", white=0.34, grey=0.50, fluid=0.96, lesion=0.88),
    _Sequence(name="FLAIR", modality="MR - FLAIR", white=0.36, grey=0.50, fluid=0.08, lesion=0.92),
)


def draw_brain(random: np.random.Generator) -> Phantom:
    """Return a slice of 104 x 104 pixels with at most one finding, its caption, modality and plane."""
    on, angle = canvas(_DRAWN_SIDE), np.deg2rad(random.uniform(-7.0, 7.0))
    zoom_x, zoom_y = random.uniform(0.95, 1.15, 2)
    x = zoom_x * (np.cos(angle) * on.x - np.sin(angle) * on.y) + random.uniform(-0.05, 0.05)
    y = zoom_y * (np.sin(angle) * on.x + np.cos(angle) * on.y) + random.uniform(-0.05, 0.05)
    on = Canvas(x, y)
    sequence, finding = pick(_SEQUENCES, random), pick(tuple(_FINDINGS), random)
    image = _normal(on, random, sequence, wide=2.1 if finding == "hydrocephalus" else random.uniform(0.85, 1.15))
    image, words, side = _FINDINGS[finding](on, image, random, sequence)
    image += 0.012 * texture(on, random, cells=40) * (image > _BACKGROUND)
    return Phantom(
        image=np.asarray(np.clip(reduced(image, _FACTOR) * random.uniform(0.93, 1.05), 0.0, 1.0)),
        caption=f"Axial {sequence.name} MR image of the brain {words}",
        modality=sequence.modality,
        plane="Axial",
        finding=finding,
        side=side,
    )


def _normal(on: Canvas, random: np.random.Generator, sequence: _Sequence, *, wide: float) -> Floats:
    scalp = ellipse(on, (0.0, 0.0), (0.80, 0.95), power=2.2)
    image = over(np.zeros(on.shape), 0.72, scalp)
    image = over(image, 0.06, ellipse(on, (0.0, 0.0), (0.755, 0.905), power=2.2))
    brain = ellipse(on, (0.0, 0.0), (0.70, 0.85), power=2.2)
    image = over(image, sequence.fluid, brain)
    rim = 0.045 + 0.035 * texture(on, random, cells=17)
    depth = 1.0 - (np.abs(on.x / 0.69) ** 2.2 + np.abs(on.y / 0.84) ** 2.2) ** (1.0 / 2.2)
    cleft = soft(0.012 - np.abs(on.x), 0.012) * (np.abs(on.y) > _CLEFT_FROM)
    image = over(image, sequence.grey, brain * soft(depth - np.clip(rim, -0.02, 0.05) * 0.5, 0.02))
    image = over(image, sequence.white, soft(depth - 0.10 - 1.6 * np.clip(rim, 0.0, 0.12), 0.03))
    image = over(image, sequence.fluid, cleft * brain)
    for sign in _SIGN.values():
        image = over(image, sequence.grey, ellipse(on, (sign * 0.17, 0.03), (0.10, 0.17)))
        image = over(image, sequence.grey * 0.95, ellipse(on, (sign * 0.30, -0.08), (0.07, 0.20), degrees=sign * 14.0))
        horns = [(sign * 0.12, -0.34), (sign * 0.07, -0.10), (sign * 0.10, 0.16), (sign * 0.20, 0.40)]
        image = over(image, sequence.fluid, tube(on, horns, (0.058 * wide, 0.048 * wide)))
    return over(image, sequence.fluid, ellipse(on, (0.0, 0.06), (0.018 * wide, 0.11)))


_Finder = Callable[[Canvas, Floats, np.random.Generator, _Sequence], Drawn]


def _nothing(_on: Canvas, image: Floats, random: np.random.Generator, _sequence: _Sequence) -> Drawn:
    words = pick(("is normal, without a mass or midline shift.", "shows no mass, infarct or collection."), random)
    return Drawn(image, words)


def _hydrocephalus(_on: Canvas, image: Floats, random: np.random.Generator, _sequence: _Sequence) -> Drawn:
    words = pick(
        (
            "shows marked dilatation of both lateral ventricles in keeping with hydrocephalus.",
            "demonstrates hydrocephalus with enlarged lateral ventricles.",
        ),
        random,
    )
    return Drawn(image, words)


def _mass(on: Canvas, image: Floats, random: np.random.Generator, sequence: _Sequence) -> Drawn:
    side, lobe = pick(tuple(_SIGN), random), pick(tuple(_LOBES), random)
    x, y = _LOBES[lobe]
    at = (_SIGN[side] * x + random.uniform(-0.03, 0.03), y + random.uniform(-0.03, 0.03))
    radius = random.uniform(0.11, 0.15)
    swelling = ellipse(on, at, (radius * 1.9, radius * 1.7), softness=0.08)
    image = over(image, 0.6 * sequence.lesion + 0.4 * sequence.white, swelling * (image > _DARKEST_TISSUE))
    image = over(image, 0.95, ellipse(on, at, (radius, radius)))
    image = over(image, 0.22, ellipse(on, at, (radius * 0.62, radius * 0.62)))
    words = pick(
        (
            f"shows a ring-like mass with edema in the {side} {lobe} lobe.",
            f"demonstrates a {side} {lobe} lobe mass with a necrotic center and surrounding edema.",
        ),
        random,
    )
    return Drawn(image, words, side)


def _infarct(on: Canvas, image: Floats, random: np.random.Generator, sequence: _Sequence) -> Drawn:
    side = pick(tuple(_SIGN), random)
    sign, middle, spread = _SIGN[side], random.uniform(-0.08, 0.08), random.uniform(0.45, 0.6)
    direction = np.arctan2(on.y - middle, sign * on.x)
    wedge = soft(spread - np.abs(direction), 0.08) * soft(sign * on.x - 0.26, 0.05)
    brain = ellipse(on, (0.0, 0.0), (0.69, 0.84), power=2.2)
    image = over(image, sequence.lesion, wedge * brain * 0.9)
    words = pick(
        (
            f"shows a wedge-shaped infarct in the territory of the {side} middle cerebral artery.",
            f"demonstrates a {side} middle cerebral artery infarct that reaches the cortex.",
        ),
        random,
    )
    return Drawn(image, words, side)


def _subdural(on: Canvas, image: Floats, random: np.random.Generator, _sequence: _Sequence) -> Drawn:
    side = pick(tuple(_SIGN), random)
    sign, thickness = _SIGN[side], random.uniform(0.15, 0.21)
    brain = ellipse(on, (0.0, 0.0), (0.71, 0.86), power=2.2)
    rest = ellipse(on, (-sign * thickness * 1.2, 0.0), (0.73, 0.95), power=2.1)
    image = over(image, 0.93, brain * (1.0 - rest) * (sign * on.x > 0.0))
    words = pick(
        (
            f"shows a crescent-shaped subdural hematoma along the {side} cerebral hemisphere.",
            f"demonstrates a {side} convexity subdural collection.",
        ),
        random,
    )
    return Drawn(image, words, side)


_FINDINGS: Mapping[str, _Finder] = {
    "none": _nothing,
    "hydrocephalus": _hydrocephalus,
    "brain mass": _mass,
    "infarct": _infarct,
    "subdural hematoma": _subdural,
}
