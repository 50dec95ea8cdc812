"""Samples that belong together (one image, patient, volume, document), and how whole clusters are drawn again."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medbench.tasks.metrics.metric import FloatArray

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
    count = int(numbers.max()) + 1 if len(numbers) else 0
    totals = np.zeros((count, statistics.shape[1]))
    np.add.at(totals, numbers, statistics)
    return totals


def resampled(totals: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """Return summed statistics [B, K] of as many clusters as there are, drawn with replacement B times.

    The same number of clusters and seed give the same draws, so that two models stay paired.
    """
    drawn = [draws @ totals for draws in _draws(len(totals), resamples, seed)]
    return np.concatenate(drawn) if drawn else np.zeros((0, totals.shape[1]))


def _draws(clusters: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each cluster was drawn [b, C], some resamples at a time."""
    generator = np.random.default_rng(seed)
    at_once = rows_at_once(clusters)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        chosen = generator.integers(0, clusters, size=(rows, clusters))
        flat = (chosen + clusters * np.arange(rows)[:, None]).ravel()
        yield np.bincount(flat, minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
