"""Two models on the same samples: how far apart, how sure, and how small a difference could have been seen.

The difference is tested by exchanging the models' answers cluster by cluster: were they equally good, either could have
given either. In simulations with clustered data this holds its 5 %, where a test over samples rejects 9 to 61
in 100 equal pairs. With one sample per cluster and right-or-wrong scores it is McNemar's exact test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tasks.metrics.metric import FloatArray, Metric, mean_of_scores
from tasks.statistics.clusters import membership, resampled, rows_at_once, totals_by_cluster
from tasks.statistics.intervals import LEVEL, RESAMPLES, standard_error, t_quantile

PERMUTATIONS = 9999
ENUMERATED = 13
"""With so few clusters all exchanges are tried."""
MANY = 5000
"""With so many clusters the difference over its standard error is normal, and exchanges would find the same p."""
_TAIL = (1 - LEVEL) / 2
_POWER = 0.8
_STANDARD_ERRORS = float(stats.norm.ppf(1 - _TAIL) + stats.norm.ppf(_POWER))
_SLACK = 1e-9

Test = Literal["mcnemar", "exchange of clusters", "standard error", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What separates two models on one metric.

    Attributes:
        value: First minus second, a fraction.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        p: Probability of a difference as large, were the models equally good.
        test: How it was found; `none` with a single cluster, where p is 1.
        samples: Shared samples.
        clusters: Their clusters.
        detectable: Smallest true difference that such data show with a probability of 80 %; NaN where the two do not
            differ on a single cluster, which says nothing of it.
    """

    value: float
    low: float
    high: float
    p: float
    test: Test
    samples: int
    clusters: int
    detectable: float


def difference(
    metric: Metric, first: FloatArray, second: FloatArray, clusters: Sequence[str], *, seed: int
) -> Difference | None:
    """Compare two models on the same samples; None where a metric cannot be computed for one of them.

    Args:
        metric: The metric.
        first: Per-sample sufficient statistics [N, K] of one model.
        second: Those of the other, of the same samples in the same order.
        clusters: Cluster of each sample, N names.
        seed: Of the exchanges and of resampling.
    """
    if not len(first):
        return None
    numbers = membership(clusters)
    ours, theirs = totals_by_cluster(first, numbers), totals_by_cluster(second, numbers)
    value = float(metric.compute(ours.sum(axis=0)) - metric.compute(theirs.sum(axis=0)))
    if np.isnan(value):
        return None
    low, high, error = _spread(metric, ours, theirs, value, seed)
    p, test = _tested(metric, (first, second), (ours, theirs), value, error, seed)
    return Difference(
        value=value, low=low, high=high, p=p, test=test, samples=len(first), clusters=len(ours),
        detectable=min(1.0, _STANDARD_ERRORS * error) if error > 0 else float("nan"),
    )  # fmt: skip


def _spread(
    metric: Metric, ours: FloatArray, theirs: FloatArray, value: float, seed: int
) -> tuple[float, float, float]:
    """Return the bounds of the difference's interval, and its standard error."""
    if len(ours) == 1:
        return -1.0, 1.0, 1.0
    if metric.compute is mean_of_scores:
        error = standard_error(np.stack([ours[:, 0] - theirs[:, 0], ours[:, 1]], axis=1))
        margin = t_quantile(len(ours)) * error
        return max(-1.0, value - margin), min(1.0, value + margin), error
    width = ours.shape[1]
    drawn = resampled(np.concatenate([ours, theirs], axis=1), resamples=RESAMPLES, seed=seed)
    values = metric.compute(drawn[:, :width]) - metric.compute(drawn[:, width:])
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL]) if len(values) else (-1.0, 1.0)
    return float(low), float(high), float(values.std(ddof=1)) if len(values) > 1 else 1.0


def _tested(
    metric: Metric, samples: tuple[FloatArray, FloatArray], totals: tuple[FloatArray, FloatArray], value: float,
    error: float, seed: int,
) -> tuple[float, Test]:  # fmt: skip
    first, second = samples
    ours, theirs = totals
    if len(ours) == 1:
        return 1.0, "none"
    if len(ours) == len(first) and metric.compute is mean_of_scores and _right_or_wrong(first, second):
        return mcnemar(int((first[:, 0] > second[:, 0]).sum()), int((first[:, 0] < second[:, 0]).sum())), "mcnemar"
    if len(ours) > MANY:
        return (float(2 * stats.norm.sf(abs(value) / error)) if error > 0 else float(value == 0)), "standard error"
    return _exchanged(metric, ours, theirs, abs(value), seed), "exchange of clusters"


def _right_or_wrong(first: FloatArray, second: FloatArray) -> bool:
    return bool(np.isin(first[:, 0], (0.0, 1.0)).all() and np.isin(second[:, 0], (0.0, 1.0)).all())


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test, from the samples that only one of two models has right."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _exchanged(metric: Metric, ours: FloatArray, theirs: FloatArray, size: float, seed: int) -> float:
    """Return the share of exchanges, the real assignment among them, with a difference at least as large."""
    as_large = total = 0
    for kept in _exchanges(len(ours), seed):
        moved = kept @ (ours - theirs)
        first, second = theirs.sum(axis=0) + moved, ours.sum(axis=0) - moved
        values = np.abs(metric.compute(first) - metric.compute(second))
        as_large += int((np.nan_to_num(values) >= size - _SLACK).sum())
        total += len(kept)
    if len(ours) <= ENUMERATED:
        return as_large / total
    return (as_large + 1) / (total + 1)


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
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
