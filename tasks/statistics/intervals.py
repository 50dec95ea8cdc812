"""95 % confidence intervals that account for clusters, for every metric: the score interval.

Questions about one image (patient, volume, document) are not independent. Near its value any metric is a mean of its
parts, so one method serves shares of right answers, means of scores and corpus metrics, by how far each cluster
influences the number: what the metric loses without it (the jackknife). It stays inside [0, 1], has a width at 0 and
100 %, and draws nothing at random. Wilson's interval of a share asks of each possible truth whether what was seen would
be likely, with the spread that *that truth* has. Here the same question is asked of any metric between bounds; a truth
higher than what was seen is taken as: a part of the data comes out wholly right instead. What each quantity below is
for, and why it is estimated so, stands in `docs/design/0007-statistics.md`.

Sources: Wilson 1927, Cameron and Miller 2015 (cluster-robust inference), Johnson 1978 (skewness in t), Kish 1965, Efron
and Tibshirani 1993, chapter 11 (jackknife).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medbench.tasks.metrics.metric import FloatArray, Metric, mean_of_scores

Method = Literal["score", "one cluster", "wilson", "cluster-t", "bootstrap-t", "bootstrap"]
"""How an interval was made; the last four stand in files of earlier versions only."""

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
_UNSEEN_ALIKE = 0.5
# As how many telling clusters the correlation of one half counts, and the event that was not seen.
_UNSEEN_CLUSTERS, _UNSEEN_EVENT = 0.5, 2.0
# Scores that are all together within so much of one sample's weight hardly tell: they are as good as at the edge.
_HARDLY = 0.25
_NO_ROOM, _NOISE, _NO_INFLUENCE = 1e-12, 1e-9, 1e-10
_CELLS_AT_ONCE = 4_000_000


def rows_at_once(clusters: int) -> int:
    """Return how many draws of so many clusters are held in memory together."""
    return max(1, _CELLS_AT_ONCE // max(1, clusters))


def membership(clusters: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return the number of each sample's cluster [N], by the order of names: no order of samples matters."""
    _, numbers = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return np.asarray(numbers, dtype=np.intp)


def totals_by_cluster(statistics: FloatArray, numbers: npt.NDArray[np.intp]) -> FloatArray:
    """Return summed statistics [C, K] of samples [N, K]."""
    totals = np.zeros((int(numbers.max(initial=-1)) + 1, statistics.shape[1]))
    np.add.at(totals, numbers, statistics)
    return totals


def influences_of(metric: Metric, parts: FloatArray) -> FloatArray:
    """Return how far each part of the data (a sample or a cluster, [P, K]) influences a metric its way [P].

    The influences of a mean, `(score - mean) / N`, cancel; of other metrics they are found by leaving the part out.
    """
    totals = parts.sum(axis=0)
    value = metric.compute(totals)
    if metric.compute is mean_of_scores:
        return np.asarray((parts[:, 0] - value * parts[:, 1]) / totals[1])
    at_once = rows_at_once(parts.shape[1])
    without = [metric.compute(totals - parts[start : start + at_once]) for start in range(0, len(parts), at_once)]
    # Where nothing is left to compute with, a part tells nothing; nor do the constants that BLEU divides by.
    influences = np.nan_to_num(value - np.concatenate(without)) * (1 - 1 / len(parts))
    return np.where(np.abs(influences) < _NO_INFLUENCE, 0.0, influences)


def weights_of(metric: Metric, statistics: FloatArray) -> FloatArray:
    """Return the share of a metric that hangs on each sample [N], one in all; 0 where a sample counts nothing."""
    if metric.compute is mean_of_scores:
        weights = statistics[:, 1]
    else:
        weights = np.ones(len(statistics)) if metric.weights is None else metric.weights(statistics)
    total = float(weights.sum())
    return weights / total if total > 0 else np.full(len(statistics), 1 / max(1, len(statistics)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far each of C clusters and N samples influences a number its way, and what hangs on each, one in all."""

    influences: FloatArray  # [C]
    shares: FloatArray  # [C]
    by_sample: FloatArray  # [N]
    weights: FloatArray  # [N]
    error: float  # The cluster-robust standard error, and its degrees of freedom.
    degrees: float

    @property
    def clusters(self) -> int:
        """Number of clusters that count."""
        return len(self.influences)

    @property
    def design_effect(self) -> float:
        """How many times the variance is that of as many independent samples; NaN where samples do not differ."""
        alone = standard_error(self.by_sample)
        return (self.error / alone) ** 2 if alone > 0 else float("nan")


def spread_of(
    influences: FloatArray, by_sample: FloatArray, weights: FloatArray, numbers: npt.NDArray[np.intp]
) -> Spread:
    """Return the spread of a number from the influences of clusters [C] and samples [N], as in `Spread`.

    Each of N samples has a weight, one in all, and the number of its cluster.
    """
    shares = np.bincount(numbers, weights=weights, minlength=len(influences))
    # What counts nothing must neither narrow nor widen.
    counts, counted = (shares != 0) | (influences != 0), (weights != 0) | (by_sample != 0)
    influences, shares = influences[counts], shares[counts]
    return Spread(
        influences=influences, shares=shares, by_sample=by_sample[counted], weights=weights[counted],
        error=standard_error(influences), degrees=max(1.0, 1 / float(np.square(shares).sum()) - 1),
    )  # fmt: skip


def standard_error(influences: FloatArray) -> float:
    """Return the standard error (CR1) of a number from the influences of its independent parts; 0 for one part."""
    parts = len(influences)
    return float(np.sqrt(parts / (parts - 1) * np.square(influences).sum())) if parts > 1 else 0.0


def _side(spread: Spread, room: float, *, upwards: bool) -> tuple[float, float, float, float]:
    """Return what lies on one side of a number: skewness, growth, what is still at the far edge, and the chunk.

    The growth is what a truth at the far end of the room adds to the variance; the chunk is the sum of squared weights
    of what may come out otherwise as one: 1 / C in whole clusters, 1 / N where samples are independent.
    """
    influences = spread.influences if upwards else -spread.influences
    by_sample = spread.by_sample if upwards else -spread.by_sample
    apart, together = float(np.square(spread.weights).sum()), float(np.square(spread.shares).sum())
    telling = _telling(_from_the_edge(influences, spread.shares, room), apart)
    still = float(spread.weights[_from_the_edge(by_sample, spread.weights, room) == 0].sum())
    alike = _alike(spread.design_effect, together / apart, telling) if together > apart else 1.0
    chunk = alike * together + (1 - alike) * apart
    unseen = _UNSEEN_EVENT / (telling + _UNSEEN_EVENT)
    seen, with_event = _skewness(influences), _skewness(np.append(influences, room * chunk))
    skewness = (1 - unseen) * seen + unseen * with_event
    return seen, float(np.clip(skewness * room + spread.error**2, 0.0, room**2 * chunk)), still, chunk


def _from_the_edge(influences: FloatArray, shares: FloatArray, room: float) -> FloatArray:
    """Return how far each part is from the edge that lies one from the other end of the room."""
    away = np.abs(influences + shares * (1 - room))
    return np.where(away < _NOISE * shares, 0.0, away)


def _telling(away: FloatArray, sample: float) -> float:
    """Return how many clusters tell of others, from how far each is from the edge: Kish's number of them, but one."""
    total = float(away.sum())
    number = total**2 / float(np.square(away).sum()) if total else 1.0
    return max(0.0, number - 1) * total / (total + _HARDLY * sample)


def _alike(effect: float, size: float, telling: float) -> float:
    """Return the correlation within clusters of so many samples, from their design effect."""
    seen = _UNSEEN_ALIKE if np.isnan(effect) else float(np.clip((effect - 1) / (size - 1), 0, 1))
    return (telling * seen + _UNSEEN_CLUSTERS * _UNSEEN_ALIKE) / (telling + _UNSEEN_CLUSTERS)


def t_quantile(degrees: float, tail: float = TAIL) -> float:
    """Return the upper quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - tail))


def reach(spread: Spread, room: float, *, upwards: bool) -> float:
    """Return how far the truth may lie above (or below) the number: one side of the 95 % interval.

    `room` is the distance to the largest (or smallest) possible value.
    """
    quantile = t_quantile(spread.degrees)
    skewness, grown, still, chunk = _side(spread, room, upwards=upwards)
    shift = max(0.0, -skewness) * (quantile**2 - 1) / 6
    seen = _solved(spread.error**2, grown, room, quantile, shift)
    return min(room, max(seen, still * _solved(0.0, chunk, 1.0, quantile)))


def growth(spread: Spread, room: float, *, upwards: bool) -> float:
    """Return how much variance a truth at the far end of the room adds, before it runs out of room itself."""
    return _side(spread, room, upwards=upwards)[1]


def _skewness(influences: FloatArray) -> float:
    squares = float(np.square(influences).sum())
    return float((influences**3).sum()) / squares if squares > 0 else 0.0


def _solved(variance: float, grown: float, room: float, quantile: float, shift: float = 0.0) -> float:
    """Return the distance `d = e * room` with `(d - shift)^2 = quantile^2 (1 - e) (variance + e grown)`."""
    if room < _NO_ROOM:
        return 0.0
    shift = min(shift, room, quantile * variance**0.5)
    square = quantile**2
    second = room**2 + square * grown
    first = -2 * room * shift - square * (grown - variance)
    none = shift**2 - square * variance
    part = (-first + np.sqrt(max(0.0, first**2 - 4 * second * none))) / (2 * second)
    return float(min(1.0, part)) * room


def smallest_shown(error: float, grown: float, quantiles: float) -> float:
    """Return the distance that lies so many standard errors from nothing, in units of its own spread."""
    return _solved(error**2, grown, 1.0, quantiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % interval, its bounds as fractions, with the number of clusters that count."""

    low: float
    high: float
    method: Method
    clusters: int
    design_effect: float


def interval(metric: Metric, statistics: FloatArray, clusters: Sequence[str]) -> Interval | None:
    """Return the interval of a metric from per-sample statistics [N, K] and the names of N clusters.

    None where nothing was scored or nothing can be computed.
    """
    found = float(metric.compute(statistics.sum(axis=0))) if len(statistics) else float("nan")
    if np.isnan(found):
        return None
    numbers = membership(clusters)
    influences = influences_of(metric, totals_by_cluster(statistics, numbers))
    spread = spread_of(influences, influences_of(metric, statistics), weights_of(metric, statistics), numbers)
    if spread.clusters == 1:
        # One cluster says nothing of others: every fraction is possible.
        return Interval(low=0.0, high=1.0, method="one cluster", clusters=1, design_effect=float("nan"))
    value = float(np.clip(found, 0.0, 1.0))
    low = max(0.0, value - reach(spread, value, upwards=False))
    high = min(1.0, value + reach(spread, 1 - value, upwards=True))
    effect = spread.design_effect
    return Interval(low=low, high=high, method="score", clusters=spread.clusters, design_effect=effect)
