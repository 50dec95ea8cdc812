"""How many cases an honest model would match by chance: rare events whose cases do not all have the same chance.

A case with u references of its own, each reproduced with probability p0, shows a match with probability
1 - (1 - p0)^u. Cases of one size make a binomial; the sizes together are its convolutions, all terms positive, so that
tails are exact to rounding however small they are (Wang 1993, "On the number of successes in independent trials").

Skill raises that chance. Where reports are put together from set sentences, a model that chooses each of them rightly
with probability q writes a report of m sentences right with probability q^m, without having seen it. Its answers then
come in all grades: all sentences right, all but one, all but two. A model that has seen some of the cases has whole
references and, elsewhere, its usual grade. So q is read from the answers that do not equal the reference, and what q
explains is tolerated. The estimate takes hits of single sentences for independent and equally hard; it is the largest q
that the likelihood does not refuse at 95 %, and what it may explain has a ceiling, since no model is known that writes
more than one of ten unseen reports right, word for word.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.leaderboard.audit.normalise import norm_v1
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, MatchCounts
from medbench.tasks.metrics.metric import FloatArray

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_GRID = np.linspace(0.0, 0.999, 1000)
_REFUSED = float(stats.chi2.ppf(0.9, 1)) / 2
"""Drop of the log-likelihood at a one-sided bound of 95 %."""


def distribution(chances: FloatArray) -> FloatArray:
    """Return the probabilities [K + 1] of 0 to K cases with a match, from the chance of each case [K]."""
    found = np.ones(1)
    for chance, cases in zip(*np.unique(chances, return_counts=True), strict=True):
        found = np.convolve(found, stats.binom.pmf(np.arange(cases + 1), cases, chance))
    return found


def chances_of(sizes: Sequence[int] | npt.NDArray[np.intp], rate: float) -> FloatArray:
    """Return the chance of each case [K] to show a match, from its references [K] and the rate of one of them."""
    return np.asarray(1 - (1 - rate) ** np.asarray(sizes, dtype=np.float64), dtype=np.float64)


def tails(probabilities: FloatArray) -> FloatArray:
    """Return the probability of at least 0, 1, ... K cases [K + 1], summed from the small end."""
    found = np.minimum(1.0, np.cumsum(probabilities[::-1])[::-1])
    found[0] = 1.0
    return found


def fewest_with(tail: FloatArray, level: float, least: int) -> int | None:
    """Return the smallest count from `least` on whose tail is within the level; None if there is none."""
    within = np.flatnonzero(tail[least:] <= level)
    return least + int(within[0]) if len(within) else None


def rate_found_with(power: float, needed: int, cases: int) -> float:
    """Return the rate at which `needed` of so many cases match with probability `power`: a quantile of the beta."""
    return float(stats.beta.ppf(power, needed, cases - needed + 1))


def clopper_pearson(matches: int, cases: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share; cases must be one or more."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, matches, cases - matches + 1)) if matches else 0.0
    high = float(stats.beta.ppf(1 - tail, matches + 1, cases - matches)) if matches < cases else 1.0
    return low, high


def upper_bound(matches: int, cases: int, level: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share; 1 without any cases."""
    return float(stats.beta.ppf(level, matches + 1, cases - matches)) if matches < cases else 1.0


def sentences_of(text: str | None) -> list[str]:
    """Return the sentences of a text, normalised; lines and semicolons end one too."""
    return [sentence for part in _SENTENCE.split(text or "") if (sentence := norm_v1(part)) is not None]


def sentence_skill(cell: Cell, counts: MatchCounts) -> float | None:
    """Return an upper bound of the share of sentences that a model gets right; None where too few answers tell.

    Answers tell that are eligible, do not equal their reference, and have a reference of several sentences.
    """
    told: Counter[tuple[int, int]] = Counter()
    for row in counts.eligible:
        sentences = [] if counts.exact[row] else sentences_of(cell.items[row].reference)
        if len(sentences) > 1:
            answer = f" {cell.predictions[row]} "
            hits = sum(f" {sentence} " in answer for sentence in sentences)
            # An answer may hold all sentences in another order, or more besides: all but equal.
            told[len(sentences), min(hits, len(sentences) - 1)] += 1
    if told.total() < THRESHOLDS.fewest_graded:
        return None
    likelihood = np.zeros_like(_GRID)
    for (sentences_in, hits), answers in sorted(told.items()):
        whole = stats.binom.pmf(sentences_in, sentences_in, _GRID)
        likelihood += answers * (stats.binom.logpmf(hits, sentences_in, _GRID) - np.log1p(-whole))
    kept = np.flatnonzero(likelihood >= likelihood.max() - _REFUSED)
    return float(_GRID[kept[-1]])


def honest_chances(cell: Cell, counts: MatchCounts, rate: float, skill: float | None) -> FloatArray:
    """Return for each of K cases, by name, the probability that an honest model meets one of its references [K].

    Any reference is met at the tolerated rate; the model's skill may explain more, up to a ceiling.
    """
    references: dict[str, dict[str | None, float]] = defaultdict(dict)
    for row in counts.eligible:
        item = cell.items[row]
        sentences = len(sentences_of(item.reference)) if skill is not None else 0
        composed = min(THRESHOLDS.skill_ceiling, (skill or 0.0) ** sentences) if sentences > 1 else 0.0
        references[item.group][cell.references[row]] = max(rate, composed)
    return np.asarray(
        [1 - np.prod([1 - met for met in sorted(references[group].values())]) for group in sorted(references)],
        dtype=np.float64,
    )
