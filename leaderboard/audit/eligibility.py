"""Which references could prove anything: long, new to the model as far as is known, one case's own, said once.

An answer that equals a short reference is skill or luck; one that equals a training reference is what training is for;
one that equals several cases' reference, or that the model also says of other cases, is a template.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from medbench.leaderboard.audit.items import Cell, Clusters, clusters_by_text
from medbench.leaderboard.audit.normalise import is_long

Reason = Literal[
    "eligible",
    "no_reference",
    "closed",
    "short",
    "in_the_question",
    "in_train_refs",
    "shared_across_clusters",
    "model_repeats_itself",
    "truncated",
    "missing",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
REASON_TEXTS: dict[Reason, str] = {
    "eligible": "could prove something",
    "no_reference": "no reference",
    "closed": "the answer comes from a list, or is no text",
    "short": "too few words",
    "in_the_question": "the question has the reference in it",
    "in_train_refs": "a known training reference is the same",
    "shared_across_clusters": "another case has the same reference",
    "model_repeats_itself": "the matching answer is given to another case too",
    "truncated": "the answer was cut at the length limit",
    "missing": "no answer",
}


def classify(cell: Cell, min_words: int) -> list[Reason]:
    """Return for each of N items whether an exact match would count, or the first rule that forbids it.

    The rules on the reference come first, so that models of one task differ only where they repeat themselves or said
    nothing.
    """
    said = clusters_by_text(cell.predictions, cell.groups)
    return [_reason(cell, place, said, min_words) for place in range(len(cell.items))]


def _reason(cell: Cell, place: int, said: Clusters, min_words: int) -> Reason:
    item, reference = cell.items[place], cell.references[place]
    if reference is None:
        return "no_reference"
    if item.closed:
        return "closed"
    if not is_long(reference, min_words):
        return "short"
    return _known_otherwise(cell, place, reference) or _said(cell, place, said)


def _known_otherwise(cell: Cell, place: int, reference: str) -> Reason | None:
    if _holds(cell.questions[place], reference):
        return "in_the_question"
    if cell.train_references is not None and reference in cell.train_references:
        return "in_train_refs"
    if cell.reference_clusters[reference] - {cell.items[place].group}:
        return "shared_across_clusters"
    return None


def _said(cell: Cell, place: int, said: Clusters) -> Reason:
    item, prediction = cell.items[place], cell.predictions[place]
    if prediction is None:
        return "missing"
    # A model that says a reference where it is wrong, and nowhere else, has not made its right answers templates.
    if prediction == cell.references[place] and said[prediction] - {item.group}:
        return "model_repeats_itself"
    return "truncated" if item.truncated else "eligible"


def _holds(question: str | None, reference: str) -> bool:
    return question is not None and f" {reference} " in f" {question} "


def exact_items(cell: Cell) -> list[bool]:
    """Return for each of N items whether the answer equals the reference; a missing one equals nothing."""
    return [
        prediction is not None and prediction == reference
        for prediction, reference in zip(cell.predictions, cell.references, strict=True)
    ]


def counted(reasons: Sequence[Reason], chosen: Sequence[bool]) -> dict[Reason, int]:
    """Return how many of the chosen items have each reason; reasons without any are left out."""
    found = [reason for reason, wanted in zip(reasons, chosen, strict=True) if wanted]
    return {reason: number for reason in REASONS if (number := found.count(reason))}
