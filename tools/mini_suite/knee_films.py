"""Draws frontal films of the knee; the fibula marks the outer side, so it is on the left for a right knee."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tools.mini_suite.drawing import Canvas, Floats, below, canvas, ellipse, reduced, soft, texture, tube
from tools.mini_suite.phantom import Phantom, pick

_DRAWN_SIDE, _FACTOR = 208, 2
_SHAFT, _JOINT = 0.30, 0.40


@dataclass(frozen=True, slots=True)
class _Knee:
    """The film as far as it is drawn, and which way is outwards (-1 for a right knee)."""

    on: Canvas
    bone: Floats
    flesh: Floats
    out: float


def draw_knee(random: np.random.Generator) -> Phantom:
    """Return a film of 104 x 104 pixels with at most one finding, its caption, modality and plane."""
    on, angle = canvas(_DRAWN_SIDE), np.deg2rad(random.uniform(-6.0, 6.0))
    zoom = random.uniform(0.95, 1.12)
    x = zoom * (np.cos(angle) * on.x - np.sin(angle) * on.y) + random.uniform(-0.08, 0.08)
    y = zoom * (np.sin(angle) * on.x + np.cos(angle) * on.y) + random.uniform(-0.08, 0.08)
    side = pick(("right", "left"), random)
    finding = pick(tuple(_FINDINGS), random)
    out = -1.0 if side == "right" else 1.0
    gap = 0.012 if finding == "osteoarthritis" else 0.075
    knee = _normal(Canvas(x, y), out, gap)
    knee, words = _FINDINGS[finding](knee, random)
    thickness = 0.42 * knee.flesh + knee.bone * (1.0 + 0.05 * texture(on, random, cells=30))
    bright = 1.0 - np.exp(-random.uniform(1.5, 1.8) * np.clip(thickness, 0.0, None))
    return Phantom(
        image=np.asarray(np.clip(reduced(bright, _FACTOR) * random.uniform(0.95, 1.05), 0.0, 1.0)),
        caption=f"AP radiograph of the {side} knee {words}",
        modality="XR - Plain Film",
        plane="AP",
        finding=finding,
        side=side,
    )


def _shell(cover: Floats, core: Floats) -> Floats:
    """Return a bone as X-rays see it: a dense rim around a lighter core."""
    return np.asarray(0.62 * cover - 0.20 * core)


def _normal(on: Canvas, out: float, gap: float) -> _Knee:
    flesh = np.maximum(
        tube(on, [(0.0, -1.5), (0.0, -0.4), (0.0, 0.1)], (0.66, 0.52), softness=0.04),
        tube(on, [(0.0, 0.0), (out * 0.04, 0.6), (out * 0.04, 1.5)], (0.54, 0.44), softness=0.04),
    )
    top, bottom = -gap / 2.0, gap / 2.0
    femur, core = (_femur(on, top, inset) for inset in (0.0, 0.045))
    tibia, marrow = (_tibia(on, bottom, inset) for inset in (0.0, 0.045))
    fibula = [(out * 0.42, bottom + 0.20), (out * 0.40, 0.55), (out * 0.40, 1.4)]
    head = np.maximum(tube(on, fibula, 0.065), ellipse(on, (out * 0.41, bottom + 0.20), (0.085, 0.095)))
    knee_cap = 0.16 * ellipse(on, (0.0, top - 0.24), (0.19, 0.18))
    bone = _shell(femur, core) + _shell(tibia, marrow) + 0.45 * head + knee_cap
    return _Knee(on, np.asarray(bone), flesh, out)


def _femur(on: Canvas, end: float, inset: float) -> Floats:
    shaft = tube(on, [(0.0, -1.5), (0.0, -0.75), (0.0, -0.42)], (0.20 - inset, 0.24 - inset))
    condyles = [
        ellipse(on, (sign * 0.20, end - 0.21), (0.215 - inset, 0.205 - inset), softness=0.012) for sign in (-1.0, 1.0)
    ]
    flare = ellipse(on, (0.0, end - 0.34), (0.34 - inset, 0.26 - inset), softness=0.012)
    return np.asarray(np.maximum.reduce([shaft, flare, *condyles]))


def _tibia(on: Canvas, start: float, inset: float) -> Floats:
    plateau = ellipse(on, (0.0, start + 0.12), (0.42 - inset, 0.118 - inset), power=3.5, softness=0.012)
    neck = ellipse(on, (0.0, start + 0.24), (0.36 - inset, 0.28 - inset), softness=0.012) * below(on, start + 0.10)
    spines = np.maximum(*(ellipse(on, (x, start), (0.035, 0.045)) for x in (-0.045, 0.045))) * (inset == 0.0)
    shaft = tube(on, [(0.0, start + 0.35), (0.0, 0.8), (0.0, 1.5)], (0.23 - inset, 0.16 - inset))
    return np.asarray(np.maximum.reduce([plateau, neck, spines, shaft]))


_Drawn = tuple[_Knee, str]
_SHAFTS = {"distal femur": (0.0, -0.72), "proximal tibia": (0.0, 0.66)}


def _with_bone(knee: _Knee, bone: Floats) -> _Knee:
    return _Knee(knee.on, np.asarray(bone), knee.flesh, knee.out)


def _nothing(knee: _Knee, random: np.random.Generator) -> _Drawn:
    return knee, pick(
        ("is normal, without fracture or effusion.", "shows no fracture and a preserved joint space."), random
    )


def _fracture(knee: _Knee, random: np.random.Generator) -> _Drawn:
    place, kind = pick(tuple(_SHAFTS), random), pick(("transverse", "oblique"), random)
    x, y = _SHAFTS[place]
    y += random.uniform(-0.06, 0.06)
    slope = 0.0 if kind == "transverse" else pick((-0.9, 0.9), random)
    jag = 0.012 * np.sin(knee.on.x * 40.0) + slope * (knee.on.x - x)
    line = soft(0.022 - np.abs(knee.on.y - y - jag), 0.012) * (np.abs(knee.on.x) < _SHAFT)
    moved = np.roll(knee.bone, round(pick((-1.0, 1.0), random) * 9), axis=1)
    away = knee.on.y < y + jag if place == "distal femur" else knee.on.y > y + jag
    bone = np.where(away, moved, knee.bone) * (1.0 - 0.9 * line)
    return _with_bone(knee, bone), pick(
        (
            f"shows a displaced {kind} fracture of the {place}.",
            f"demonstrates a {kind} fracture through the {place} with mild displacement.",
        ),
        random,
    )


def _lytic(knee: _Knee, random: np.random.Generator) -> _Drawn:
    place = pick(tuple(_SHAFTS), random)
    at = (random.uniform(-0.06, 0.06), -0.50 if place == "distal femur" else 0.42)
    radius = random.uniform(0.12, 0.16)
    bone = knee.bone - 0.34 * ellipse(knee.on, at, (radius, radius * 1.1), softness=0.02)
    return _with_bone(knee, np.clip(bone, 0.02, None)), pick(
        (f"shows a well-defined lytic lesion in the {place}.", f"demonstrates a lucent lesion of the {place}."), random
    )


def _sclerotic(knee: _Knee, random: np.random.Generator) -> _Drawn:
    place = pick(tuple(_SHAFTS), random)
    at = (random.uniform(-0.06, 0.06), -0.52 if place == "distal femur" else 0.44)
    patch = ellipse(knee.on, at, (0.17, 0.20), softness=0.07)
    bone = knee.bone + 0.75 * patch * (1.0 + 0.25 * texture(canvas(_DRAWN_SIDE), random, cells=16))
    return _with_bone(knee, bone), pick(
        (f"shows a dense sclerotic lesion in the {place}.", f"demonstrates a blastic lesion of the {place}."), random
    )


def _outgrowth(knee: _Knee, random: np.random.Generator) -> _Drawn:
    inward = -knee.out
    stalk = [(inward * 0.18, -0.62), (inward * 0.34, -0.72), (inward * 0.44, -0.84)]
    growth = np.maximum(tube(knee.on, stalk, (0.07, 0.09)), ellipse(knee.on, stalk[-1], (0.12, 0.10), degrees=40.0))
    return _with_bone(knee, np.maximum(knee.bone, 0.5 * growth)), pick(
        (
            "shows an osteochondroma that arises from the medial distal femur.",
            "demonstrates a pedunculated bony outgrowth of the medial distal femur.",
        ),
        random,
    )


def _arthrosis(knee: _Knee, random: np.random.Generator) -> _Drawn:
    spurs = [ellipse(knee.on, (sign * 0.42, y), (0.06, 0.035)) for sign in (-1.0, 1.0) for y in (-0.05, 0.06)]
    dense = 0.35 * soft(0.05 - np.abs(knee.on.y), 0.03) * (np.abs(knee.on.x) < _JOINT)
    return _with_bone(knee, np.maximum(knee.bone, 0.55 * np.maximum.reduce(spurs)) + dense), pick(
        (
            "shows osteoarthritis with loss of the joint space and marginal osteophytes.",
            "demonstrates severe joint space narrowing with osteophytes and sclerosis.",
        ),
        random,
    )


_FINDINGS: Mapping[str, Callable[[_Knee, np.random.Generator], _Drawn]] = {
    "none": _nothing,
    "fracture": _fracture,
    "lytic lesion": _lytic,
    "sclerotic lesion": _sclerotic,
    "osteochondroma": _outgrowth,
    "osteoarthritis": _arthrosis,
}
