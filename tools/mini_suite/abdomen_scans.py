"""Draws axial CT slices of the upper abdomen, as radiologists show them: the liver is on the left of the picture."""

from collections.abc import Callable, Mapping

import numpy as np

from tools.mini_suite.drawing import Canvas, Floats, canvas, ellipse, reduced, texture
from tools.mini_suite.phantom import Drawn, Phantom, over, pick

_DRAWN_SIDE, _FACTOR = 208, 2
_CONTRAST_SHARE, _GAS_SHARE = 0.55, 0.4
_DARKEST_TISSUE = 0.1
_TABLE_SIDE = 0.45
_SIGN = {"right": -1.0, "left": 1.0}
_KIDNEY_X, _KIDNEY_Y = 0.43, 0.24
_LIVER_PLACES = {"right": (-0.50, 0.02), "left": (-0.08, -0.26)}


def draw_abdomen(random: np.random.Generator) -> Phantom:
    """Return a slice of 104 x 104 pixels with at most one finding, its caption, modality and plane."""
    squeeze = random.uniform(0.92, 1.04)
    on = canvas(_DRAWN_SIDE)
    shift_x, shift_y = random.uniform(-0.06, 0.06, 2)
    on = Canvas((on.x - shift_x) / squeeze, (on.y - shift_y) / random.uniform(0.94, 1.06))
    contrast = random.random() < _CONTRAST_SHARE
    finding = pick(tuple(_FINDINGS), random)
    if finding == "kidney stone":
        contrast = False
    image = _normal(on, random, contrast=contrast, big_spleen=finding == "enlarged spleen")
    image, words, side = _FINDINGS[finding](on, image, random)
    image += 0.012 * texture(on, random, cells=40) * (image > _DARKEST_TISSUE)
    start = "Contrast-enhanced axial CT" if contrast else "Axial noncontrast CT"
    small = reduced(image, _FACTOR) * random.uniform(0.95, 1.05)
    return Phantom(
        image=np.asarray(np.clip(small, 0.0, 1.0)),
        caption=f"{start} of the abdomen {words}",
        modality="CT w/contrast (IV)" if contrast else "CT - noncontrast",
        plane="Axial",
        finding=finding,
        side=side,
    )


def _normal(on: Canvas, random: np.random.Generator, *, contrast: bool, big_spleen: bool) -> Floats:
    image = over(np.zeros(on.shape), 0.30, ellipse(on, (0.0, 0.0), (0.93, 0.74), power=2.3))
    image = over(image, 0.46, ellipse(on, (0.0, 0.02), (0.86, 0.66), power=2.3))
    image = over(image, 0.27, ellipse(on, (0.0, -0.03), (0.79, 0.58), power=2.3))
    for side in (-1.0, 1.0):
        image = over(image, 0.47, ellipse(on, (side * 0.24, 0.50), (0.20, 0.14)))
        image = over(image, 0.46, ellipse(on, (side * 0.15, 0.34), (0.09, 0.12)))
    image = _bowel(on, image, random)
    solid = 0.60 if contrast else 0.52
    image = over(image, solid, ellipse(on, (-0.46, -0.03), (0.36, 0.44), degrees=12.0))
    image = over(image, solid, ellipse(on, (-0.14, -0.27), (0.36, 0.21), degrees=-14.0))
    spleen = (0.22, 0.40) if big_spleen else (0.13, 0.24)
    place = (0.70 - spleen[0] * 0.55, 0.06)
    image = over(image, 0.27, ellipse(on, place, (spleen[0] + 0.03, spleen[1] + 0.03), degrees=14.0))
    image = over(image, solid + 0.02, ellipse(on, place, spleen, degrees=14.0))
    for sign in _SIGN.values():
        image = _kidney(on, image, sign, contrast=contrast)
    vessel = 0.86 if contrast else 0.50
    image = over(image, vessel, ellipse(on, (0.06, 0.21), (0.065, 0.065)))
    image = over(image, vessel - 0.08 * contrast, ellipse(on, (-0.10, 0.20), (0.085, 0.060)))
    return _bones(on, image)


def _bowel(on: Canvas, image: Floats, random: np.random.Generator) -> Floats:
    image = over(image, 0.50, ellipse(on, (0.36, -0.25), (0.26, 0.20), degrees=24.0))
    image = over(image, 0.03, ellipse(on, (0.36, -0.33), (0.16, 0.08), degrees=12.0))
    for _ in range(7):
        at = (random.uniform(-0.02, 0.55), random.uniform(-0.12, 0.10))
        radius = random.uniform(0.055, 0.085)
        image = over(image, 0.50, ellipse(on, at, (radius, radius)))
        if random.random() < _GAS_SHARE:
            image = over(image, 0.05, ellipse(on, at, (radius * 0.5, radius * 0.4)))
    return image


def _kidney(on: Canvas, image: Floats, sign: float, *, contrast: bool) -> Floats:
    at = (sign * _KIDNEY_X, _KIDNEY_Y)
    image = over(image, 0.25, ellipse(on, at, (0.165, 0.215), degrees=sign * 16.0))
    image = over(image, 0.84 if contrast else 0.48, ellipse(on, at, (0.13, 0.18), degrees=sign * 16.0))
    return over(image, 0.33, ellipse(on, (at[0] - sign * 0.06, at[1]), (0.065, 0.085)))


def _bones(on: Canvas, image: Floats) -> Floats:
    image = over(image, 0.80, ellipse(on, (0.0, 0.37), (0.15, 0.115)))
    image = over(image, 0.95, ellipse(on, (0.0, 0.37), (0.15, 0.115)) - ellipse(on, (0.0, 0.37), (0.125, 0.09)))
    image = over(image, 0.92, ellipse(on, (0.0, 0.57), (0.12, 0.075)))
    image = over(image, 0.42, ellipse(on, (0.0, 0.525), (0.065, 0.05)))
    image = over(image, 0.92, ellipse(on, (0.0, 0.66), (0.03, 0.06)))
    for degrees in (-158, -128, -38, -12, 12, 28, 152, 168):
        angle = np.deg2rad(degrees)
        at = (0.815 * float(np.cos(angle)), 0.02 + 0.615 * float(np.sin(angle)))
        image = over(image, 0.95, ellipse(on, at, (0.055, 0.026), degrees=degrees + 90.0))
    return image


def _nothing(_on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    words = pick(
        ("is normal, with an unremarkable liver, spleen and kidneys.", "shows no abnormality of the solid organs."),
        random,
    )
    return Drawn(image, words)


def _liver_lesion(on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    lobe, size = pick(tuple(_LIVER_PLACES), random), pick(("small", "large"), random)
    radius = random.uniform(0.07, 0.09) if size == "small" else random.uniform(0.15, 0.19)
    x, y = _LIVER_PLACES[lobe]
    at = (x + random.uniform(-0.05, 0.05), y + random.uniform(-0.04, 0.04))
    image = over(image, 0.24, ellipse(on, at, (radius, radius * 0.9), softness=0.03))
    words = pick(
        (
            f"shows a {size} low-density mass in the {lobe} lobe of the liver.",
            f"demonstrates a {size} hypodense lesion within the {lobe} hepatic lobe.",
        ),
        random,
    )
    return Drawn(image, words)


def _cyst(on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    side = pick(tuple(_SIGN), random)
    radius = random.uniform(0.11, 0.16)
    at = (_SIGN[side] * (_KIDNEY_X + 0.10), _KIDNEY_Y + 0.10)
    image = over(image, 0.22, ellipse(on, at, (radius, radius)))
    words = pick(
        (f"shows a round simple cyst of the {side} kidney.", f"demonstrates a {side} renal cyst without enhancement."),
        random,
    )
    return Drawn(image, words, side)


def _stone(on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    side = pick(tuple(_SIGN), random)
    at = (_SIGN[side] * (_KIDNEY_X - 0.05), _KIDNEY_Y + random.uniform(-0.03, 0.03))
    image = over(image, 0.26, ellipse(on, at, (0.105, 0.125)))
    image = over(image, 1.0, ellipse(on, at, (0.05, 0.042)))
    words = pick(
        (
            f"shows a bright stone in the {side} renal pelvis with hydronephrosis.",
            f"demonstrates {side} nephrolithiasis with a dilated collecting system.",
        ),
        random,
    )
    return Drawn(image, words, side)


def _aneurysm(on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    radius = random.uniform(0.16, 0.21)
    lumen = float(image[np.unravel_index(np.argmin((on.x - 0.06) ** 2 + (on.y - 0.21) ** 2), on.shape)])
    image = over(image, 0.44, ellipse(on, (0.06, 0.24 - radius * 0.7), (radius, radius)))
    image = over(
        image,
        0.95,
        ellipse(on, (0.06, 0.24 - radius * 0.7), (radius, radius), softness=0.01)
        - ellipse(on, (0.06, 0.24 - radius * 0.7), (radius * 0.93, radius * 0.93), softness=0.01),
    )
    image = over(image, lumen, ellipse(on, (0.07, 0.25 - radius * 0.7), (radius * 0.6, radius * 0.6)))
    words = pick(
        (
            "shows a large abdominal aortic aneurysm with mural thrombus and a calcified wall.",
            "demonstrates aneurysmal dilatation of the abdominal aorta with wall calcification.",
        ),
        random,
    )
    return Drawn(image, words)


def _ascites(on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    inside = ellipse(on, (0.0, -0.03), (0.79, 0.58), power=2.3) - ellipse(on, (0.0, 0.02), (0.70, 0.47), power=2.2)
    image = over(image, 0.385, np.clip(inside, 0.0, 1.0) * (on.y < _TABLE_SIDE))
    words = pick(
        (
            "shows free fluid around the liver and spleen in keeping with ascites.",
            "demonstrates moderate ascites that surrounds the liver and the bowel.",
        ),
        random,
    )
    return Drawn(image, words)


def _spleen(_on: Canvas, image: Floats, random: np.random.Generator) -> Drawn:
    words = pick(
        ("shows marked enlargement of the spleen.", "demonstrates splenomegaly without a focal splenic lesion."),
        random,
    )
    return Drawn(image, words)


_FINDINGS: Mapping[str, Callable[[Canvas, Floats, np.random.Generator], Drawn]] = {
    "none": _nothing,
    "liver mass": _liver_lesion,
    "renal cyst": _cyst,
    "kidney stone": _stone,
    "aortic aneurysm": _aneurysm,
    "ascites": _ascites,
    "enlarged spleen": _spleen,
}
