"""What `--fail-on-error` says: how many samples of a run may fail. Imports nothing that takes long."""

import re
from dataclasses import dataclass
from fractions import Fraction

from medbench.tasks.foundation.errors import UsageError

_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_COUNT = re.compile(r"[0-9]{1,9}")
_ALLOWED = (
    "Allowed: a share of all samples from 0% to 100% (5%, 2.5%), or a whole number of samples (20; 0 if none may fail)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How many samples of a run may fail: a share of all, or a number."""

    word: str  # As the user said it.
    share: Fraction | None = None
    count: int = 0

    def of(self, total: int) -> int:
        """Return how many of so many samples may fail; of a share what is not more than it."""
        return self.count if self.share is None else int(self.share * total)


def read_tolerance(word: str) -> Tolerance:
    """Return what `--fail-on-error` says; UsageError if it says neither a share nor a number."""
    given = word.strip()
    if (share := _SHARE.fullmatch(given)) and (part := Fraction(share[1]) / 100) <= 1:
        return Tolerance(word=given, share=part)
    if _COUNT.fullmatch(given):
        return Tolerance(word=given, count=int(given))
    raise UsageError(f"--fail-on-error {word!r} does not say how many samples may fail.", _ALLOWED)
