"""Scores of short answers (exact, closed, F1 over words, sentence BLEU-1, macro-F1 over classes) and of boxes (IoU)."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from medbench.tasks.answers.closed import POLAR_WORDS, read_polar, says_alternative
from medbench.tasks.answers.texts import normalise_strictly, plain_text, standing_text
from medbench.tasks.answers.thoughts import answer_fields
from medbench.tasks.metrics.metric import FloatArray, Scorable
from medbench.tasks.sample import Box

_THRESHOLD = 0.5


def exact_match(prediction: str, reference: str) -> float:
    """Return 1 if two normalised answers are equal, even if both are empty, as officially."""
    return float(prediction == reference)


def exact_answer(prediction: str, reference: str) -> float:
    """Return 1 if two normalised answers are equal and there is an answer at all."""
    return float(prediction == reference != "")


def contains_reference(prediction: str, reference: str) -> float:
    """Return 1 if the reference is within the prediction, `no` in `normal` too (official: `calculate_acc` of VQA)."""
    return float(reference in prediction)


def answers_closed(prediction: str, reference: str) -> float:
    """Return 1 if a prediction answers a closed question with the reference, and with nothing else as well.

    Where the reference is `yes` or `no` (or `maybe`), the prediction must say so as `tasks.answers.closed` reads it:
    `no doubt` is no `no`, and saying both is no way to be always right. Any other reference must be said whole,
    undenied and without its alternatives. Both texts are given as they are.
    """
    right = normalise_strictly(reference)
    said = standing_text(prediction)
    if not right or normalise_strictly(said) == right:
        return float(bool(right) and (not said.endswith("?") or said == plain_text(reference)))
    fields = answer_fields(prediction)
    answers = [said] if fields is None else [value for value in fields[0] if value]
    if right not in POLAR_WORDS:
        return float(bool(answers) and all(says_alternative(answer, right) for answer in answers))
    beside = None if fields is None else read_polar(standing_text(fields[1]))
    return float(bool(answers) and all(read_polar(answer) == right for answer in answers) and beside in {None, right})


def asymmetric_f1(prediction: str, reference: str) -> float:
    """Return the F1 of the official evaluation, which credits every repetition of a right word.

    Words of both texts count as often as in the prediction, words of one text as often as there. Hence `no no no`
    against `no` scores 1, and swapping the two texts changes the value. Source: `calculate_f1score` of the official
    evaluation; the paper's Eq. 16-18 count common words.
    """
    predicted, wanted = Counter(prediction.split()), Counter(reference.split())
    right = sum(count for word, count in predicted.items() if word in wanted)
    missing = sum(count for word, count in wanted.items() if word not in predicted)
    return 2 * right / (right + predicted.total() + missing) if right else 0.0


def clipped_f1(prediction: str, reference: str) -> float:
    """Return F1 over words, each counted as often as it is in both texts, as of SQuAD (the paper's Eq. 16-18)."""
    predicted, wanted = Counter(prediction.split()), Counter(reference.split())
    common = (predicted & wanted).total()
    return 2 * common / (predicted.total() + wanted.total()) if common else 0.0


def sentence_bleu1(prediction: str, reference: str) -> float:
    """Return BLEU-1 of two texts of words and spaces: clipped precision times the brevity penalty.

    Source: nltk's `sentence_bleu` without smoothing, which the official Uni-Med evaluation averages over samples. (The
    paper's Eq. 19 has no brevity penalty.)
    """
    # Imported here, since nltk brings scipy along.
    from nltk.translate.bleu_score import sentence_bleu

    return float(sentence_bleu([reference.split()], prediction.split(), weights=(1,)))


def class_statistics(predictions: Sequence[str], references: Sequence[str], classes: Sequence[str]) -> FloatArray:
    """Return the statistics of macro-F1 of N normalised answers and C classes [N, 3 * C].

    Columns: hits of each class, then false alarms, then misses. An answer that is no class is a miss and nothing else.
    """
    columns = np.asarray(classes, dtype=object)
    said, wanted = (np.asarray(texts, dtype=object)[:, None] == columns for texts in (predictions, references))
    return np.concatenate([said & wanted, said & ~wanted, wanted & ~said], axis=1).astype(np.float64)


def macro_f1(totals: FloatArray) -> FloatArray:
    """Return the mean F1 over the classes that occur among the references, from totals [..., 3 * C]; NaN of none."""
    hits, alarms, misses = np.moveaxis(totals.reshape(*totals.shape[:-1], 3, totals.shape[-1] // 3), -2, 0)
    occurs = hits + misses > 0
    scores = np.divide(2 * hits, 2 * hits + alarms + misses, out=np.zeros_like(hits), where=occurs).sum(axis=-1)
    classes = occurs.sum(axis=-1)
    return np.asarray(np.divide(scores, classes, out=np.full_like(scores, np.nan), where=classes > 0))


def macro_f1_weights(statistics: FloatArray) -> FloatArray:
    """Return what of macro-F1 hangs on each sample [N]: classes weigh alike, and so does each of a class's samples."""
    hits, _, misses = np.moveaxis(statistics.reshape(len(statistics), 3, -1), 1, 0)
    members = hits + misses
    sizes = members.sum(axis=0)
    return np.asarray(np.divide(members, sizes, out=np.zeros_like(members), where=sizes > 0).sum(axis=1))


def micro_f1(totals: FloatArray) -> FloatArray:
    """Return F1 from totals [..., 3] of hits, false alarms and misses; NaN where nothing was said or wanted."""
    hits, alarms, misses = np.moveaxis(totals, -1, 0)
    size = 2 * hits + alarms + misses
    return np.asarray(np.divide(2 * hits, size, out=np.full_like(hits, np.nan), where=size > 0))


def micro_f1_weights(statistics: FloatArray) -> FloatArray:
    """Return what of micro-F1 hangs on each sample [N]: what was said of it and what was wanted."""
    return np.asarray(statistics @ np.array([2.0, 1.0, 1.0]))


def inclusive_iou(first: Box, second: Box) -> float:
    """Return IoU with one pixel added to every side, as if both edges of a box belonged to it.

    Boxes that merely touch overlap. An inverted box overlaps nothing; where the official code divides by zero this is
    0. Source: `computeIoU` of the official Uni-Med evaluation of REC.
    """
    return _overlap_over_union(first, second, 1.0)


def exact_iou(first: Box, second: Box) -> float:
    """Return the exact IoU; 0 if a box is inverted, empty or infinite. One without area overlaps only itself."""
    if first == second and _area(first, 0.0) == 0:
        return float(first.left <= first.right and first.top <= first.bottom)
    return _overlap_over_union(first, second, 0.0)


def _overlap_over_union(first: Box, second: Box, edge: float) -> float:
    width = min(first.right, second.right) - max(first.left, second.left) + edge
    height = min(first.bottom, second.bottom) - max(first.top, second.top) + edge
    if not (width > 0 and height > 0):
        return 0.0
    common = width * height
    union = _area(first, edge) + _area(second, edge) - common
    return common / union if math.isfinite(common) and math.isfinite(union) and union > 0 else 0.0


def _area(box: Box, edge: float) -> float:
    return (box.right - box.left + edge) * (box.bottom - box.top + edge)


def _iou(measure: Callable[[Box, Box], float], scorable: Scorable) -> float:
    predicted, reference = scorable.predicted_box, scorable.reference_box
    return 0.0 if predicted is None or reference is None else measure(predicted, reference)


# The IoU of a scorable, by pixels counted inclusively or by area; 0 where no box could be read.
paper_iou, strict_iou = partial(_iou, inclusive_iou), partial(_iou, exact_iou)


def paper_hit(scorable: Scorable) -> float:
    """Return 1 if the official IoU is above 0.5."""
    return float(paper_iou(scorable) > _THRESHOLD)


def strict_hit(scorable: Scorable) -> float:
    """Return 1 if the exact IoU is at least 0.5, as the paper's text has it."""
    return float(strict_iou(scorable) >= _THRESHOLD)
