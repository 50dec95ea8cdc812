"""METEOR 1.5 for English: its Java aligner gives the statistics of each pair, the rest is computed here.

An answer that loops (`the lungs are clear and`, some 2,000 times) takes all the memory that the official scripts give
the aligner (2 GB); they have no score then, nor for any other pair of the run. Here its texts are cut into stretches.
Words and function words are counted in all of them, so that precision is as low as it is; matches and chunks are those
of the stretch that gives the best score. Since a reference has far fewer words than a stretch, that is what the program
says of loops that it can just hold, nearly to the last digit.
"""

import atexit
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

import numpy as np

from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.metrics.java import JavaError, JavaProgram, packaged_jar
from medbench.tasks.metrics.metric import FloatArray

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
# Exact, stem, synonym and paraphrase matches.
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_LENGTHS, _FUNCTION_WORDS, _STAGES = slice(0, 2), slice(2, 4), slice(4, 20)
_CHUNKS, _WORD_MATCHES, _COUNT = 20, slice(21, 23), 23
_FIELDS, _STRETCH = 23, 500
_lock = threading.Lock()
_running: dict[int, JavaProgram] = {}
# Both protocols ask about the same pair, and each try costs half a minute.
_deadly: dict[tuple[str, str], FloatArray] = {}
# A pair that every sound program scores; and of those that end it so many that the program is the reason, not they.
_HARMLESS, _MOST_DEADLY = ("no finding", "no finding"), 20
_BEYOND_MEMORY = (
    "METEOR's program ran out of memory on {} of {} answers, as it does where an answer loops. All their words count, "
    "their matches are those of their best 500 words; see docs/scoring.md."
)
_UNSCORED = "METEOR's program ended on {} of {} answers, which have no METEOR; they count as errors of it. The last: {}"


def meteor_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Return the sufficient statistics of METEOR [N, 24], of N texts of PTB tokens each.

    Columns: for prediction and reference each the words, the function words, and for each of the four stages the
    matched content words and function words; then chunks (0 for a perfect match), matched words of both, 1. The Java
    program is started at the first call (some 10 CPU-seconds for its paraphrase table) and ends with this process. A
    row of NaN is a pair that ended the program, or let it hang: nobody knows its score.
    Source: METEOR 1.5 as pycocoevalcap runs it (`-stdio -l en -norm`). Raises MedbenchError if Java cannot start, or
    fails whatever it is asked, or answers something else than statistics.
    """
    pairs = list(zip(predictions, references, strict=True))
    with _lock:
        rows = _rows(pairs)
    return np.stack(rows) if rows else np.zeros((0, _FIELDS + 1))


def _rows(pairs: Sequence[tuple[str, str]]) -> list[FloatArray]:
    """Return the statistics of each pair; a pair that the program dies of costs no other its score."""
    rows: list[FloatArray] = []
    tried: set[tuple[str, str]] = set()
    beyond, last = 0, ""
    while len(rows) < len(pairs):
        next_one = pairs[len(rows)]
        if next_one in _deadly:
            rows.append(_deadly[next_one])
            continue
        try:
            rows += _asked(list(takewhile(lambda pair: pair not in _deadly, pairs[len(rows) :])))
        except JavaError as error:
            rows += _understood(error.answers)
            fatal = pairs[len(rows)]
            if error.out_of_memory or fatal in tried:
                _deadly[fatal] = _without_the_whole(fatal, error)
                beyond, last = beyond + (not np.isnan(_deadly[fatal]).any()), error.problem
            # Else somebody may have ended the program; a second time it is the pair.
            tried.add(fatal)
    if beyond:
        warn(_BEYOND_MEMORY.format(beyond, len(pairs)))
    if unscored := sum(np.isnan(row).any() for row in rows):
        warn(_UNSCORED.format(unscored, len(pairs), last or "as before"))
    return rows


def _without_the_whole(pair: tuple[str, str], error: JavaError) -> FloatArray:
    """Return the statistics of a deadly pair: those of its stretches, or NaN; the error if others are as deadly."""
    if max(len(text.split()) for text in pair) > _STRETCH:
        # Where stretches are deadly too, the first failure says more.
        with suppress(JavaError):
            return statistics_in_stretches(*pair)
    try:
        _asked([_HARMLESS])
    except JavaError:
        raise error from None
    if sum(np.isnan(row).any() for row in _deadly.values()) >= _MOST_DEADLY:
        raise MedbenchError(f"METEOR's program ended on {_MOST_DEADLY} pairs. The last: {error.problem}", error.hint)
    return np.full(_FIELDS + 1, np.nan)


def statistics_in_stretches(prediction: str, reference: str) -> FloatArray:
    """Return the statistics [24] of a pair of PTB tokens, put together of those of its stretches."""
    predicted, expected = _stretches(prediction), _stretches(reference)
    pairs = [(stretch, expected[0]) for stretch in predicted] + [(predicted[0], stretch) for stretch in expected[1:]]
    different = list(dict.fromkeys(pairs))
    found = dict(zip(different, _asked(different), strict=True))
    rows = np.stack([found[pair] for pair in pairs])
    whole = rows.copy()
    whole[:, [0, 2]] = rows[: len(predicted), [0, 2]].sum(axis=0)
    whole[:, [1, 3]] = rows[[0, *range(len(predicted), len(pairs))]][:, [1, 3]].sum(axis=0)
    return np.asarray(whole[int(np.argmax(corpus_meteor(whole)))])


def _stretches(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + _STRETCH]) for start in range(0, len(words), _STRETCH)] or [""]


def _asked(pairs: Sequence[tuple[str, str]]) -> list[FloatArray]:
    # A separator inside a text would make it several references; the tokenizer in front leaves none.
    texts = [[text.replace("|||", "").replace("  ", " ") for text in pair[::-1]] for pair in pairs]
    try:
        return _understood(_program().ask([" ||| ".join(["SCORE", *pair]) for pair in texts]))
    except BaseException:
        # Answers that nobody has read would be taken for those of the next call.
        close_meteor()
        raise


def _understood(replies: Sequence[str]) -> list[FloatArray]:
    raw = np.asarray([_parsed(reply) for reply in replies], dtype=np.float64).reshape(len(replies), _FIELDS)
    matched = raw[:, _STAGES].reshape(len(replies), 4, 2, 2).sum(axis=(1, 2))
    perfect = (matched == raw[:, _LENGTHS]).all(axis=1) & (raw[:, _CHUNKS] == 1)
    raw[perfect, _CHUNKS] = 0
    return list(np.concatenate([raw, np.ones((len(replies), 1))], axis=1))


def _parsed(reply: str) -> list[float]:
    with suppress(ValueError):
        if len(fields := [float(field) for field in reply.split()]) == _FIELDS:
            return fields
    problem = f"METEOR answered {reply!r} where {_FIELDS} numbers were expected."
    raise MedbenchError(problem, "Reinstall it: pip install --force-reinstall pycocoevalcap")


def _program() -> JavaProgram:
    process = os.getpid()
    if process not in _running:
        # After a fork the pipes of the parent are here too, and two readers would take each other's answers.
        _running.clear()
        jar = packaged_jar("meteor/meteor-1.5.jar", beside=("data/paraphrase-en.gz",))
        arguments = ("-", "-", "-stdio", "-l", "en", "-norm")
        _running[process] = JavaProgram(jar, "Meteor", arguments, options=("-Xms1G", "-Xmx2G"))
        atexit.register(close_meteor)
    return _running[process]


def start_meteor() -> None:
    """Start the Java program now, so that it loads while other work goes on; MedbenchError if Java cannot start."""
    with _lock:
        _program()


def close_meteor() -> None:
    """End the Java program of this process, if there is one; the next call would start another."""
    program = _running.pop(os.getpid(), None)
    if program is not None:
        program.close()


def corpus_meteor(totals: FloatArray) -> FloatArray:
    """Return METEOR from totals [..., 24]; NaN where nothing was counted.

    On the sum over a corpus it is what METEOR's `EVAL` reports as the aggregate, on the row of one pair its score.
    Source: Denkowski and Lavie (2014), "Meteor Universal", with the parameters of METEOR 1.5 for English ranking.
    """
    functions = totals[..., _FUNCTION_WORDS]
    lengths = _DELTA * (totals[..., _LENGTHS] - functions) + (1 - _DELTA) * functions
    stages = totals[..., _STAGES].reshape(*totals.shape[:-1], 4, 2, 2)
    matches = np.einsum("...swr,s,w->...r", stages, _STAGE_WEIGHTS, np.array([_DELTA, 1 - _DELTA]))
    precision, recall = np.moveaxis(np.divide(matches, lengths, out=np.zeros_like(matches), where=lengths > 0), -1, 0)
    matched = (precision > 0) & (recall > 0)
    precision, recall = np.where(matched, precision, 1.0), np.where(matched, recall, 1.0)
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    words = np.where(matched, totals[..., _WORD_MATCHES].mean(axis=-1), 1.0)
    penalty = _GAMMA * (totals[..., _CHUNKS] / words) ** _BETA
    return np.where(totals[..., _COUNT] > 0, np.where(matched, mean * (1 - penalty), 0.0), np.nan)


def corpus_meteor_weights(statistics: FloatArray) -> FloatArray:
    """Return what of METEOR hangs on each sample [N]: the words of its reference."""
    return statistics[:, 1]
