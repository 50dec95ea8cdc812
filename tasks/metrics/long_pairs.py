"""METEOR of a pair that its Java program cannot hold: every word counts, matches are those of the best stretch.

The aligner keeps a copy of the whole hypothesis for every way to match each word, so an answer that loops takes all the
memory that the official scripts give it (2 GB): `the lungs are clear and` does from some 2,000 rounds on. The official
scripts have no score for such a pair, and none for any other pair of the run. Here the texts are cut into stretches,
short enough for any computer. Words and function words are counted in all of them, so that precision is as low as it
is; matches and chunks are those of the stretch that gives the best score. Since a reference has far fewer words than
a stretch, that is what the official program says of loops that it can just hold, nearly to the last digit.
"""

from collections.abc import Callable, Sequence

import numpy as np

from medbench.tasks.metrics.metric import FloatArray

STRETCH = 500
_PREDICTED, _EXPECTED = [0, 2], [1, 3]

Ask = Callable[[Sequence[tuple[str, str]]], FloatArray]
"""Gives the statistics of each pair of prediction and reference, a row each."""


def statistics_in_stretches(
    prediction: str, reference: str, ask: Ask, score: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Return the statistics of one pair, put together of those of its stretches.

    Args:
        prediction: PTB tokens.
        reference: PTB tokens.
        ask: Asks METEOR about pairs that are short.
        score: METEOR of rows of statistics.
    """
    predicted, expected = _stretches(prediction), _stretches(reference)
    pairs = [(stretch, expected[0]) for stretch in predicted] + [(predicted[0], stretch) for stretch in expected[1:]]
    different = list(dict.fromkeys(pairs))
    found = dict(zip(different, ask(different), strict=True))
    rows = np.stack([found[pair] for pair in pairs])
    whole = rows.copy()
    whole[:, _PREDICTED] = rows[: len(predicted), _PREDICTED].sum(axis=0)
    whole[:, _EXPECTED] = rows[[0, *range(len(predicted), len(pairs))]][:, _EXPECTED].sum(axis=0)
    best: FloatArray = whole[int(np.argmax(score(whole)))]
    return best


def _stretches(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + STRETCH]) for start in range(0, len(words), STRETCH)] or [""]
