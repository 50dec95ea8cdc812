"""What a person can look at beside a verdict: pairs of texts, and what the matches do to the scores.

Pairs are the longest matches, some at random, the weakest, and near misses: random and weakest ones stand beside the
most striking, so that nobody can pick. Scores are shown with and without the cases that match.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medbench.leaderboard.audit.normalise import norm_v1, word_count
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, MatchCounts, Thresholds
from medbench.leaderboard.audit.outputs.controls import drawn
from medbench.leaderboard.audit.outputs.sentence_skill import sentences_of
from medbench.leaderboard.score_table import Column, ScoreTable
from medbench.tasks.metrics.lcs import lcs_length
from medbench.tasks.protocols import PROTOCOLS, Protocol

Why = Literal["longest", "random", "weakest", "near", "not counted"]
_SHOWN: Mapping[Why, int] = {"longest": 5, "random": 5, "weakest": 3, "near": 5, "not counted": 3}
_GRAM = 8
_BINS = 10
_FEWEST_WORDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonRun:
    """Words that two texts have in common, one after the other: how many, and where they start in each, in words."""

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
    needed = thresholds.near_similarity * longer
    if shorter < thresholds.near_words or shorter < needed:
        return False
    # No common subsequence has more words than they share in any order.
    return (Counter(first) & Counter(second)).total() >= needed and similarity(first, second) >= (
        thresholds.near_similarity
    )


def longest_run(first: Sequence[str], second: Sequence[str]) -> CommonRun:
    """Return the longest run of words in both, the earliest of several.

    A run of a length holds one of every smaller length, so the length is found by halving: N log N, not N squared.
    """
    best = CommonRun(words=0, first=0, second=0)
    low, high = 1, min(len(first), len(second))
    while low <= high:
        middle = (low + high) // 2
        there: dict[tuple[str, ...], int] = {}
        for start in range(len(second) - middle + 1):
            there.setdefault(tuple(second[start : start + middle]), start)
        runs = (tuple(first[start : start + middle]) for start in range(len(first) - middle + 1))
        found = next(((start, there[run]) for start, run in enumerate(runs) if run in there), None)
        if found is None:
            high = middle - 1
        else:
            best, low = CommonRun(words=middle, first=found[0], second=found[1]), middle + 1
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The training reference that is most like a matched one, as it stands in the data, and how similar it is."""

    text: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A reference and the answer to it.

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
    run: CommonRun
    nearest: Nearest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a person can look at.

    Attributes:
        pairs: Pairs of texts.
        near_matches: Eligible items whose answer nearly equals the reference.
        of_train_sentences: Matches that count and consist of sentences of training references alone, which a model may
            put together by itself; None if no training references are known.
        cut_alike: Answers cut at the length limit that agree with the reference up to there, and were not counted.
        similarities: Eligible items by similarity: from 0, .1, ... up to below 1, and equal ones last.
    """

    pairs: tuple[Pair, ...]
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
    words = [
        ((reference or "").split(), (prediction or "").split())
        for reference, prediction in zip(cell.references, cell.predictions, strict=True)
    ]
    eligible = [row for row, reason in enumerate(counts.reasons) if reason == "eligible"]
    near = [row for row in eligible if not counts.exact[row] and is_near(*words[row], thresholds)]
    chosen = _chosen(cell, counts, near)
    nearest = _nearest({cell.references[row] or "" for row in chosen}, train_texts or ())
    bins = [0] * (_BINS + 1)
    for row in eligible:
        alike = 1.0 if counts.exact[row] else similarity(*words[row])
        bins[int(alike * _BINS + 1e-9)] += 1
    return Evidence(
        pairs=tuple(
            Pair(
                row=row, why=why, words=len(words[row][0]), similarity=similarity(*words[row]),
                run=longest_run(*words[row]), nearest=nearest.get(cell.references[row] or ""),
            )
            for row, why in chosen.items()
        ),
        near_matches=len(near),
        of_train_sentences=None if train_texts is None else _composed(cell, counts.counted_rows, train_texts),
        cut_alike=sum(_agrees_so_far(*words[row]) for row, why in enumerate(counts.reasons) if why == "truncated"),
        similarities=tuple(bins),
    )  # fmt: skip


def _chosen(cell: Cell, counts: MatchCounts, near: Sequence[int]) -> dict[int, Why]:
    """Return the rows to show with the reason, each once, in the order of reasons."""

    def by_length(rows: Iterable[int]) -> list[int]:
        return sorted(rows, key=lambda row: (-word_count(cell.references[row]), cell.items[row].sample_id))

    one_of_each_case = {cell.items[row].group: row for row in reversed(counts.counted_rows)}.values()
    longest = by_length(one_of_each_case)
    at_random = sorted(one_of_each_case, key=lambda row: (drawn(0, name := cell.items[row].sample_id), name))
    not_counted = [
        row
        for row, exact in enumerate(counts.exact)
        if exact
        and counts.reasons[row] not in {"eligible", "closed"}
        and word_count(cell.references[row]) >= _FEWEST_WORDS
    ]
    rows: dict[Why, Sequence[int]] = {
        "longest": longest, "weakest": longest[::-1], "random": at_random, "near": near,
        "not counted": by_length(not_counted),
    }  # fmt: skip
    chosen: dict[int, Why] = {}
    for why, candidates in rows.items():
        fresh = [row for row in candidates if row not in chosen]
        chosen |= dict.fromkeys(fresh[: _SHOWN[why]], why)
    return chosen


def _nearest(references: Collection[str], train_texts: Sequence[str]) -> dict[str, Nearest]:
    """Return for each reference the training reference most like it, among those that share eight words in a row."""
    by_gram: dict[tuple[str, ...], set[str]] = {}
    for reference in references:
        for gram in _grams(reference.split()):
            by_gram.setdefault(gram, set()).add(reference)
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
    known = {sentence for text in train_texts for sentence in sentences_of(text)} if rows else set()
    return sum(known.issuperset(sentences_of(cell.items[row].reference)) for row in rows)


def _agrees_so_far(reference: Sequence[str], prediction: Sequence[str]) -> bool:
    """Return whether a cut answer, but for its last word, is how the reference begins."""
    whole = prediction[:-1]
    return len(whole) >= _GRAM and reference[: len(whole)] == whole


@dataclass(frozen=True, slots=True, kw_only=True)
class PartScore:
    """A score of some of the items: a fraction, None where nothing was scored; how many were, and of how many cases."""

    value: float | None
    n: int
    cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One metric of one protocol: on all items, without the cases that match, on these cases alone."""

    protocol: Protocol
    metric: str
    all: PartScore
    without_matches: PartScore
    matches_only: PartScore

    @property
    def gain(self) -> float | None:
        """How much higher the cases that match score than the others."""
        if self.matches_only.value is None or self.without_matches.value is None:
            return None
        return self.matches_only.value - self.without_matches.value


def effects(table: ScoreTable, matched: Collection[str]) -> tuple[Effect, ...]:
    """Return the scores of a task with and without some of its cases, from the statistics of its items."""
    found = []
    for protocol in PROTOCOLS:
        for column in table.columns[protocol].values():
            groups = table.groups_of(column.rows)
            inside = [place for place, group in enumerate(groups) if group in matched]
            outside = [place for place, group in enumerate(groups) if group not in matched]
            found.append(
                Effect(
                    protocol=protocol,
                    metric=column.metric.metric_id,
                    all=_part(column, groups, range(len(groups))),
                    without_matches=_part(column, groups, outside),
                    matches_only=_part(column, groups, inside),
                )
            )
    return tuple(found)


def _part(column: Column, groups: Sequence[str], places: Sequence[int]) -> PartScore:
    value = float(column.metric.compute(column.statistics[list(places)].sum(axis=0))) if places else float("nan")
    cases = len({groups[place] for place in places})
    return PartScore(value=None if np.isnan(value) else value, n=len(places), cases=cases)


def beyond_peers(mine: Effect, peers: Sequence[Effect]) -> float | None:
    """Return how much more a model gains on the cases with a match than its peers do; None where nobody can say.

    Such cases may simply be easy; then peers gain on them too.
    """
    gains = [one.gain for one in peers if one.gain is not None]
    if mine.gain is None or len(gains) < len(peers) or not peers:
        return None
    return mine.gain - sum(gains) / len(gains)
