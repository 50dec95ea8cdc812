"""Where the time of a run goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Seconds and counts by phase; phases do not nest, so that their sum is the time spent in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.background: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the time of the block to `phase`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started

    def add_background(self, phase: str, seconds: float) -> None:
        """Add seconds that passed beside the phases, in another thread."""
        self.background[phase] += seconds

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[what] += number

    def as_json(self) -> dict[str, dict[str, float]]:
        """Return seconds by phase and counts, rounded for people."""
        return {
            "seconds": {phase: round(value, 3) for phase, value in sorted(self.seconds.items())},
            "background_seconds": {phase: round(value, 3) for phase, value in sorted(self.background.items())},
            "counts": dict(sorted(self.counts.items())),
        }
