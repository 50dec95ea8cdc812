"""Texts that one training text contains: the test side is indexed, training texts stream by.

A training text contains a test text if it holds at least 0.8 of its runs of eight words (facts on the base rates are in
docs/audit-data.md). Texts under eight words are compared exactly only. A test text is looked up by its rarest runs,
only as many as a text that holds 0.8 of all cannot miss.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

CONTAINMENT = 0.8
GRAM = 8


def _runs_of(text: str) -> set[int]:
    """Return hashes of the distinct runs of eight words of a normalised text; 64 bits do not meet by chance."""
    words = text.split()
    return set(map(hash, zip(*(words[place:] for place in range(GRAM)), strict=False)))


class TextIndex:
    """The distinct normalised texts of the test side."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        counts = Counter(run for text in texts for run in _runs_of(text))
        self._by_run: dict[int, list[int]] = defaultdict(list)
        for number, text in enumerate(texts):
            rarest = sorted(_runs_of(text), key=lambda run: (counts[run], run))
            for run in rarest[: len(rarest) - math.ceil(CONTAINMENT * len(rarest)) + 1]:
                self._by_run[run].append(number)

    def contained_in(self, text: str) -> Iterator[tuple[int, float]]:
        """Yield the numbers of test texts that a normalised text contains, and the share of their runs in it."""
        theirs = _runs_of(text)
        for number in sorted({number for run in theirs & self._by_run.keys() for number in self._by_run[run]}):
            ours = _runs_of(self._texts[number])
            share = len(ours & theirs) / len(ours)
            if share >= CONTAINMENT:
                yield number, share
