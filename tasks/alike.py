"""Equal and nearly equal images: fingerprints that survive copying, scaling and JPEG, and the search for them.

The perceptual hash is that of PDQ in outline (Facebook's ThreatExchange, 2019): luminance, averaged down to 64 x 64,
the 16 x 16 lowest frequencies of its cosine transform without the constant ones, each above or below their median.
Mirroring and inverting an image only change signs of frequencies, so the hashes of these views cost nothing.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef

NEAR = 31
REVIEW = 60
MIN_QUALITY = 50
MIN_STD = 3.0
MIN_SIDE = 64
VIEWS = ("identity", "mirrored", "inverted")

_SIDE, _KEPT = 64, 16
_FREQUENCIES = np.arange(1, _KEPT + 1)
_BASIS = np.cos(np.pi / (2 * _SIDE) * np.outer(_FREQUENCIES, 2 * np.arange(_SIDE) + 1))
_MIRROR = np.where(_FREQUENCIES % 2, -1.0, 1.0)
# Neighbouring frequencies are alike between images; a stride spreads them over the words of the hash.
_ORDER = np.arange(_KEPT * _KEPT) * 97 % (_KEPT * _KEPT)
_WORDS = 4
_GRADIENT_UNIT = 90
# Hashes that are compared at a time: what fits into the cache, and bounds the memory.
_BLOCK = 1 << 15

Hashes = npt.NDArray[np.uint64]
Place = tuple[Path, ImageRef]
"""The folder and the image in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """Fingerprints of one image."""

    sha256: str  # of the RGB pixels and their size
    views: Hashes  # perceptual hashes of the image, its mirror image and its negative, 256 bits each [3, 4]
    flat: bool  # whether it shows nothing (a black frame, an empty mask): all such images are alike
    comparable: bool  # whether its perceptual hash says anything: it is large enough and has enough contrast


def print_of(image: Image.Image) -> Print:
    """Return the fingerprints of a decoded RGB image."""
    sha256 = hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()
    grey = image.convert("L")
    block = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    flat = float(np.asarray(grey, dtype=np.float32).std()) < MIN_STD
    # How much contrast the block has, 0 to 100, by PDQ's measure.
    steps = sum(np.abs(np.trunc(np.diff(block, axis=axis) * 100 / 255)).sum() for axis in (0, 1))
    quality = int(min(steps / _GRADIENT_UNIT, 100))
    comparable = not flat and min(image.size) >= MIN_SIDE and quality >= MIN_QUALITY
    waves = _BASIS @ block @ _BASIS.T
    above = [(view > np.median(view)).ravel()[_ORDER] for view in (waves, waves * _MIRROR, -waves)]
    views = np.stack([np.packbits(view).view(np.uint64) for view in above])
    return Print(sha256, views, flat, comparable)


class Printer:
    """Makes fingerprints in threads; an image that cannot be decoded has None, and all have if it is not enabled."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._known: dict[Place, Print | None] = {}
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def prints(self, places: Sequence[Place], *, keep: bool) -> list[Print | None]:
        """Return the fingerprints of images, in their order; `keep` if they may be asked about again."""
        if not self.enabled:
            return [None] * len(places)
        new = [place for place in dict.fromkeys(places) if place not in self._known]
        made = dict(zip(new, self._pool.map(_print, new), strict=True))
        if keep:
            self._known |= made
        return [made[place] if place in made else self._known[place] for place in places]

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)


def _print(place: Place) -> Print | None:
    try:
        return print_of(open_image(*place))
    except SampleError:
        return None


class Match(NamedTuple):
    """A training image, by its number among those asked about, that is or may be a test image, by its number.

    `how` is `exact` (equal pixels), `near` (up to 31 of 256 bits differ), `review` (up to 60: only a person can tell),
    or `blank` (equal, and nothing is on it).
    """

    row: int
    image: int
    how: str
    bits: int = 0
    view: str = VIEWS[0]


class ImageIndex:
    """The images of the test side; all are compared with all, so that nothing is missed."""

    def __init__(self, prints: Sequence[Print | None]) -> None:
        self._by_pixels: dict[str, list[int]] = defaultdict(list)
        known = [(number, found) for number, found in enumerate(prints) if found is not None]
        for number, found in known:
            self._by_pixels[found.sha256].append(number)
        self._numbers = [number for number, found in known if found.comparable]
        views = [found.views for _, found in known if found.comparable]
        # Word by word, [4, H]: one word of all hashes lies in one piece.
        self._words = np.ascontiguousarray((np.concatenate(views) if views else np.empty((0, _WORDS), np.uint64)).T)

    def match(self, prints: Sequence[Print | None]) -> Iterator[Match]:
        """Yield what is found for training images, in order of training image and test image."""
        for row, found in ((row, found) for row, found in enumerate(prints) if found is not None):
            same = self._by_pixels.get(found.sha256, [])
            near = self._near(found.views[0]) if found.comparable else {}
            for image in sorted({*same, *near}):
                if image in same:
                    yield Match(row, image, "blank" if found.flat else "exact")
                else:
                    bits, view = near[image]
                    yield Match(row, image, "near" if bits <= NEAR else "review", bits, VIEWS[view])

    def _near(self, asked: Hashes) -> dict[int, tuple[int, int]]:
        """Return test images with at most 60 bits that differ from a hash [4]: their fewest bits, and the view."""
        best: dict[int, tuple[int, int]] = {}
        for start in range(0, self._words.shape[1], _BLOCK):
            words = self._words[:, start : start + _BLOCK]
            # Of 60 differing bits one of four words has 15 or fewer: hardly any other pair is left by that.
            closest = np.bitwise_count(words[0] ^ asked[0])
            for word in range(1, _WORDS):
                np.minimum(closest, np.bitwise_count(words[word] ^ asked[word]), out=closest)
            for place in np.flatnonzero(closest <= REVIEW // _WORDS).tolist():
                bits = int(np.bitwise_count(words[:, place] ^ asked).sum())
                image, view = divmod(start + place, len(VIEWS))
                if bits <= REVIEW:
                    number = self._numbers[image]
                    best[number] = min((bits, view), best.get(number, (bits, view)))
        return best
