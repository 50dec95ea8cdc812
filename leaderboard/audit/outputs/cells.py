"""What an audit of outputs looks at: answers beside references, and which matches could prove anything.

A match counts only where the reference is long, new to the model as far as is known, one case's own, and said once. An
answer that equals a short reference is skill or luck; one that equals a training reference is what training is for; one
that equals several cases' reference, or that the model also says of other cases, is a template.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.audit.normalise import is_long, norm_v1
from medbench.tasks.foundation.files import fingerprint

Clusters = Mapping[str, frozenset[str]]
"""The cases in which a text occurs, by the text."""
Reason = Literal[
    "eligible", "no_reference", "closed", "short", "in_the_question", "in_train_refs", "shared_across_clusters",
    "model_repeats_itself", "truncated", "missing",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The numbers by which an audit of outputs decides; every report repeats them.

    The defaults hold in simulations with invented reports; `docs/audit.md` has the table.
    """

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer of a model beside its reference."""

    sample_id: str  # the sample; unique
    group: str  # the case that it belongs to: patient, study, image, document
    prediction: str | None  # what the model said; None where it said nothing or failed
    reference: str | None
    question: str = ""
    closed: bool = False  # whether the answer comes from a list, or is no text at all
    truncated: bool = False  # whether the answer was cut at the length limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One model on one task, normalised; N items in the order of their ids, whatever order they came in.

    Texts are None where they are missing. `reference_clusters` has the cases by reference, of the whole test split,
    `train_references` the long references that a model may have been trained on; None where they are not known.
    """

    items: Sequence[Answered]
    predictions: Sequence[str | None]
    references: Sequence[str | None]
    questions: Sequence[str | None]
    reference_clusters: Clusters
    train_references: frozenset[str] | None

    @property
    def groups(self) -> list[str]:
        """The case of each item."""
        return [item.group for item in self.items]

    def with_predictions(self, predictions: Sequence[str | None]) -> "Cell":
        """Return the same with other normalised answers, none of them cut."""
        return replace(self, items=[replace(item, truncated=False) for item in self.items], predictions=predictions)

    def fingerprint(self) -> str:
        """Return the identity of answers, references and cases, for whoever wants to repeat an audit."""
        ids = ((item.sample_id, item.group) for item in self.items)
        return fingerprint([(*one, *texts) for one, *texts in zip(ids, self.predictions, self.references, strict=True)])


def make_cell(
    items: Iterable[Answered], *, train_references: frozenset[str] | None,
    whole_split: Iterable[tuple[str | None, str]] = (),
) -> Cell:  # fmt: skip
    """Normalise a task's answers: ids are unique, in any order.

    `whole_split` has reference and case of every sample of the test split, where not all were answered;
    `train_references` is None if none are known.
    """
    ordered = sorted(items, key=lambda item: item.sample_id)
    own = [(norm_v1(item.reference), item.group) for item in ordered]
    return Cell(
        items=ordered, predictions=[norm_v1(item.prediction) for item in ordered],
        references=[reference for reference, _ in own], questions=[norm_v1(item.question) for item in ordered],
        reference_clusters=_clusters([*own, *((norm_v1(reference), group) for reference, group in whole_split)]),
        train_references=train_references,
    )  # fmt: skip


def _clusters(occurrences: Iterable[tuple[str | None, str]]) -> Clusters:
    """Return the cases in which each text occurs, from texts with their case."""
    found: dict[str, set[str]] = defaultdict(set)
    for text, group in occurrences:
        if text is not None:
            found[text].add(group)
    return {text: frozenset(there) for text, there in found.items()}


def long_texts(texts: Iterable[object], min_words: int = THRESHOLDS.min_words) -> frozenset[str]:
    """Return the texts with so many words, normalised."""
    return frozenset(text for one in texts if (text := norm_v1(one)) is not None and is_long(text, min_words))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchCounts:
    """The counts of one model on one task."""

    reasons: list[Reason]  # of each of N items, whether a match would count, or why not
    exact: list[bool]  # of each of N items, whether the answer equals the reference
    sizes: npt.NDArray[np.intp]  # distinct eligible references of each of K cases that have any [K]
    matched: tuple[str, ...]  # the cases among these with an eligible exact match, sorted

    @property
    def clusters(self) -> int:
        """Cases with an eligible reference, K."""
        return len(self.sizes)

    @property
    def matches(self) -> int:
        """Cases with an eligible exact match, k."""
        return len(self.matched)

    @property
    def items_by_reason(self) -> dict[Reason, int]:
        """All items by reason."""
        return {reason: number for reason in REASONS if (number := self.reasons.count(reason))}

    @property
    def exact_by_reason(self) -> dict[Reason, int]:
        """Exact matches by reason."""
        exact = list(compress(self.reasons, self.exact))
        return {reason: number for reason in REASONS if (number := exact.count(reason))}

    @property
    def eligible(self) -> list[int]:
        """Places of the items in which a match counts."""
        return [place for place, reason in enumerate(self.reasons) if reason == "eligible"]

    @property
    def counted_rows(self) -> list[int]:
        """Places of the exact matches that count."""
        return [place for place in self.eligible if self.exact[place]]


def count_matches(cell: Cell, min_words: int) -> MatchCounts:
    """Count by case: two images of one study with one report are one match, not two."""
    said = _clusters(zip(cell.predictions, cell.groups, strict=True))
    reasons = [next(_reasons(cell, place, said, min_words)) for place in range(len(cell.items))]
    pairs = zip(cell.predictions, cell.references, strict=True)
    exact = [prediction is not None and prediction == reference for prediction, reference in pairs]
    references: dict[str, set[str | None]] = defaultdict(set)
    matched = set()
    for item, reference, reason, same in zip(cell.items, cell.references, reasons, exact, strict=True):
        if reason == "eligible":
            references[item.group].add(reference)
            matched |= {item.group} if same else set()
    sizes = np.asarray([len(references[group]) for group in sorted(references)], dtype=np.intp)
    return MatchCounts(reasons=reasons, exact=exact, sizes=sizes, matched=tuple(sorted(matched)))


def _reasons(cell: Cell, place: int, said: Clusters, min_words: int) -> Iterator[Reason]:
    """Yield which rules forbid that an exact match counts, and `eligible` last.

    The rules on the reference come first, so that models of one task differ only where they repeat themselves or said
    nothing.
    """
    item, reference, prediction = cell.items[place], cell.references[place], cell.predictions[place]
    if reference is None:
        yield "no_reference"
        return
    if item.closed:
        yield "closed"
    if not is_long(reference, min_words):
        yield "short"
    if f" {reference} " in f" {cell.questions[place] or ''} ":
        yield "in_the_question"
    if cell.train_references is not None and reference in cell.train_references:
        yield "in_train_refs"
    if cell.reference_clusters[reference] - {item.group}:
        yield "shared_across_clusters"
    if prediction is None:
        yield "missing"
    # A model that says a reference where it is wrong, and nowhere else, has not made its right answers templates.
    elif prediction == reference and said[prediction] - {item.group}:
        yield "model_repeats_itself"
    if item.truncated:
        yield "truncated"
    yield "eligible"
