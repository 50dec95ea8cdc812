"""Metrics out of scoring functions: who is scored, in which form, by what.

Everything here is a partial of a module-level function, so a metric can be pickled and sent to a worker.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from medbench.tasks.metrics.accuracy import class_statistics, macro_f1, macro_f1_weights
from medbench.tasks.metrics.bleu import corpus_bleu1, corpus_bleu4, corpus_bleu_statistics, corpus_bleu_weights
from medbench.tasks.metrics.meteor import corpus_meteor, corpus_meteor_weights, meteor_statistics
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable, mean_of_scores, score_statistics
from medbench.tasks.metrics.ptb import tokenise

Texts = Callable[[Scorable], tuple[str, str]]
"""Gives prediction and reference in the form in which they are compared."""

PairScore = Callable[[str, str], float]
BoxScore = Callable[[Scorable], float]
Condition = Callable[[Scorable], bool]


def everything(_: Scorable) -> bool:
    """Return True: the metric is for all samples."""
    return True


def is_open(scorable: Scorable) -> bool:
    """Return whether the dataset calls the question open."""
    return scorable.labels.get("answer_type") == "OPEN"


def is_closed(scorable: Scorable) -> bool:
    """Return whether the dataset calls the question closed."""
    return scorable.labels.get("answer_type") == "CLOSED"


def pair_metric(
    metric_id: str, signature: str, score: PairScore, texts: Texts, *, applies: Condition = everything
) -> Metric:
    """Return the mean of a score of two texts."""
    return Metric(
        metric_id=metric_id,
        signature=signature,
        statistics=partial(_pair_statistics, score, texts),
        compute=mean_of_scores,
        applies=applies,
    )


def _pair_statistics(score: PairScore, texts: Texts, scorables: Sequence[Scorable]) -> FloatArray:
    return score_statistics([score(*texts(scorable)) for scorable in scorables])


def worded_pair_metric(metric_id: str, signature: str, score: PairScore, texts: Texts) -> Metric:
    """Return the mean of a score over the pairs in which both texts have words; other pairs count nothing."""
    return Metric(
        metric_id=metric_id,
        signature=signature,
        statistics=partial(_worded_pair_statistics, score, texts),
        compute=mean_of_scores,
        applies=everything,
    )


def _worded_pair_statistics(score: PairScore, texts: Texts, scorables: Sequence[Scorable]) -> FloatArray:
    pairs = [texts(scorable) for scorable in scorables]
    rows = [(score(*pair), 1.0) if all(pair) else (0.0, 0.0) for pair in pairs]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2)


def box_metric(metric_id: str, signature: str, score: BoxScore) -> Metric:
    """Return the mean of a score of two boxes."""
    return Metric(
        metric_id=metric_id,
        signature=signature,
        statistics=partial(_box_statistics, score),
        compute=mean_of_scores,
        applies=everything,
    )


def _box_statistics(score: BoxScore, scorables: Sequence[Scorable]) -> FloatArray:
    return score_statistics([score(scorable) for scorable in scorables])


def corpus_bleu_metrics(definition: str, texts: Texts) -> tuple[Metric, Metric]:
    """Return corpus BLEU-1 and BLEU-4 on PTB tokens; `definition` ends both signatures."""
    statistics = partial(_token_statistics, corpus_bleu_statistics, texts)
    orders = (("bleu1", corpus_bleu1), ("bleu4", corpus_bleu4))
    first, fourth = (
        Metric(
            metric_id=name,
            signature=f"{name}|corpus|closest|ptb|{definition}",
            statistics=statistics,
            compute=compute,
            applies=everything,
            tokenised=texts,
            weights=corpus_bleu_weights,
        )
        for name, compute in orders
    )
    return first, fourth


def meteor_metric(definition: str, texts: Texts) -> Metric:
    """Return METEOR on PTB tokens; `definition` ends the signature."""
    return Metric(
        metric_id="meteor",
        signature=f"meteor|java1.5|ptb|{definition}",
        statistics=partial(_token_statistics, meteor_statistics, texts),
        compute=corpus_meteor,
        applies=everything,
        tokenised=texts,
        weights=corpus_meteor_weights,
    )


def _token_statistics(
    of_tokens: Callable[[Sequence[str], Sequence[str]], FloatArray],
    texts: Texts,
    scorables: Sequence[Scorable],
) -> FloatArray:
    pairs = [texts(scorable) for scorable in scorables]
    tokens = tokenise([prediction for prediction, _ in pairs] + [reference for _, reference in pairs])
    return of_tokens(tokens[: len(pairs)], tokens[len(pairs) :])


def macro_f1_metric(definition: str, texts: Texts, classes: Sequence[str] = ()) -> Metric:
    """Return macro-F1 over the classes that occur among the references; `definition` ends the signature.

    Args:
        definition: What is compared.
        texts: The form in which it is compared.
        classes: The classes in that form, which fixes the columns of the statistics. Without them the columns
            are the sorted references of the scorables at hand, so only statistics of one call can be added.
    """
    return Metric(
        metric_id="macro_f1",
        signature=f"macro_f1|exact|reference-classes|{definition}",
        statistics=partial(_macro_f1_statistics, texts, tuple(classes)),
        compute=macro_f1,
        applies=everything,
        weights=macro_f1_weights,
        adds=bool(classes),
    )


def _macro_f1_statistics(texts: Texts, classes: tuple[str, ...], scorables: Sequence[Scorable]) -> FloatArray:
    pairs = [texts(scorable) for scorable in scorables]
    columns = classes or sorted({reference for _, reference in pairs})
    return class_statistics([prediction for prediction, _ in pairs], [reference for _, reference in pairs], columns)
