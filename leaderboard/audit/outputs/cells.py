"""What an audit of outputs looks at: answers beside references, and which matches could prove anything."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.audit.normalise import is_long, norm_v1
from medbench.leaderboard.samples import ScoreTable
from medbench.tasks.foundation.files import fingerprint

Clusters = Mapping[str, set[str]]
"""The cases in which a text occurs, by the text."""
Reason = Literal[
    "eligible", "no_reference", "closed", "short", "in_the_question", "in_train_refs", "shared_across_clusters",
    "model_repeats_itself", "truncated", "missing",
]  # fmt: skip
OF_THE_REFERENCE: frozenset[Reason] = frozenset(
    {"no_reference", "closed", "short", "in_the_question", "in_train_refs", "shared_across_clusters"}
)
"""Why no answer to an item could prove anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The numbers by which an audit of outputs decides: they hold in simulations, see the table of `docs/audit.md`."""

    min_words: int = 8  # words that a reference needs, normalised, to be hardly ever written twice
    sensitive_words: int = 12  # the same for the second look that is reported beside the first
    tolerated_rate: float = 0.005  # share of eligible references that an honest model may reproduce
    alpha: float = 0.001  # level of `strong`, by Holm over the tasks that could be tested
    suspicious_alpha: float = 0.05  # level of `suspicious`, for one task alone
    fewest_matches: int = 5  # cases with a match that `strong` needs
    fewest_suspicious: int = 3  # cases with a match that `suspicious` needs
    fewest_clusters: int = 20  # cases with an eligible reference below which nothing is tested
    fewest_peers: int = 3  # peers from which on their own rate replaces the tolerated one, if it is higher
    near_similarity: float = 0.9  # word LCS over the longer text from which on a pair is a near match (evidence only)
    near_words: int = 12  # words that both texts of a near match need
    fewest_graded: int = 10  # answers that must tell of a model's skill at single sentences before it explains anything
    skill_ceiling: float = 0.1  # most that this skill may explain of one reference
    skill_alpha: float = 0.01  # level of `suspicious` beyond this skill: that line an honest model may well reach
    power: float = 0.8  # probability with which the detectable rate would have been found
    planted: float = 0.1  # share of cases that a planted leak takes
    fewest_clean_clusters: int = 30  # cases without a match below which no score without them is given


THRESHOLDS = Thresholds()


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer of a model beside its reference; `said` and `right` are both in normal form."""

    sample_id: str  # the sample; unique
    group: str  # the case that it belongs to: patient, study, image, document
    prediction: str | None  # what the model said; None where it said nothing or failed
    reference: str | None
    question: str = ""
    closed: bool = False  # whether the answer comes from a list, or is no text at all
    truncated: bool = False  # whether the answer was cut at the length limit

    @cached_property
    def said(self) -> str | None:
        """The answer in normal form."""
        return norm_v1(self.prediction)

    @cached_property
    def right(self) -> str | None:
        """The reference in normal form."""
        return norm_v1(self.reference)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One model on one task; N items in the order of their ids, whatever order they came in."""

    items: Sequence[Answered]
    reference_clusters: Clusters  # the cases by reference, of the whole test split
    train_references: frozenset[str] | None  # long ones that a model may have been trained on; None if not known
    train_texts: Sequence[str] | None = None  # all of them, as they stand in the data
    table: ScoreTable | None = None  # the scores of the answers, where there are some

    def with_answers(self, answers: Sequence[str | None]) -> "Cell":
        """Return the same with other answers, none of them cut."""
        pairs = zip(self.items, answers, strict=True)
        return replace(self, items=[replace(item, prediction=said, truncated=False) for item, said in pairs])

    def fingerprint(self) -> str:
        """Return the identity of answers, references and cases, for whoever wants to repeat an audit."""
        return fingerprint([(item.sample_id, item.group, item.said, item.right) for item in self.items])


def make_cell(
    items: Iterable[Answered], *, train_references: frozenset[str] | None,
    whole_split: Iterable[tuple[str | None, str]] = (),
) -> Cell:  # fmt: skip
    """Return a task's answers as what is audited: ids are unique, in any order.

    `whole_split` has reference and case of every sample of the test split, where not all were answered;
    `train_references` is None if none are known.
    """
    ordered = sorted(items, key=lambda item: item.sample_id)
    own = ((item.right, item.group) for item in ordered)
    clusters = _clusters(chain(own, ((norm_v1(reference), group) for reference, group in whole_split)))
    return Cell(items=ordered, reference_clusters=clusters, train_references=train_references)


def _clusters(occurrences: Iterable[tuple[str | None, str]]) -> Clusters:
    found: dict[str, set[str]] = defaultdict(set)
    for text, group in occurrences:
        if text is not None:
            found[text].add(group)
    return found


def long_texts(texts: Iterable[object], min_words: int = THRESHOLDS.min_words) -> frozenset[str]:
    """Return the texts with so many words, normalised."""
    return frozenset(text for one in texts if (text := norm_v1(one)) is not None and is_long(text, min_words))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchCounts:
    """The counts of one model on one task."""

    reasons: Sequence[Reason]  # of each of N items, whether a match would count, or why not
    exact: Sequence[bool]  # of each of N items, whether the answer equals the reference
    eligible: Sequence[int]  # places of the items in which a match counts
    counted: Sequence[int]  # places of the matches among them
    sizes: npt.NDArray[np.intp]  # distinct eligible references of each of K cases that have any [K]
    matched: frozenset[str]  # the cases among these with an eligible exact match


def count_matches(cell: Cell, min_words: int) -> MatchCounts:
    """Count by case: two images of one study with one report are one match, not two."""
    said = _clusters((item.said, item.group) for item in cell.items)
    reasons = [_reason(cell, item, said, min_words) for item in cell.items]
    exact = [item.said is not None and item.said == item.right for item in cell.items]
    eligible = [place for place, reason in enumerate(reasons) if reason == "eligible"]
    counted = [place for place in eligible if exact[place]]
    references: dict[str, set[str | None]] = defaultdict(set)
    for item in (cell.items[place] for place in eligible):
        references[item.group].add(item.right)
    return MatchCounts(
        reasons=reasons, exact=exact, eligible=eligible, counted=counted,
        sizes=np.asarray([len(references[group]) for group in sorted(references)], dtype=np.intp),
        matched=frozenset(cell.items[place].group for place in counted),
    )  # fmt: skip


def _reason(cell: Cell, item: Answered, said: Clusters, min_words: int) -> Reason:
    """Return the first rule that forbids that an exact match counts, or `eligible`."""
    if item.right is None:
        return "no_reference"
    # Rules on the reference come first: models of a task differ only where they repeat themselves or are silent.
    own, question = {item.group}, norm_v1(item.question) or ""
    rules: dict[Reason, bool] = {
        "closed": item.closed,
        "short": not is_long(item.right, min_words),
        "in_the_question": f" {item.right} " in f" {question} ",
        "in_train_refs": item.right in (cell.train_references or ()),
        "shared_across_clusters": cell.reference_clusters[item.right] > own,
        "missing": item.said is None,
        # A model that says a reference where it is wrong, and nowhere else, has not made its right answers templates.
        "model_repeats_itself": item.said == item.right and said[item.right] > own,
        "truncated": item.truncated,
    }
    return next((reason for reason, holds in rules.items() if holds), "eligible")
