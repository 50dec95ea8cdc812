"""95 % confidence intervals that heed clusters: what the number might have been with other patients or images.

Questions about one image are not independent. Over 70 volumes with 126 slices each, an interval that takes slices for
independent covered the truth in 38 of 100 simulations instead of 95. What is used, by the kind of metric:

- a share of right answers: Wilson's interval with the effective number of samples, `p (1 - p) / SE^2`, where SE is the
  cluster-robust standard error (CR1), and the t distribution's quantile; so it stays inside [0, 1] and has a width
  where all or none are right;
- a mean of scores: the cluster-robust t interval; with few clusters the bootstrap-t over clusters;
- anything else (corpus BLEU, macro-F1): the percentile bootstrap over clusters, of summed sufficient statistics.

Sources: Cameron and Miller 2015 (cluster-robust inference), Korn and Graubard 1998 (effective sample size), Davison and
Hinkley 1997 (bootstrap-t).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tasks.metrics.metric import FloatArray, Metric, mean_of_scores
from tasks.statistics.clusters import membership, resampled, totals_by_cluster

LEVEL = 0.95
RESAMPLES = 2000
FEW_CLUSTERS = 15
_TAIL = (1 - LEVEL) / 2

Method = Literal["wilson", "cluster-t", "bootstrap-t", "bootstrap", "one cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % interval.

    Attributes:
        low: Lower bound, a fraction.
        high: Upper bound, a fraction.
        method: How it was made.
        clusters: Number of clusters.
        design_effect: How many times wider the variance is than that of as many independent samples; NaN where the
            metric is no mean.
    """

    low: float
    high: float
    method: Method
    clusters: int
    design_effect: float


def interval(metric: Metric, statistics: FloatArray, clusters: Sequence[str], *, seed: int) -> Interval | None:
    """Return the interval of a metric, or None where nothing was scored or nothing can be computed.

    Args:
        metric: The metric.
        statistics: Per-sample sufficient statistics [N, K].
        clusters: Cluster of each sample, N names.
        seed: Of resampling, where there is any.
    """
    if not len(statistics):
        return None
    totals = totals_by_cluster(statistics, membership(clusters))
    value = float(metric.compute(totals.sum(axis=0)))
    if np.isnan(value):
        return None
    if len(totals) == 1:
        # One cluster says nothing of others: every fraction is possible.
        return Interval(low=0.0, high=1.0, method="one cluster", clusters=1, design_effect=float("nan"))
    if metric.compute is not mean_of_scores:
        return _bootstrap(metric, totals, seed)
    return _of_mean(statistics, totals, value, seed)


def _of_mean(statistics: FloatArray, totals: FloatArray, value: float, seed: int) -> Interval:
    error = standard_error(totals)
    effect = _design_effect(statistics, error)
    if _all_right_or_wrong(statistics) or value in {0.0, 1.0}:
        low, high = _wilson_of_clusters(totals, value, error)
        return Interval(low=low, high=high, method="wilson", clusters=len(totals), design_effect=effect)
    if len(totals) < FEW_CLUSTERS:
        low, high = _bootstrap_t(totals, value, error, seed)
        return _inside(low, high, "bootstrap-t", len(totals), effect)
    margin = t_quantile(len(totals)) * error
    return _inside(value - margin, value + margin, "cluster-t", len(totals), effect)


def standard_error(totals: FloatArray) -> float:
    """Return the cluster-robust standard error (CR1) of a mean, from totals [C, 2] of (sum of scores, count)."""
    clusters = len(totals)
    sums, counts = totals[:, 0], totals[:, 1]
    residuals = sums - counts * (sums.sum() / counts.sum())
    return float(np.sqrt(clusters / (clusters - 1) * np.square(residuals).sum()) / counts.sum())


def t_quantile(clusters: int) -> float:
    """Return the quantile of a two-sided 95 % interval with C - 1 degrees of freedom."""
    return float(stats.t.ppf(1 - _TAIL, clusters - 1))


def wilson(share: float, samples: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of (effective) samples."""
    square = quantile**2 / samples
    centre = (share + square / 2) / (1 + square)
    margin = quantile / (1 + square) * np.sqrt(share * (1 - share) / samples + square / (4 * samples))
    return max(0.0, float(centre - margin)), min(1.0, float(centre + margin))


def _wilson_of_clusters(totals: FloatArray, share: float, error: float) -> tuple[float, float]:
    clusters, samples = len(totals), float(totals[:, 1].sum())
    # With all or none right nothing tells how alike a cluster's samples are: each cluster counts once.
    effective = min(samples, share * (1 - share) / error**2) if error > 0 else float(clusters)
    return wilson(share, effective, t_quantile(clusters))


def _all_right_or_wrong(statistics: FloatArray) -> bool:
    return bool(np.isin(statistics[:, 0], (0.0, 1.0)).all())


def _design_effect(statistics: FloatArray, error: float) -> float:
    scores = statistics[:, 0]
    alone = float(scores.var(ddof=1)) / len(scores) if len(scores) > 1 else 0.0
    return error**2 / alone if alone > 0 else float("nan")


def _bootstrap_t(totals: FloatArray, value: float, error: float, seed: int) -> tuple[float, float]:
    """Return the bootstrap-t interval: resampled distances in units of their own standard errors."""
    clusters = len(totals)
    if error == 0:
        return value, value
    sums, counts = totals[:, 0], totals[:, 1]
    moments = np.stack([sums, counts, sums**2, sums * counts, counts**2], axis=1)
    drawn = resampled(moments, resamples=RESAMPLES, seed=seed)
    means = drawn[:, 0] / drawn[:, 1]
    squares = drawn[:, 2] - 2 * means * drawn[:, 3] + means**2 * drawn[:, 4]
    errors = np.sqrt(clusters / (clusters - 1) * np.maximum(squares, 0)) / drawn[:, 1]
    # A draw of one cluster alone has no spread; it says that anything is possible on its side.
    apart = means - value
    nowhere = np.where(apart == 0, 0.0, np.copysign(np.inf, apart))
    distances = np.divide(apart, errors, out=nowhere, where=errors > 0)
    low, high = np.quantile(distances, [_TAIL, 1 - _TAIL], method="nearest")
    return value - float(high) * error, value - float(low) * error


def _bootstrap(metric: Metric, totals: FloatArray, seed: int) -> Interval | None:
    values = metric.compute(resampled(totals, resamples=RESAMPLES, seed=seed))
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    return Interval(
        low=float(low), high=float(high), method="bootstrap", clusters=len(totals), design_effect=float("nan")
    )


def _inside(low: float, high: float, method: Method, clusters: int, effect: float) -> Interval:
    return Interval(low=max(0.0, low), high=min(1.0, high), method=method, clusters=clusters, design_effect=effect)
