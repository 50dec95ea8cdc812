"""Scores of reports: corpus BLEU, and ROUGE as the package `rouge` 1.0.1 (sets) and Google's `rouge_score` (counts)."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal

import numpy as np

from medbench.tasks.metrics.metric import FloatArray

RougeId = Literal["rouge1", "rouge2", "rougeL"]
PairScore = Callable[[str, str], float]
_ORDERS, _SMALL, _TINY, _SET_SMALL = 4, 1e-9, 1e-15, 1e-8
# Words of any script; of those that put no blanks between words, every character is one.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def corpus_bleu_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Return the statistics of corpus BLEU of N texts whose tokens are separated by white space, a read-only [N, 11].

    Columns: matches of order 1-4, n-grams of order 1-4 in the prediction, length of the prediction, length of the
    reference, 1. Source: `cook_refs` and `cook_test` of pycocoevalcap 1.2.
    """
    return _corpus_statistics(tuple(predictions), tuple(references))


# BLEU-1 and BLEU-4 of one task are functions of the same statistics.
@lru_cache(maxsize=2)
def _corpus_statistics(predictions: tuple[str, ...], references: tuple[str, ...]) -> FloatArray:
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

    pairs = zip(predictions, references, strict=True)
    cooked = [cook_test(prediction, cook_refs([reference]), eff="closest") for prediction, reference in pairs]
    rows = [[*one["correct"], *one["guess"], one["testlen"], one["reflen"], 1] for one in cooked]
    statistics = np.asarray(rows, dtype=np.float64).reshape(len(rows), 2 * _ORDERS + 3)
    statistics.setflags(write=False)
    return statistics


def corpus_bleu(order: Literal[1, 2, 3, 4], totals: FloatArray) -> FloatArray:
    """Return corpus BLEU up to `order` from totals [..., 11]; NaN where nothing was counted.

    Source: `Bleu` of pycocoevalcap 1.2 with the closest reference length and its constants against division by zero
    (1e-15 and 1e-9), so a perfect corpus scores 1 - 1e-9 or so.
    """
    matches, guesses = totals[..., :order], totals[..., 4 : 4 + order]
    precision = np.prod((matches + _TINY) / (guesses + _SMALL), axis=-1) ** (1 / order)
    ratio = (totals[..., 8] + _TINY) / (totals[..., 9] + _SMALL)
    with np.errstate(over="ignore"):
        brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return np.where(totals[..., 10] > 0, precision * brevity, np.nan)


corpus_bleu1, corpus_bleu4 = partial(corpus_bleu, 1), partial(corpus_bleu, 4)


def corpus_bleu_weights(statistics: FloatArray) -> FloatArray:
    """Return what of corpus BLEU hangs on each sample [N]: the words of its reference."""
    return statistics[:, 9]


def set_rouge(order: int, prediction: str, reference: str) -> float:
    """Return F over the distinct runs of `order` words, as `rouge` 1.0.1; 0 where a text is nothing but periods."""
    words = (_words(prediction), _words(reference))
    predicted, wanted = (set(zip(*(text[start:] for start in range(order)), strict=False)) for text in words)
    return _f_of_sets(len(predicted & wanted), len(predicted), len(wanted))


def set_rouge_l(prediction: str, reference: str) -> float:
    """Return F over the distinct words in the longest common subsequences of all sentences (`rouge` 1.0.1)."""
    pairs = ((wanted, said) for wanted in _sentences(reference) for said in _sentences(prediction))
    common = {word for wanted, said in pairs for word in lcs_words(wanted, said)}
    return _f_of_sets(len(common), len(set(_words(prediction))), len(set(_words(reference))))


def _sentences(text: str) -> list[list[str]]:
    # A blank sentence has one word, the empty one, as in the package.
    return [" ".join(sentence.split()).split(" ") for sentence in text.split(".") if sentence]


def _words(text: str) -> list[str]:
    return [word for sentence in _sentences(text) for word in sentence]


def _f_of_sets(overlap: int, predicted: int, wanted: int) -> float:
    precision = overlap / predicted if predicted else 0.0
    recall = overlap / wanted if wanted else 0.0
    return 2 * (precision * recall) / (precision + recall + _SET_SMALL)


class _AnyScript:
    """The tokenizer for `rouge_score`: there, two equal texts in Russian or Chinese have no words."""

    def tokenize(self, text: str) -> list[str]:
        """Return the runs of letters and digits of any script."""
        return _WORDS.findall(text.lower())


def google_rouge(rouge_id: RougeId, prediction: str, reference: str) -> float:
    """Return F of Google's `rouge_score` 0.1.2 without the stemmer, over the words of any script."""
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer([rouge_id], tokenizer=_AnyScript()).score(reference, prediction)
    return float(scores[rouge_id].fmeasure)


SET_ROUGE: dict[RougeId, PairScore] = {
    "rouge1": partial(set_rouge, 1), "rouge2": partial(set_rouge, 2), "rougeL": set_rouge_l,
}  # fmt: skip
GOOGLE_ROUGE: dict[RougeId, PairScore] = {name: partial(google_rouge, name) for name in SET_ROUGE}


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of words in a longest common subsequence."""
    return len(second) - _lcs_rows(first, second)[-1].bit_count()


def lcs_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """Return the distinct words of one longest common subsequence, traced back from the ends.

    Of several longest ones it is the one that `rouge` 1.0.1 finds: equal last words are taken at once, and the last
    word of `second` is dropped unless dropping that of `first` keeps more.
    """
    rows = _lcs_rows(first, second)
    found: set[str] = set()
    i, j = len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.add(first[i - 1])
            i, j = i - 1, j - 1
        elif _length(rows[i - 1], j) > _length(rows[i], j - 1):
            i -= 1
        else:
            j -= 1
    return found


def _lcs_rows(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Return a bit vector per prefix of `first`: bit j is 0 where `second[j]` makes the length grow.

    One machine-word operation per word instead of a table row. Source: Hyyro (2004), "Bit-parallel LCS-length
    computation revisited".
    """
    places: dict[str, int] = {}
    for index, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << index
    row = everywhere = (1 << len(second)) - 1
    rows = [row]
    for word in first:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everywhere
        rows.append(row)
    return rows


def _length(row: int, words: int) -> int:
    return words - (row & (1 << words) - 1).bit_count()
