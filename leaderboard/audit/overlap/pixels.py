"""Fingerprints of a picture: of its exact pixels, and a 256-bit hash that survives copying, scaling and JPEG.

The perceptual hash is that of PDQ in outline (Facebook's ThreatExchange, 2019): luminance, averaged down to 64 x 64,
the 16 x 16 lowest frequencies of its cosine transform without the constant ones, each above or below their median.
Mirroring and inverting a picture only change signs of frequencies, so the hashes of these views cost nothing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from medbench.leaderboard.audit.overlap.grams import Hashes

NEAR = 31
REVIEW = 60
MIN_QUALITY = 50
MIN_STD = 3.0
MIN_SIDE = 64
VIEWS = ("identity", "mirrored", "inverted")
WORDS = 4

_SIDE, _KEPT = 64, 16
_FREQUENCIES = np.arange(1, _KEPT + 1)
_BASIS = np.cos(np.pi / (2 * _SIDE) * np.outer(_FREQUENCIES, 2 * np.arange(_SIDE) + 1))
_MIRROR = np.where(_FREQUENCIES % 2, -1.0, 1.0)
# Neighbouring frequencies are alike between pictures; a stride spreads them over the words of the hash.
_ORDER = np.arange(_KEPT * _KEPT) * 97 % (_KEPT * _KEPT)
_GRADIENT_UNIT = 90


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """Fingerprints of one picture.

    Attributes:
        sha256: Of the RGB pixels and their size.
        views: Perceptual hashes of the picture, its mirror image and its negative, 256 bits each [3, 4].
        flat: Whether it shows nothing (a black frame, an empty mask): all such pictures are alike.
        comparable: Whether its perceptual hash says anything: it is large enough and has enough contrast.
    """

    sha256: str
    views: Hashes
    flat: bool
    comparable: bool


def print_of(image: Image.Image) -> Print:
    """Return the fingerprints of a decoded RGB picture."""
    sha256 = hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()
    grey = image.convert("L")
    block = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    flat = float(np.asarray(grey, dtype=np.float32).std()) < MIN_STD
    comparable = not flat and min(image.size) >= MIN_SIDE and quality(block) >= MIN_QUALITY
    return Print(sha256, _views(block), flat, comparable)


def quality(block: npt.NDArray[np.float64]) -> int:
    """Return how much contrast a block [64, 64] of luminance has, 0 to 100, by PDQ's measure."""
    steps = sum(np.abs(np.trunc(np.diff(block, axis=axis) * 100 / 255)).sum() for axis in (0, 1))
    return int(min(steps / _GRADIENT_UNIT, 100))


def _views(block: npt.NDArray[np.float64]) -> Hashes:
    waves = _BASIS @ block @ _BASIS.T
    return np.stack([_bits(view) for view in (waves, waves * _MIRROR, -waves)])


def _bits(waves: npt.NDArray[np.float64]) -> Hashes:
    above = (waves > np.median(waves)).ravel()[_ORDER]
    return np.packbits(above).view(np.uint64)


def distance(first: Hashes, second: Hashes) -> npt.NDArray[np.int64]:
    """Return in how many of 256 bits hashes [..., 4] differ [...]."""
    counted: npt.NDArray[np.int64] = _set_bits(first ^ second).sum(axis=-1, dtype=np.int64)
    return counted


def _counted_by_table(values: Hashes) -> npt.NDArray[np.uint8]:
    counted: npt.NDArray[np.uint8] = _TABLE[values[..., None].view(np.uint16)].sum(axis=-1, dtype=np.uint8)
    return counted


_TABLE = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(axis=1, dtype=np.uint8)
# NumPy 2 counts bits itself.
_set_bits: Callable[[Hashes], npt.NDArray[np.uint8]] = getattr(np, "bitwise_count", _counted_by_table)
