"""Models on the same samples: how far apart two are and how sure that is; ranks and gains of several.

The difference is tested by exchanging the models' answers cluster by cluster: were they equally good, either could have
given either. With one sample per cluster and right-or-wrong scores it is McNemar's exact test. Its interval is the
score interval of `tasks.statistics.intervals`: where no pair differs, a few pairs prove little, and it says so. (Of
independent right-or-wrong pairs without a difference it is Tango's: of 5 pairs 0 +- 61 points.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medbench.tasks.metrics.metric import FloatArray, Metric, mean_of_scores
from medbench.tasks.statistics import intervals
from medbench.tasks.statistics.intervals import TAIL, Spread, membership, rows_at_once, totals_by_cluster

PERMUTATIONS, RESAMPLES = 9999, 2000
ENUMERATED = 13  # With so few clusters all exchanges are tried.
MANY = 5000  # With so many the difference over its standard error is normal, and exchanges would find the same p.
ALPHA = 2 * TAIL
_UNPOWERED = 0.2  # How often a difference of the detectable size goes unseen.
_SLACK = 1e-9
Test = Literal["mcnemar", "exchange of clusters", "standard error", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What separates two models on one metric: first minus second, a fraction, with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float  # Probability of a difference as large, were the models equally good.
    test: Test  # How it was found; `none` with a single cluster, where p is 1.
    least_p: float  # The smallest p that the test reaches with so many clusters, whatever the models answer.
    samples: int  # How many they share, in so many clusters.
    clusters: int
    error: float  # Standard error of the difference.
    growth: float  # Variance that a true difference of one adds to it.
    degrees: float  # Degrees of freedom of the error.

    @property
    def detectable(self) -> float:
        """Smallest true difference that such data show at 5 %, alone, with a probability of 80 %."""
        return self.detectable_at(ALPHA)

    def detectable_at(self, level: float) -> float:
        """Return the smallest true difference that such data show 8 times of 10, where p must be below `level`.

        NaN where the test cannot reach the level: then no difference is detectable.
        """
        if self.least_p >= level:
            return math.nan
        quantiles = intervals.t_quantile(self.degrees, level / 2) + intervals.t_quantile(self.degrees, _UNPOWERED)
        return intervals.smallest_shown(self.error, self.growth, quantiles)


def difference(
    metric: Metric, first: FloatArray, second: FloatArray, clusters: Sequence[str], *, seed: int
) -> Difference | None:
    """Compare two models on the same samples; None where a metric cannot be computed for one of them.

    `first` and `second` are per-sample statistics [N, K] of the same samples in the same order, `clusters` the name of
    each sample's cluster; `seed` is that of the exchanges.
    """
    # A pair that counts nothing for either model tells nothing.
    counts = (first != 0).any(axis=1) | (second != 0).any(axis=1)
    shared, first, second = len(first), first[counts], second[counts]
    if not len(first):
        return None
    numbers = membership(np.asarray(clusters, dtype=str)[counts].tolist())
    ours, theirs = totals_by_cluster(first, numbers), totals_by_cluster(second, numbers)
    value = float(metric.compute(ours.sum(axis=0)) - metric.compute(theirs.sum(axis=0)))
    if np.isnan(value):
        return None
    spread = intervals.spread_of(
        intervals.influences_of(metric, ours) - intervals.influences_of(metric, theirs),
        intervals.influences_of(metric, first) - intervals.influences_of(metric, second),
        (intervals.weights_of(metric, first) + intervals.weights_of(metric, second)) / 2,
        numbers,
    )
    p, test = _tested(metric, (first, second), (ours, theirs), value, spread.error, seed)
    return Difference(
        value=value, p=p, test=test, least_p=_least_p(ours, theirs, test), samples=shared,
        clusters=spread.clusters, **_bounds(value, spread),
    )  # fmt: skip


def _bounds(value: float, spread: Spread) -> dict[str, float]:
    if spread.clusters == 1:
        return {"low": -1.0, "high": 1.0, "error": 1.0, "growth": 1.0, "degrees": 1.0}
    return {
        "low": value - intervals.reach(spread, 1 + value, upwards=False),
        "high": value + intervals.reach(spread, 1 - value, upwards=True),
        "error": spread.error,
        "degrees": spread.degrees,
        "growth": max(intervals.growth(spread, 1.0, upwards=upwards) for upwards in (True, False)),
    }


def _tested(
    metric: Metric, samples: tuple[FloatArray, FloatArray], totals: tuple[FloatArray, FloatArray], value: float,
    error: float, seed: int,
) -> tuple[float, Test]:  # fmt: skip
    (first, second), (ours, theirs) = samples, totals
    if len(ours) == 1:
        return 1.0, "none"
    if len(ours) == len(first) and metric.compute is mean_of_scores and _right_or_wrong(first, second):
        return mcnemar(int((first[:, 0] > second[:, 0]).sum()), int((first[:, 0] < second[:, 0]).sum())), "mcnemar"
    if len(ours) > MANY:
        from scipy.special import ndtr

        return (float(2 * ndtr(-abs(value) / error)) if error > 0 else float(value == 0)), "standard error"
    return _exchanged(metric, ours, theirs, abs(value), seed), "exchange of clusters"


def _least_p(ours: FloatArray, theirs: FloatArray, test: Test) -> float:
    """Return the smallest p that a test reaches with so many clusters.

    The real assignment and its mirror image are two of `2^C` exchanges. Where most clusters differ, only they count:
    exchanging equal answers changes nothing, and other data of that kind would have as many ties.
    """
    if test in {"none", "standard error"}:
        return float(test == "none")
    differing = int((ours != theirs).any(axis=1).sum())
    telling = differing if 2 * differing > len(ours) else len(ours)
    drawn = 1 / (PERMUTATIONS + 1) if test != "mcnemar" and len(ours) > ENUMERATED else 0.0
    return max(drawn, min(1.0, 2.0 ** (1 - telling)))


def _right_or_wrong(first: FloatArray, second: FloatArray) -> bool:
    rows = np.concatenate([first, second])
    return bool(np.isin(rows[:, 0], (0.0, 1.0)).all() and (rows[:, 1] == 1).all())


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test, from the samples that only one of two models has right."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _exchanged(metric: Metric, ours: FloatArray, theirs: FloatArray, size: float, seed: int) -> float:
    """Return the share of exchanges, the real assignment among them, with a difference at least as large."""
    as_large = total = int(len(ours) > ENUMERATED)
    for kept in _exchanges(len(ours), seed):
        moved = kept @ (ours - theirs)
        first, second = theirs.sum(axis=0) + moved, ours.sum(axis=0) - moved
        values = np.abs(metric.compute(first) - metric.compute(second))
        as_large += int((np.nan_to_num(values) >= size - _SLACK).sum())
        total += len(kept)
    return as_large / total


def _exchanges(clusters: int, seed: int) -> Iterator[FloatArray]:
    """Yield which clusters stay as they are [b, C]: all ways if they are few, else drawn ones."""
    if clusters <= ENUMERATED:
        ways = np.arange(2**clusters)[:, None] >> np.arange(clusters)[None, :]
        yield (ways & 1).astype(np.float64)
        return
    generator = np.random.default_rng(seed)
    at_once = rows_at_once(clusters)
    for start in range(0, PERMUTATIONS, at_once):
        rows = min(at_once, PERMUTATIONS - start)
        yield generator.integers(0, 2, size=(rows, clusters), dtype=np.int8).astype(np.float64)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, so that among all of them a false alarm has the stated probability.

    Source: Holm 1979.
    """
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(ps), 0, -1) * values[order]))
    return [float(p) for p in adjusted]


def levels_to_reach(ps: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Return what each p must be below to be significant by Holm, given the others."""
    levels = []
    for place in range(len(ps)):
        others = sorted([*ps[:place], *ps[place + 1 :]])
        # How many of the others Holm rejects before this comparison comes.
        kept = (count for count, p in enumerate(others) if p * (len(ps) - count) >= alpha)
        levels.append(alpha / (len(ps) - next(kept, len(others))))
    return levels


def resampled_together(
    metric: Metric, statistics: Sequence[FloatArray], clusters: Sequence[str], *, seed: int
) -> FloatArray:
    """Return the values [B, M] of M models on B resamplings of the same clusters, drawn with replacement.

    Statistics are per sample [N, K], one array for each model, of the same samples in the same order. The same seed and
    number of clusters draw the same clusters for every metric.
    """
    numbers = membership(clusters)
    totals = np.concatenate([totals_by_cluster(one, numbers) for one in statistics], axis=1)
    generator, count = np.random.default_rng(seed), len(totals)
    at_once, found = rows_at_once(count), [np.zeros((0, totals.shape[1]))]
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        chosen = generator.integers(0, count, size=(rows, count)) + count * np.arange(rows)[:, None]
        # How often each cluster was drawn [b, C].
        draws = np.bincount(chosen.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        found.append(draws @ totals)
    by_model = np.split(np.concatenate(found), len(statistics), axis=1)
    return np.stack([metric.compute(drawn) for drawn in by_model], axis=1)


def ranks(values: FloatArray) -> FloatArray:
    """Return ranks [..., M] of values [..., M], 1 for the largest; equal ones share their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-values, axis=-1), dtype=np.float64)


def bounds(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the 95 % interval [M], [M] of resampled values [B, M], values that occurred; NaN is left out."""
    low, high = np.nanquantile(values, [TAIL, 1 - TAIL], axis=0, method="inverted_cdf")
    return low, high


def relative_gain(ours: FloatArray, baseline: FloatArray) -> FloatArray:
    """Return the paper's gain over a baseline: the mean over datasets [..., S] of (ours - baseline) / baseline.

    Datasets on which the baseline scores zero are left out; NaN if it does on all. Source: Uni-Med, Section 4.2. It is
    dominated by datasets with low baselines, and is not antisymmetric: two models may each gain over the other.
    """
    gains = np.divide(ours - baseline, baseline, out=np.full_like(ours, np.nan), where=baseline > 0)
    return _mean_where(gains, ~np.isnan(gains))


def geometric_gain(ours: FloatArray, baseline: FloatArray) -> FloatArray:
    """Return exp(mean of log(ours / baseline)) - 1 over datasets [..., S]: antisymmetric, heavy on no dataset.

    Datasets on which either scores zero are left out; NaN if there is no other.
    """
    positive = (ours > 0) & (baseline > 0)
    logs = np.log(np.where(positive, ours, 1.0)) - np.log(np.where(positive, baseline, 1.0))
    found: FloatArray = np.exp(_mean_where(logs, positive)) - 1
    return found


def _mean_where(values: FloatArray, counted: npt.NDArray[np.bool_]) -> FloatArray:
    """Return the mean over the last axis of the values that count; NaN where none does."""
    total = np.where(counted, values, 0.0).sum(axis=-1)
    empty = np.full_like(total, np.nan)
    return np.asarray(np.divide(total, counted.sum(axis=-1), out=empty, where=counted.any(axis=-1)))
