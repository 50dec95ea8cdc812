"""What an audit of outputs looks at: answers beside references, by case, in the form in which they are compared."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from medbench.leaderboard.audit.normalise import is_long, norm_v1
from medbench.tasks.foundation.files import fingerprint

Clusters = Mapping[str, frozenset[str]]
"""The cases in which a text occurs, by the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer of a model beside its reference.

    Attributes:
        sample_id: The sample; unique.
        group: The case that it belongs to: patient, study, image, document.
        prediction: What the model said; None where it said nothing or failed.
        reference: What is right; None where nobody says.
        question: What the model was asked, or empty.
        closed: Whether the answer comes from a list, or is no text at all.
        truncated: Whether the answer was cut at the length limit.
    """

    sample_id: str
    group: str
    prediction: str | None
    reference: str | None
    question: str = ""
    closed: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One model on one task, normalised; N items in the order of their ids, whatever order they came in.

    Attributes:
        items: N answers.
        predictions: Their texts, None where missing.
        references: Their references, None where missing.
        questions: What was asked, None where nobody says.
        reference_clusters: Cases by reference, of the whole test split.
        train_references: Long references that a model may have been trained on; None where they are not known.
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
        return Cell(
            items=[replace(item, truncated=False) for item in self.items], predictions=predictions,
            references=self.references, questions=self.questions,
            reference_clusters=self.reference_clusters, train_references=self.train_references,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Return the identity of answers, references and cases, for whoever wants to repeat an audit."""
        rows = [
            (item.sample_id, item.group, prediction, reference)
            for item, prediction, reference in zip(self.items, self.predictions, self.references, strict=True)
        ]
        return fingerprint(rows)


def make_cell(
    items: Iterable[Answered],
    *,
    train_references: frozenset[str] | None,
    whole_split: Iterable[tuple[str | None, str]] = (),
) -> Cell:
    """Normalise a task's answers.

    Args:
        items: The answers, ids unique, in any order.
        train_references: What `long_texts` makes of known training references; None if none are known.
        whole_split: Reference and case of every sample of the test split, where not all were answered.
    """
    ordered = sorted(items, key=lambda item: item.sample_id)
    references = [norm_v1(item.reference) for item in ordered]
    known = [(norm_v1(reference), group) for reference, group in whole_split]
    return Cell(
        items=ordered,
        predictions=[norm_v1(item.prediction) for item in ordered],
        references=references,
        questions=[norm_v1(item.question) for item in ordered],
        reference_clusters=clusters_by_text(
            [*references, *(reference for reference, _ in known)],
            [*(item.group for item in ordered), *(group for _, group in known)],
        ),
        train_references=train_references,
    )


def clusters_by_text(texts: Sequence[str | None], groups: Sequence[str]) -> Clusters:
    """Return the cases in which each text occurs."""
    found: dict[str, set[str]] = defaultdict(set)
    for text, group in zip(texts, groups, strict=True):
        if text is not None:
            found[text].add(group)
    return {text: frozenset(there) for text, there in found.items()}


def long_texts(texts: Iterable[object], min_words: int) -> frozenset[str]:
    """Return the texts with so many words, normalised."""
    return frozenset(text for one in texts if (text := norm_v1(one)) is not None and is_long(text, min_words))


@lru_cache(maxsize=4)
def texts_fingerprint(texts: frozenset[str]) -> str:
    """Return the identity of a set of texts; tasks of one run share theirs."""
    return fingerprint(sorted(texts))
