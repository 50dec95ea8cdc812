"""Pairs of reference and answer for people to look at: the longest, some at random, the weakest, and near misses.

Random and weakest ones stand beside the most striking, so that nobody can pick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medbench.leaderboard.audit.controls import drawn
from medbench.leaderboard.audit.eligibility import Reason
from medbench.leaderboard.audit.items import Cell
from medbench.leaderboard.audit.match_counts import MatchCounts
from medbench.leaderboard.audit.normalise import norm_v1, word_count
from medbench.leaderboard.audit.sentence_skill import sentences_of
from medbench.leaderboard.audit.similarity import Run, is_near, longest_run, similarity
from medbench.leaderboard.audit.thresholds import THRESHOLDS, Thresholds

Why = Literal["longest", "random", "weakest", "near", "not counted"]
_SHOWN: Mapping[Why, int] = {"longest": 5, "random": 5, "weakest": 3, "near": 5, "not counted": 3}
_GRAM = 8
_BINS = 10
_FEWEST_WORDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The training reference that is most like a matched one.

    Attributes:
        text: As it stands in the data.
        similarity: Word LCS over the longer text.
    """

    text: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One pair.

    Attributes:
        row: Place among the cell's items.
        why: Why it is shown.
        words: Words of the reference, normalised.
        similarity: Word LCS of the two over the longer.
        run: Longest run of words in both, reference first.
        nearest: The training reference most like it; None where none shares eight words in a row.
    """

    row: int
    why: Why
    words: int
    similarity: float
    run: Run
    nearest: Nearest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a person can look at.

    Attributes:
        examples: The pairs.
        near_matches: Eligible items whose answer nearly equals the reference.
        of_train_sentences: Matches that count and consist of sentences of training references alone, which a model may
            put together by itself; None if no training references are known.
        cut_alike: Answers cut at the length limit that agree with the reference up to there, and were not counted.
        similarities: Eligible items by similarity: from 0, .1, ... up to below 1, and equal ones last.
    """

    examples: tuple[Example, ...]
    near_matches: int
    of_train_sentences: int | None
    cut_alike: int
    similarities: tuple[int, ...]


def find_evidence(
    cell: Cell, counts: MatchCounts, train_texts: Sequence[str] | None, thresholds: Thresholds = THRESHOLDS
) -> Evidence:
    """Look at the pairs of a cell.

    Args:
        cell: Answers and references.
        counts: What was counted.
        train_texts: Known training references, as they stand in the data; None if none are known.
        thresholds: What a near match is.
    """
    eligible = [row for row, reason in enumerate(counts.reasons) if reason == "eligible"]
    near = [row for row in eligible if not counts.exact[row] and is_near(*_words(cell, row), thresholds)]
    chosen = _chosen(cell, counts, near)
    nearest = _nearest([cell.references[row] for row in chosen], train_texts or ())
    return Evidence(
        examples=tuple(
            _example(cell, row, why, nearest.get(cell.references[row] or "")) for row, why in chosen.items()
        ),
        near_matches=len(near),
        of_train_sentences=None if train_texts is None else _composed(cell, counts.counted_rows, train_texts),
        cut_alike=sum(_agrees_so_far(cell, row) for row, why in enumerate(counts.reasons) if why == "truncated"),
        similarities=_histogram(cell, counts, eligible),
    )


def _words(cell: Cell, row: int) -> tuple[list[str], list[str]]:
    return (cell.references[row] or "").split(), (cell.predictions[row] or "").split()


def _chosen(cell: Cell, counts: MatchCounts, near: Sequence[int]) -> dict[int, Why]:
    """Return the rows to show with the reason, each once, in the order of reasons."""
    ids = [item.sample_id for item in cell.items]
    matches = _one_of_each_case(cell, counts.counted_rows)
    by_length = sorted(matches, key=lambda row: (-word_count(cell.references[row]), ids[row]))
    at_random = sorted(matches, key=lambda row: (drawn(0, ids[row]), ids[row]))
    others = [row for row, exact in enumerate(counts.exact) if exact and _is_telling(cell, row, counts.reasons[row])]
    idle = sorted(others, key=lambda row: (-word_count(cell.references[row]), ids[row]))
    rows: list[tuple[Why, Sequence[int]]] = [
        ("longest", by_length), ("weakest", by_length[::-1]), ("random", at_random), ("near", near),
        ("not counted", idle),
    ]  # fmt: skip
    chosen: dict[int, Why] = {}
    for why, candidates in rows:
        fresh = [row for row in candidates if row not in chosen]
        chosen |= dict.fromkeys(fresh[: _SHOWN[why]], why)
    return chosen


def _is_telling(cell: Cell, row: int, reason: Reason) -> bool:
    return reason not in {"eligible", "closed"} and word_count(cell.references[row]) >= _FEWEST_WORDS


def _one_of_each_case(cell: Cell, rows: Sequence[int]) -> list[int]:
    by_case = {cell.items[row].group: row for row in reversed(rows)}
    return sorted(by_case.values())


def _example(cell: Cell, row: int, why: Why, nearest: Nearest | None) -> Example:
    reference, prediction = _words(cell, row)
    return Example(
        row=row,
        why=why,
        words=len(reference),
        similarity=similarity(reference, prediction),
        run=longest_run(reference, prediction),
        nearest=nearest,
    )


def _nearest(references: Sequence[str | None], train_texts: Sequence[str]) -> dict[str, Nearest]:
    """Return for each reference the training reference most like it, among those that share eight words in a row."""
    by_gram: dict[tuple[str, ...], set[str]] = {}
    for reference in references:
        for gram in _grams((reference or "").split()):
            by_gram.setdefault(gram, set()).add(reference or "")
    found: dict[str, Nearest] = {}
    for text in train_texts if by_gram else ():
        words = (norm_v1(text) or "").split()
        for reference in {one for gram in _grams(words) for one in by_gram.get(gram, ())}:
            alike = similarity(reference.split(), words)
            if reference not in found or (alike, text) > (found[reference].similarity, found[reference].text):
                found[reference] = Nearest(text=text, similarity=alike)
    return found


def _grams(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]


def _composed(cell: Cell, rows: Sequence[int], train_texts: Sequence[str]) -> int:
    if not rows:
        return 0
    known = {sentence for text in train_texts for sentence in sentences_of(text)}
    return sum(known.issuperset(sentences_of(cell.items[row].reference)) for row in rows)


def _agrees_so_far(cell: Cell, row: int) -> bool:
    """Return whether a cut answer, but for its last word, is how the reference begins."""
    reference, prediction = _words(cell, row)
    whole = prediction[:-1]
    return len(whole) >= _GRAM and reference[: len(whole)] == whole


def _histogram(cell: Cell, counts: MatchCounts, eligible: Sequence[int]) -> tuple[int, ...]:
    bins = [0] * (_BINS + 1)
    for row in eligible:
        alike = 1.0 if counts.exact[row] else similarity(*_words(cell, row))
        bins[int(alike * _BINS + 1e-9)] += 1
    return tuple(bins)
