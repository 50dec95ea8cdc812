"""Several models on the same samples, resampled together: ranks with intervals, and the paper's relative gain."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medbench.tasks.metrics.metric import FloatArray, Metric
from medbench.tasks.statistics.clusters import membership, resampled, totals_by_cluster
from medbench.tasks.statistics.intervals import TAIL

RESAMPLES = 2000


def resampled_together(
    metric: Metric, statistics: Sequence[FloatArray], clusters: Sequence[str], *, seed: int
) -> FloatArray:
    """Return the values [B, M] of M models on B resamplings of the same clusters.

    Statistics are per sample [N, K], one array for each model, of the same samples in the same order. The same seed and
    number of clusters draw the same clusters for every metric.
    """
    numbers = membership(clusters)
    totals = np.concatenate([totals_by_cluster(one, numbers) for one in statistics], axis=1)
    drawn = resampled(totals, resamples=RESAMPLES, seed=seed)
    width = statistics[0].shape[1]
    columns = [metric.compute(drawn[:, place : place + width]) for place in range(0, drawn.shape[1], width)]
    return np.stack(columns, axis=1)


def ranks(values: FloatArray) -> FloatArray:
    """Return ranks [..., M] of values [..., M], 1 for the largest; equal ones share their mean rank."""
    larger = (values[..., None, :] > values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    found: FloatArray = larger + (equal + 1) / 2
    return found


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
