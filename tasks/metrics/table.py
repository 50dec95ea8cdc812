"""The table of metrics: every metric under both protocols side by side, so that one sees in what they differ.

`paper` does bug for bug what produced the paper's tables: predictions in lower case without `<unk>`, references cut to
their first 50 words, the official normal form. `strict` does what the paper's text and common sense say, on whole
references.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from medbench.tasks.answers import texts as forms
from medbench.tasks.answers.thoughts import answer_itself
from medbench.tasks.metrics import answers, meteor, reports
from medbench.tasks.metrics.java import tokenise
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable, everything, mean_of_scores, score_statistics
from medbench.tasks.spec import Kind

Texts = Callable[[Scorable], tuple[str, str]]
"""Gives prediction and reference in the form in which they are compared."""
Score = Callable[[Scorable], float | None]
Table = Mapping[str, tuple[Metric, Metric]]
"""Metrics by id, each under `paper` and under `strict`."""

_PAPER = f"refs{forms.REFERENCE_WORDS}|paper"
_DROP_EMPTY = f"drop-empty|{_PAPER}"
_PLAIN = "plain|strict"


def processed_texts(scorable: Scorable) -> tuple[str, str]:
    """Return the prediction in lower case without `<unk>`, and the first 50 words of the reference."""
    return forms.clean_prediction(scorable.prediction), forms.first_words(scorable.reference)


def normalised_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both processed texts in the normal form of the official evaluation."""
    prediction, reference = processed_texts(scorable)
    return forms.normalise_answer(prediction), forms.normalise_answer(reference)


def twice_normalised_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts normalised twice: the official METEOR step overwrites what ROUGE normalises again."""
    prediction, reference = normalised_texts(scorable)
    return forms.normalise_answer(prediction), forms.normalise_answer(reference)


def chosen_texts(scorable: Scorable) -> tuple[str, str]:
    """Return the choice that was taken and the right one; without choices, `normalised_texts`.

    Only for QA, which the official code does not evaluate; its classification compares whole texts. Keys are compared
    as they are, since the normal form of the option `A` is nothing at all.
    """
    return (scorable.choice, scorable.reference) if scorable.choices else normalised_texts(scorable)


def strict_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts in the normal form of the strict protocol; where there are choices, the one that was taken."""
    prediction = scorable.choice if scorable.choices else answer_itself(scorable.prediction)
    return forms.normalise_strictly(prediction), forms.normalise_strictly(scorable.reference)


def closed_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts as they are, since marks tell clauses apart; where there are choices, the taken one."""
    return scorable.choice if scorable.choices else scorable.prediction, scorable.reference


def whole_texts(scorable: Scorable) -> tuple[str, str]:
    """Return both texts whole, without markup and typographic characters."""
    return forms.plain_text(scorable.prediction), forms.plain_text(scorable.reference)


def _is_of(answer_type: str, scorable: Scorable) -> bool:
    return scorable.labels.get("answer_type") == answer_type


# Whether the dataset calls a question open, or closed.
is_open, is_closed = partial(_is_of, "OPEN"), partial(_is_of, "CLOSED")


def _mean(signature: str, score: Score, applies: Callable[[Scorable], bool] = everything) -> Metric:
    """Return the mean of a score; as always, the signature begins with the id of the metric."""
    statistics = partial(_scores, score)
    metric_id = signature.partition("|")[0]
    return Metric(
        metric_id=metric_id, signature=signature, statistics=statistics, compute=mean_of_scores, applies=applies
    )


def _scores(score: Score, scorables: Sequence[Scorable]) -> FloatArray:
    return score_statistics([score(scorable) for scorable in scorables])


def _of_pair(score: reports.PairScore, texts: Texts, scorable: Scorable, *, worded: bool = False) -> float | None:
    pair = texts(scorable)
    return score(*pair) if not worded or all(pair) else None


def _corpus(signature: str, texts: Texts) -> Metric:
    metric_id = signature.partition("|")[0]
    statistics, weights = reports.corpus_bleu_statistics, reports.corpus_bleu_weights
    compute: Callable[[FloatArray], FloatArray] = reports.corpus_bleu1 if metric_id == "bleu1" else reports.corpus_bleu4
    if metric_id == "meteor":
        statistics, weights, compute = meteor.meteor_statistics, meteor.corpus_meteor_weights, meteor.corpus_meteor
    return Metric(
        metric_id=metric_id, signature=signature, tokenised=texts, weights=weights, compute=compute,
        statistics=partial(_of_tokens, statistics, texts),
    )  # fmt: skip


def _of_tokens(
    statistics: Callable[[Sequence[str], Sequence[str]], FloatArray], texts: Texts, scorables: Sequence[Scorable]
) -> FloatArray:
    pairs = [texts(scorable) for scorable in scorables]
    tokens = tokenise([prediction for prediction, _ in pairs] + [reference for _, reference in pairs])
    return statistics(tokens[: len(pairs)], tokens[len(pairs) :])


def macro_f1_metric(form: str, texts: Texts, classes: Sequence[str] = ()) -> Metric:
    """Return macro-F1 over the classes that occur among the references, compared in a `form` (for the signature).

    `classes` in that form fix the columns of the statistics. Without them the columns are the sorted references of the
    scorables at hand, so only statistics of one call can be added.
    """
    return Metric(
        metric_id="macro_f1", signature=f"macro_f1|exact|reference-classes|{form}", compute=answers.macro_f1,
        statistics=partial(_of_classes, texts, tuple(classes)), weights=answers.macro_f1_weights, adds=bool(classes),
    )  # fmt: skip


def _of_classes(texts: Texts, classes: tuple[str, ...], scorables: Sequence[Scorable]) -> FloatArray:
    pairs = [texts(scorable) for scorable in scorables]
    predictions, references = ([pair[side] for pair in pairs] for side in (0, 1))
    return answers.class_statistics(predictions, references, classes or sorted(set(references)))


def table_of(kind: Kind, classes: Sequence[str] = ()) -> Table:
    """Return all metrics that are defined for a kind of task, by id, each under `paper` and under `strict`."""
    rows = _BOXES if kind == "rec" else _REPORTS if kind == "report" else _of_answers(kind, classes)
    return {paper.metric_id: (paper, strict) for paper, strict in rows}


# In each row the paper's definition stands first, the strict one behind it.
_BOXES = [
    (_mean("iou|inclusive-pixels|unparsed=0|paper", answers.paper_iou), _mean("iou|exact|strict", answers.strict_iou)),
    (
        _mean("r_at_0.5|iou>0.5|inclusive-pixels|unparsed=0|paper", answers.paper_hit),
        _mean("r_at_0.5|iou>=0.5|exact|strict", answers.strict_hit),
    ),
]
_REPORTS = [
    (_corpus(f"{name}{form}|{_DROP_EMPTY}", texts), _corpus(f"{name}|{_PLAIN}", whole_texts))
    for name, form, texts in (
        ("bleu1|corpus|closest|ptb", "", processed_texts),
        ("bleu4|corpus|closest|ptb", "", processed_texts),
        ("meteor|java1.5|ptb", "|normalised", normalised_texts),
    )
] + [
    (
        _mean(
            f"{name}|rouge1.0.1|f|sets|normalised-twice|{_DROP_EMPTY}",
            partial(_of_pair, on_sets, twice_normalised_texts, worded=True),
        ),
        _mean(
            f"{name}|google0.1.2|f|no-stemmer|all-scripts|{_PLAIN}",
            partial(_of_pair, reports.GOOGLE_ROUGE[name], whole_texts),
        ),
    )
    for name, on_sets in reports.SET_ROUGE.items()
]
_ANSWERS = (
    ("bleu1", "sentence", answers.sentence_bleu1, "sentence", answers.sentence_bleu1, everything),
    ("f1", "asymmetric", answers.asymmetric_f1, "clipped", answers.clipped_f1, everything),
    ("accuracy", "exact", answers.exact_match, "exact", answers.exact_answer, everything),
    ("open_f1", "asymmetric|open", answers.asymmetric_f1, "clipped|open", answers.clipped_f1, is_open),
    ("closed_f1", "asymmetric|closed", answers.asymmetric_f1, "clipped|closed", answers.clipped_f1, is_closed),
)


def _of_answers(kind: Kind, classes: Sequence[str]) -> list[tuple[Metric, Metric]]:
    paper, texts = f"normalised|{_PAPER}", normalised_texts
    if kind == "qa":
        paper, texts = f"choice-if-any|{paper}", chosen_texts
    # Kinds whose questions may come with a closed list of answers.
    read = "choice-if-any|" if kind in {"qa", "cls"} else ""
    strict = f"{read}unlabelled|normalised-strictly|{_PLAIN}"
    substring, reading = f"closed_accuracy|substring|closed|{paper}", f"closed_accuracy|one-reading|closed|{read}strict"
    rows = [
        (
            _mean(f"{name}|{official}|{paper}", partial(_of_pair, official_score, texts), applies),
            _mean(f"{name}|{ours}|{strict}", partial(_of_pair, our_score, strict_texts), applies),
        )
        for name, official, official_score, ours, our_score, applies in _ANSWERS
    ]
    return [
        *rows,
        (macro_f1_metric(paper, texts, classes), macro_f1_metric(strict, strict_texts, classes)),
        (
            _mean(substring, partial(_of_pair, answers.contains_reference, texts), is_closed),
            _mean(reading, partial(_of_pair, answers.answers_closed, closed_texts), is_closed),
        ),
    ]
