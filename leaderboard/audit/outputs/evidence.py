"""What a person can look at beside a verdict: pairs of texts, and what the matches do to the scores."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

import numpy as np

from medbench.leaderboard.audit.document import Example
from medbench.leaderboard.audit.normalise import norm_v1, word_count
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, MatchCounts
from medbench.leaderboard.audit.outputs.verdict import drawn, sentences_of
from medbench.leaderboard.samples import MetricScores, ScoreTable
from medbench.tasks.metrics.reports import lcs_length
from medbench.tasks.protocols import PROTOCOLS, Protocol

_LONGEST_TEXT = 2000
_GRAM = 8
_BINS = 10
_FEWEST_WORDS = 5


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the words of the longest common subsequence over those of the longer text; 0 of nothing."""
    longer = max(len(first), len(second))
    return lcs_length(first, second) / longer if longer else 0.0


def is_near(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two texts are a near match: both long enough, and nearly all words in common and in order."""
    shorter, longer = sorted((len(first), len(second)))
    needed = THRESHOLDS.near_similarity * longer
    # No common subsequence has more words than they share in any order.
    if shorter < max(THRESHOLDS.near_words, needed) or (Counter(first) & Counter(second)).total() < needed:
        return False
    return similarity(first, second) >= THRESHOLDS.near_similarity


def longest_run(first: Sequence[str], second: Sequence[str]) -> dict[str, int]:
    """Return the longest run of words in both, the earliest of several: how many, and where it starts in each."""
    found = SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
    return {"words": found.size, "first": found.a * bool(found.size), "second": found.b * bool(found.size)}


def _grams(words: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a person can look at: examples, and numbers."""

    examples: Sequence[Example] = field(repr=False)  # pairs of texts
    near_matches: int  # eligible items whose answer nearly equals the reference
    # matches that count and consist of sentences of training references alone, which a model may put together by
    # itself; None if no training references are known
    of_train_sentences: int | None
    cut_alike: int  # answers cut at the length limit that agree with the reference up to there, and were not counted
    similarities: Sequence[int]  # eligible items by similarity: from 0, .1, ... up to below 1, and equal ones last.


def find_evidence(
    cell: Cell, counts: MatchCounts, train_texts: Sequence[str] | None, *, task: str = "",
    peers: Mapping[str, Cell] | None = None, withheld: bool = False,
) -> Evidence:  # fmt: skip
    """Look at the pairs of a cell.

    `train_texts` stand as in the data, None if none are known; texts are `withheld` that nobody may see without a
    signed agreement.
    """

    def words(row: int) -> tuple[list[str], list[str]]:
        return (cell.items[row].right or "").split(), (cell.items[row].said or "").split()

    near = [row for row in counts.eligible if not counts.exact[row] and is_near(*words(row))]
    alike = (1.0 if counts.exact[row] else similarity(*words(row)) for row in counts.eligible)
    bins = Counter(int(one * _BINS + 1e-9) for one in alike)
    chosen = _chosen(cell, counts, near)
    nearest = _nearest({cell.items[row].right or "" for row in chosen}, train_texts or ())
    examples = []
    for row, why in chosen.items():
        item, (right, said) = cell.items[row], words(row)
        run = longest_run(right, said)
        facts = {
            "sample_id": item.sample_id, "group": item.group, "why": why, "words": len(right),
            "similarity": similarity(right, said), "run": run,
        }  # fmt: skip
        texts = {
            "reference": item.reference, "prediction": item.prediction,
            "reference, normalised": _marked(right, run["first"], run["words"]),
            "prediction, normalised": _marked(said, run["second"], run["words"]),
            **{f"peer {name}": peer.items[row].prediction for name, peer in (peers or {}).items()},
        }  # fmt: skip
        if (found := nearest.get(cell.items[row].right or "")) is not None:
            texts["nearest training reference"], facts["nearest"] = found
        shown = {} if withheld else {name: _cut(text or "") for name, text in texts.items()}
        examples.append(Example(task=task, facts=facts, texts=shown))
    # A cut answer agrees if, but for its last word, it is how the reference begins.
    cuts = [words(row) for row, why in enumerate(counts.reasons) if why == "truncated"]
    composed = None if train_texts is None else 0
    if train_texts and counts.counted:
        known = {sentence for text in train_texts for sentence in sentences_of(text)}
        composed = sum(known.issuperset(sentences_of(cell.items[row].reference)) for row in counts.counted)
    return Evidence(
        examples=examples, near_matches=len(near), of_train_sentences=composed,
        cut_alike=sum(len(cut) > _GRAM and whole[: len(cut) - 1] == cut[:-1] for whole, cut in cuts),
        similarities=[bins[place] for place in range(_BINS + 1)],
    )  # fmt: skip


def _chosen(cell: Cell, counts: MatchCounts, near: Sequence[int]) -> dict[int, str]:
    """Return the rows to show with the reason, each once, in the order of reasons."""

    def by_length(rows: Iterable[int]) -> list[int]:
        return sorted(rows, key=lambda row: (-word_count(cell.items[row].right), cell.items[row].sample_id))

    one_of_each_case = {cell.items[row].group: row for row in reversed(counts.counted)}.values()
    longest = by_length(one_of_each_case)
    not_counted = [
        row
        for row, (exact, reason) in enumerate(zip(counts.exact, counts.reasons, strict=True))
        if exact and reason not in {"eligible", "closed"} and word_count(cell.items[row].right) >= _FEWEST_WORDS
    ]
    at_random = sorted(one_of_each_case, key=lambda row: (drawn(0, name := cell.items[row].sample_id), name))
    chosen: dict[int, str] = {}
    for why, most, rows in (
        ("longest", 5, longest), ("weakest", 3, longest[::-1]), ("random", 5, at_random), ("near", 5, near),
        ("not counted", 3, by_length(not_counted)),
    ):  # fmt: skip
        chosen |= dict.fromkeys([row for row in rows if row not in chosen][:most], why)
    return chosen


def _nearest(references: Collection[str], train_texts: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Return for each reference the training reference most like it, among those that share eight words in a row."""
    by_gram: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for reference in references:
        for gram in _grams(reference.split()):
            by_gram[gram].add(reference)
    found: dict[str, tuple[str, float]] = {}
    for text in train_texts if by_gram else ():
        words = (norm_v1(text) or "").split()
        for reference in {one for gram in _grams(words) for one in by_gram.get(gram, ())}:
            alike = similarity(reference.split(), words)
            if reference not in found or (alike, text) > found[reference][::-1]:
                found[reference] = text, alike
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ..."


def _marked(words: Sequence[str], start: int, count: int) -> str:
    """Return a normalised text with the common run in bold; it holds letters, digits and spaces alone."""
    pieces = (words[:start], words[start : start + count], words[start + count :])
    before, common, after = (_cut(" ".join(piece)) for piece in pieces)
    return " ".join(piece for piece in (before, f"**{common}**" if common else "", after) if piece)


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
    estimable: bool  # whether enough cases are left without a match
    peers: Mapping[str, "Effect"] = field(default_factory=dict)  # the same of other models, by name
    beyond_peers: float | None = None  # gain on the cases with a match beyond that of peers; None if nobody can say

    @property
    def gain(self) -> float | None:
        """How much higher the cases that match score than the others."""
        matching, others = self.matches_only.value, self.without_matches.value
        return None if matching is None or others is None else matching - others


def effects(table: ScoreTable, matched: Collection[str], peers: Mapping[str, ScoreTable] | None = None) -> list[Effect]:
    """Return the scores of a task with and without some of its cases, from the statistics of its items."""
    others = {
        name: {(one.protocol, one.metric): one for one in effects(theirs, matched)}
        for name, theirs in (peers or {}).items()
    }
    found = []
    for protocol in PROTOCOLS:
        for metric, column in table.columns[protocol].items():
            groups = dict(zip(column.sample_ids, table.groups_of(column.sample_ids), strict=True))
            inside = [name for name, group in groups.items() if group in matched]
            outside = [name for name, group in groups.items() if group not in matched]
            clean = _part(column, groups, outside)
            one = Effect(
                protocol=protocol, metric=metric, all=_part(column, groups, list(groups)), without_matches=clean,
                matches_only=_part(column, groups, inside),
                estimable=clean.cases >= THRESHOLDS.fewest_clean_clusters,
            )  # fmt: skip
            same = {name: rows[protocol, metric] for name, rows in others.items() if (protocol, metric) in rows}
            gains = [other.gain for other in same.values() if other.gain is not None]
            known = one.gain is not None and one.estimable and len(gains) == len(same) > 0
            beyond = (one.gain or 0.0) - sum(gains) / len(gains) if known else None
            found.append(replace(one, peers=same, beyond_peers=beyond))
    return found


def _part(column: MetricScores, groups: Mapping[str, str], names: Sequence[str]) -> PartScore:
    value = column.value(names) if names else float("nan")
    cases = len({groups[name] for name in names})
    return PartScore(value=None if np.isnan(value) else value, n=len(names), cases=cases)
