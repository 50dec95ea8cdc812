"""Confidence intervals by resampling whole clusters (images, patients, volumes, documents)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.metrics.metric import FloatArray, Metric

RESAMPLES = 1000
LEVEL = 0.95


def cluster_bootstrap(
    metric: Metric, statistics: FloatArray, clusters: Sequence[str], *, seed: int
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a metric, resampling clusters with replacement.

    Questions about one image are not independent, so clusters are drawn, never samples. Works for corpus metrics
    too, since a metric is a function of summed statistics.

    Args:
        metric: The metric.
        statistics: Per-sample sufficient statistics [N, K].
        clusters: Cluster of each sample, N names.
        seed: Of the resampling.

    Returns:
        Lower and upper bound, or None with fewer than two clusters or nothing to compute.
    """
    names, membership = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:  # noqa: PLR2004 - one cluster has no spread
        return None
    totals = np.zeros((len(names), statistics.shape[1]))
    np.add.at(totals, membership, statistics)
    values = metric.compute(_draws(len(names), seed) @ totals)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _draws(clusters: int, seed: int) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(np.float64)
