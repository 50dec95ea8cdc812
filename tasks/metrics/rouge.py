"""ROUGE in two dialects: of the package `rouge` 1.0.1, on sets, and of Google's `rouge_score`, on counts."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from medbench.tasks.metrics.lcs import lcs_length, lcs_words

RougeId = Literal["rouge1", "rouge2", "rougeL"]
PairScore = Callable[[str, str], float]

_SET_SMALL = 1e-8
# Words of any script; of those that put no blanks between words, every character is one.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def _sentences(text: str) -> list[list[str]]:
    # A blank sentence has one word, the empty one, as in the package.
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def _words(text: str) -> list[str]:
    return [word for sentence in _sentences(text) for word in sentence]


def _f_of_sets(overlap: int, predicted: int, wanted: int) -> float:
    precision = overlap / predicted if predicted else 0.0
    recall = overlap / wanted if wanted else 0.0
    return 2 * (precision * recall) / (precision + recall + _SET_SMALL)


def set_rouge1(prediction: str, reference: str) -> float:
    """Return F over the distinct words of two texts.

    Source: `rouge-1` F of the package `rouge` 1.0.1, as the official Uni-Med evaluation uses it. Where the
    package fails because a text is nothing but periods, this is 0.
    """
    predicted, wanted = set(_words(prediction)), set(_words(reference))
    return _f_of_sets(len(predicted & wanted), len(predicted), len(wanted))


def set_rouge2(prediction: str, reference: str) -> float:
    """Return F over the distinct pairs of neighbouring words of two texts.

    Source: `rouge-2` F of the package `rouge` 1.0.1.
    """
    first, second = _words(prediction), _words(reference)
    predicted, wanted = set(pairwise(first)), set(pairwise(second))
    return _f_of_sets(len(predicted & wanted), len(predicted), len(wanted))


def set_rouge_l(prediction: str, reference: str) -> float:
    """Return F over the distinct words in the longest common subsequences of all pairs of sentences.

    Source: `rouge-l` F of the package `rouge` 1.0.1: sentences end at periods, and the words of all
    subsequences are united before they are counted.
    """
    predicted, wanted = _sentences(prediction), _sentences(reference)
    common: set[str] = set()
    for sentence in wanted:
        common.update(*(lcs_words(sentence, candidate) for candidate in predicted))
    return _f_of_sets(len(common), len(set(_words(prediction))), len(set(_words(reference))))


SET_ROUGE: dict[RougeId, PairScore] = {"rouge1": set_rouge1, "rouge2": set_rouge2, "rougeL": set_rouge_l}


def _google_words(text: str) -> list[str]:
    words: list[str] = _WORDS.findall(text.lower())
    return words


def _f_of_counts(overlap: int, predicted: int, wanted: int) -> float:
    return 2 * overlap / (predicted + wanted) if overlap else 0.0


def _overlap(first: Sequence[object], second: Sequence[object]) -> int:
    return (Counter(first) & Counter(second)).total()


def google_rouge1(prediction: str, reference: str) -> float:
    """Return F over words, each counted as often as it occurs in both texts.

    Source: `rouge1` F of Google's `rouge_score` 0.1.2 without the stemmer. Words are runs of letters and digits of any
    script, not of a-z and 0-9 alone: there, two equal texts in Russian or Chinese have nothing in common.
    """
    predicted, wanted = _google_words(prediction), _google_words(reference)
    return _f_of_counts(_overlap(predicted, wanted), len(predicted), len(wanted))


def google_rouge2(prediction: str, reference: str) -> float:
    """Return F over pairs of neighbouring words, each counted as often as it occurs in both texts.

    Source: `rouge2` F of Google's `rouge_score` 0.1.2 without the stemmer.
    """
    first, second = _google_words(prediction), _google_words(reference)
    predicted, wanted = list(pairwise(first)), list(pairwise(second))
    return _f_of_counts(_overlap(predicted, wanted), len(predicted), len(wanted))


def google_rouge_l(prediction: str, reference: str) -> float:
    """Return F over the longest common subsequence of the words of two texts.

    Source: `rougeL` F of Google's `rouge_score` 0.1.2 without the stemmer.
    """
    predicted, wanted = _google_words(prediction), _google_words(reference)
    return _f_of_counts(lcs_length(wanted, predicted), len(predicted), len(wanted))


GOOGLE_ROUGE: dict[RougeId, PairScore] = {
    "rouge1": google_rouge1,
    "rouge2": google_rouge2,
    "rougeL": google_rouge_l,
}
