"""How alike two texts are, word by word: evidence for people, never the decision."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from medbench.leaderboard.audit.thresholds import Thresholds
from medbench.tasks.metrics.reports import lcs_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Words that two texts have in common, one after the other.

    Attributes:
        words: How many.
        first: Where they start in the first text, in words.
        second: Where they start in the second.
    """

    words: int
    first: int
    second: int


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the words of the longest common subsequence over those of the longer text; 0 of nothing."""
    longer = max(len(first), len(second))
    return lcs_length(first, second) / longer if longer else 0.0


def is_near(first: Sequence[str], second: Sequence[str], thresholds: Thresholds) -> bool:
    """Return whether two texts are a near match: both long enough, and nearly all words in common and in order."""
    shorter, longer = sorted((len(first), len(second)))
    if shorter < thresholds.near_words or shorter < thresholds.near_similarity * longer:
        return False
    if _shared_words(first, second) < thresholds.near_similarity * longer:
        return False
    return similarity(first, second) >= thresholds.near_similarity


def _shared_words(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words two texts share in any order, which no common subsequence exceeds."""
    return (Counter(first) & Counter(second)).total()


def longest_run(first: Sequence[str], second: Sequence[str]) -> Run:
    """Return the longest run of words in both, the earliest of several.

    A run of a length holds one of every smaller length, so the length is found by halving: N log N, not N squared.
    """
    best = Run(words=0, first=0, second=0)
    low, high = 1, min(len(first), len(second))
    while low <= high:
        middle = (low + high) // 2
        found = _common(first, second, middle)
        if found is None:
            high = middle - 1
        else:
            best, low = found, middle + 1
    return best


def _common(first: Sequence[str], second: Sequence[str], length: int) -> Run | None:
    there: dict[tuple[str, ...], int] = {}
    for start in range(len(second) - length + 1):
        there.setdefault(tuple(second[start : start + length]), start)
    for start in range(len(first) - length + 1):
        place = there.get(tuple(first[start : start + length]))
        if place is not None:
            return Run(words=length, first=start, second=place)
    return None
