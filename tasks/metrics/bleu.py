"""BLEU of one answer, and BLEU of a corpus from sufficient statistics."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Literal

import numpy as np

from medbench.tasks.metrics.metric import FloatArray

Order = Literal[1, 2, 3, 4]

_ORDERS: tuple[Order, ...] = (1, 2, 3, 4)
_SMALL = 1e-9
_TINY = 1e-15


def sentence_bleu1(prediction: str, reference: str) -> float:
    """Return BLEU-1 of two texts of words and spaces: clipped precision times the brevity penalty.

    Source: nltk's `sentence_bleu` with weights (1, 0, 0, 0) and without smoothing, which the official Uni-Med
    evaluation averages over samples. (The paper's Eq. 19 has no brevity penalty.)
    """
    words, wanted = prediction.split(), reference.split()
    matches = _matches(words, wanted, 1)
    if not matches:
        return 0.0
    brevity = 1.0 if len(words) > len(wanted) else math.exp(1 - len(wanted) / len(words))
    return brevity * matches / len(words)


def corpus_bleu_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Return the sufficient statistics of corpus BLEU.

    Args:
        predictions: N texts whose tokens are separated by white space.
        references: The reference of each.

    Returns:
        Read-only array [N, 11]: matches of order 1-4, n-grams of order 1-4 in the prediction, length of the
        prediction, length of the reference, 1.
    """
    return _corpus_statistics(tuple(predictions), tuple(references))


# BLEU-1 and BLEU-4 of one task are functions of the same statistics.
@lru_cache(maxsize=2)
def _corpus_statistics(predictions: tuple[str, ...], references: tuple[str, ...]) -> FloatArray:
    rows = [
        _row(prediction.split(), reference.split())
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    statistics = np.asarray(rows, dtype=np.float64).reshape(len(rows), 2 * len(_ORDERS) + 3)
    statistics.setflags(write=False)
    return statistics


def _row(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    matches = [_matches(words, wanted, order) for order in _ORDERS]
    guesses = [max(0, len(words) - order + 1) for order in _ORDERS]
    return [*matches, *guesses, len(words), len(wanted), 1]


def _matches(words: Sequence[str], wanted: Sequence[str], order: Order) -> int:
    available = _ngrams(wanted, order)
    return sum(min(count, available[ngram]) for ngram, count in _ngrams(words, order).items() if ngram in available)


def _ngrams(words: Sequence[str], order: Order) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def corpus_bleu(order: Order, totals: FloatArray) -> FloatArray:
    """Return corpus BLEU up to `order` from totals [..., 11]; NaN where nothing was counted.

    Source: `Bleu` of pycocoevalcap 1.2 with the closest reference length and its constants against division
    by zero (1e-15 and 1e-9), so a perfect corpus scores 1 - 1e-9 or so.
    """
    matches, guesses = totals[..., :order], totals[..., 4 : 4 + order]
    precision = np.prod((matches + _TINY) / (guesses + _SMALL), axis=-1) ** (1 / order)
    ratio = (totals[..., 8] + _TINY) / (totals[..., 9] + _SMALL)
    with np.errstate(over="ignore"):
        brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return np.where(totals[..., 10] > 0, precision * brevity, np.nan)


corpus_bleu1 = partial(corpus_bleu, 1)
corpus_bleu4 = partial(corpus_bleu, 4)


def corpus_bleu_weights(statistics: FloatArray) -> FloatArray:
    """Return what of corpus BLEU hangs on each sample [N]: the words of its reference."""
    return statistics[:, 9]
