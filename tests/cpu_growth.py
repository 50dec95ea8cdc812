"""How the work for a text grows with its length, as a ratio inside one run."""

from collections.abc import Callable
from time import process_time

SMALL, LARGE = 2_000, 16_000
QUADRATIC = 32
"""Eight times the text costs linear work 8 times, quadratic work 64 times; half of that is the line."""

_REPEATS = 3
_NOISE_SECONDS = 2e-3
"""What is faster than this is taken to last as long: below, the clock measures itself."""


def growth(work: Callable[[str], object], piece: str) -> float:
    """Return how many times longer `work` takes for a long repetition of `piece` than for one an eighth as long."""
    return _seconds(work, piece * LARGE) / _seconds(work, piece * SMALL)


def _seconds(work: Callable[[str], object], text: str) -> float:
    return max(_NOISE_SECONDS, min(_once(work, text) for _ in range(_REPEATS)))


def _once(work: Callable[[str], object], text: str) -> float:
    before = process_time()
    work(text)
    return process_time() - before
