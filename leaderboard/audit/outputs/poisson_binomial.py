"""The number of cases in which something rare happens, where the cases do not all have the same chance.

A case with u references of its own, each reproduced with probability p0, shows a match with probability
1 - (1 - p0)^u. Cases of one size make a binomial; the sizes together are its convolutions, all terms positive, so that
tails are exact to rounding however small they are.

Source: Wang 1993, "On the number of successes in independent trials".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.tasks.metrics.metric import FloatArray


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
