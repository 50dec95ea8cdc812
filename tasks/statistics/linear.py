"""Any metric as a mean, near its value: what each part of the data weighs in it, and how far each pulls it.

The pull of a part is what the metric loses without it (the jackknife). Of a mean it is `(score - mean) / N`, exactly;
of BLEU, METEOR or macro-F1 it is found by leaving the part out. So one theory of means serves all metrics. (The slope
at the value, called the infinitesimal jackknife, is no substitute: it covered macro-F1 with rare classes in as few as
84 of 100 simulations, where this covered 92.) Source: Efron and Tibshirani 1993, chapter 11.
"""

import numpy as np

from medbench.tasks.metrics.metric import FloatArray, Metric, mean_of_scores
from medbench.tasks.statistics.clusters import rows_at_once

_NOISE = 1e-10


def pulls_of(metric: Metric, parts: FloatArray) -> FloatArray:
    """Return how far each part of the data pulls a metric its way [P]; the pulls of a mean cancel.

    Args:
        metric: The metric.
        parts: Sufficient statistics of each part, a sample or a cluster [P, K].
    """
    totals = parts.sum(axis=0)
    value = metric.compute(totals)
    if metric.compute is mean_of_scores:
        return np.asarray((parts[:, 0] - value * parts[:, 1]) / totals[1])
    at_once = rows_at_once(parts.shape[1])
    without = [metric.compute(totals - parts[start : start + at_once]) for start in range(0, len(parts), at_once)]
    # Where nothing is left to compute with, a part tells nothing; nor do the constants that BLEU divides by.
    pulls = np.nan_to_num(value - np.concatenate(without)) * (1 - 1 / len(parts))
    return np.where(np.abs(pulls) < _NOISE, 0.0, pulls)


def weights_of(metric: Metric, statistics: FloatArray) -> FloatArray:
    """Return the share of a metric that hangs on each sample [N], one in all; 0 where a sample counts nothing.

    Args:
        metric: The metric.
        statistics: Per-sample sufficient statistics [N, K].
    """
    if metric.compute is mean_of_scores:
        weights = statistics[:, 1]
    else:
        weights = np.ones(len(statistics)) if metric.weights is None else metric.weights(statistics)
    total = float(weights.sum())
    return weights / total if total > 0 else np.full(len(statistics), 1 / max(1, len(statistics)))
