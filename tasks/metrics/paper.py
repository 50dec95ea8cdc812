"""The metrics of the paper protocol: bug for bug what produced the paper's tables."""

from collections.abc import Mapping, Sequence

from medbench.tasks.metrics.accuracy import contains_reference, exact_match
from medbench.tasks.metrics.assembly import (
    box_metric,
    corpus_bleu_metrics,
    is_closed,
    is_open,
    macro_f1_metric,
    meteor_metric,
    pair_metric,
    worded_pair_metric,
)
from medbench.tasks.metrics.bleu import sentence_bleu1
from medbench.tasks.metrics.boxes import paper_hit, paper_iou
from medbench.tasks.metrics.f1 import asymmetric_f1
from medbench.tasks.metrics.metric import Metric, Scorable
from medbench.tasks.metrics.normalise import normalise_answer
from medbench.tasks.metrics.rouge import SET_ROUGE
from medbench.tasks.metrics.text_processor import REFERENCE_WORDS, clean_prediction, first_words
from medbench.tasks.spec import Kind

_PAPER = f"refs{REFERENCE_WORDS}|paper"
_REPORTS = f"drop-empty|{_PAPER}"


def processed_texts(scorable: Scorable) -> tuple[str, str]:
    """Return the prediction in lower case without `<unk>`, and the first 50 words of the reference."""
    return clean_prediction(scorable.prediction), first_words(scorable.reference)


def normalised_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both processed texts in the normal form of the official evaluation."""
    prediction, reference = processed_texts(scorable)
    return normalise_answer(prediction), normalise_answer(reference)


def twice_normalised_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts normalised twice: the official METEOR step overwrites what ROUGE normalises again."""
    prediction, reference = normalised_texts(scorable)
    return normalise_answer(prediction), normalise_answer(reference)


def paper_metrics(kind: Kind, classes: Sequence[str] = ()) -> Mapping[str, Metric]:
    """Return every metric of the paper protocol that is defined for `kind`, by id.

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


def chosen_texts(scorable: Scorable) -> tuple[str, str]:
    """Return the choice that was taken and the right one; without choices, `normalised_texts`.

    Only for QA, which the official code does not evaluate; its classification compares whole texts. Keys are compared
    as they are, since the normal form of the option `A` is nothing at all.
    """
    return (scorable.choice, scorable.reference) if scorable.choices else normalised_texts(scorable)


def _of_answers(kind: Kind, classes: Sequence[str]) -> tuple[Metric, ...]:
    form, texts = f"normalised|{_PAPER}", normalised_texts
    if kind == "qa":
        form, texts = f"choice-if-any|{form}", chosen_texts
    return (
        pair_metric("bleu1", f"bleu1|sentence|{form}", sentence_bleu1, texts),
        pair_metric("f1", f"f1|asymmetric|{form}", asymmetric_f1, texts),
        pair_metric("accuracy", f"accuracy|exact|{form}", exact_match, texts),
        macro_f1_metric(form, texts, classes),
        pair_metric(
            "closed_accuracy",
            f"closed_accuracy|substring|closed|{form}",
            contains_reference,
            texts,
            applies=is_closed,
        ),
        pair_metric("open_f1", f"open_f1|asymmetric|open|{form}", asymmetric_f1, texts, applies=is_open),
        pair_metric("closed_f1", f"closed_f1|asymmetric|closed|{form}", asymmetric_f1, texts, applies=is_closed),
    )


def _of_reports() -> tuple[Metric, ...]:
    return (
        *corpus_bleu_metrics(_REPORTS, processed_texts),
        *(
            worded_pair_metric(
                name, f"{name}|rouge1.0.1|f|sets|normalised-twice|{_REPORTS}", score, twice_normalised_texts
            )
            for name, score in SET_ROUGE.items()
        ),
        meteor_metric(f"normalised|{_REPORTS}", normalised_texts),
    )


def _of_boxes() -> tuple[Metric, ...]:
    form = "inclusive-pixels|unparsed=0|paper"
    return (
        box_metric("iou", f"iou|{form}", paper_iou),
        box_metric("r_at_0.5", f"r_at_0.5|iou>0.5|{form}", paper_hit),
    )
