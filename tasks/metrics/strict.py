"""The metrics of the strict protocol: what the paper's text and common sense say, on whole references."""

from collections.abc import Mapping, Sequence

from medbench.tasks.answers.labels import answer_itself
from medbench.tasks.answers.plain import plain_text
from medbench.tasks.metrics.accuracy import answers_closed, exact_answer
from medbench.tasks.metrics.assembly import (
    box_metric,
    corpus_bleu_metrics,
    is_closed,
    is_open,
    macro_f1_metric,
    meteor_metric,
    pair_metric,
)
from medbench.tasks.metrics.bleu import sentence_bleu1
from medbench.tasks.metrics.boxes import strict_hit, strict_iou
from medbench.tasks.metrics.f1 import clipped_f1
from medbench.tasks.metrics.metric import Metric, Scorable
from medbench.tasks.metrics.normalise import normalise_strictly
from medbench.tasks.metrics.rouge import GOOGLE_ROUGE
from medbench.tasks.spec import Kind

_STRICT = "strict"
_PLAIN = f"plain|{_STRICT}"
KINDS_WITH_CHOICES: frozenset[Kind] = frozenset({"qa", "cls"})
"""Kinds whose questions may come with a closed list of answers."""


def whole_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts whole, without markup and typographic characters."""
    return plain_text(scorable.prediction), plain_text(scorable.reference)


def strict_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts in the normal form of the strict protocol; where there are choices, the one that was taken."""
    prediction = scorable.choice if scorable.choices else answer_itself(scorable.prediction)
    return normalise_strictly(prediction), normalise_strictly(scorable.reference)


def closed_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts as they are, since marks tell clauses apart; where there are choices, the taken one."""
    return scorable.choice if scorable.choices else scorable.prediction, scorable.reference


def strict_metrics(kind: Kind, classes: Sequence[str] = ()) -> Mapping[str, Metric]:
    """Return every metric of the strict protocol that is defined for `kind`, by id.

    Args:
        kind: What the task asks.
        classes: The classes of macro-F1, see `macro_f1_metric`.
    """
    if kind == "rec":
        metrics = _of_boxes()
    elif kind == "report":
        metrics = _of_reports()
    else:
        metrics = _of_answers(kind, classes)
    return {metric.metric_id: metric for metric in metrics}


def _of_answers(kind: Kind, classes: Sequence[str]) -> tuple[Metric, ...]:
    read = "choice-if-any|" if kind in KINDS_WITH_CHOICES else ""
    form, texts = f"{read}unlabelled|normalised-strictly|{_PLAIN}", strict_texts
    return (
        pair_metric("bleu1", f"bleu1|sentence|{form}", sentence_bleu1, texts),
        pair_metric("f1", f"f1|clipped|{form}", clipped_f1, texts),
        pair_metric("accuracy", f"accuracy|exact|{form}", exact_answer, texts),
        macro_f1_metric(form, texts, classes),
        pair_metric(
            "closed_accuracy",
            f"closed_accuracy|one-reading|closed|{read}{_STRICT}",
            answers_closed,
            closed_texts,
            applies=is_closed,
        ),
        pair_metric("open_f1", f"open_f1|clipped|open|{form}", clipped_f1, texts, applies=is_open),
        pair_metric("closed_f1", f"closed_f1|clipped|closed|{form}", clipped_f1, texts, applies=is_closed),
    )


def _of_reports() -> tuple[Metric, ...]:
    return (
        *corpus_bleu_metrics(_PLAIN, whole_texts),
        *(
            pair_metric(name, f"{name}|google0.1.2|f|no-stemmer|all-scripts|{_PLAIN}", score, whole_texts)
            for name, score in GOOGLE_ROUGE.items()
        ),
        meteor_metric(_PLAIN, whole_texts),
    )


def _of_boxes() -> tuple[Metric, ...]:
    return (
        box_metric("iou", f"iou|exact|{_STRICT}", strict_iou),
        box_metric("r_at_0.5", f"r_at_0.5|iou>=0.5|exact|{_STRICT}", strict_hit),
    )
