"""Several trainings of each of several models, on the same test samples: what their mean scores are worth.

Two things are random, the seeds of the trainings and the test samples, and every training answers all samples. So both
are resampled, seeds and whole clusters, the same ones for all models. One fewer of each is drawn than there are, which
makes the variance of the draws that of the mean (Rao and Wu 1988; McCarthy and Snowden 1985); with three seeds it
would be two thirds of it otherwise. Few seeds, and few clusters of a task, tell little of their own spread: the
interval is one of Student's t, with the degrees of freedom of a sum of all these variances (Satterthwaite 1946).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtrinc, stdtr

from medbench.tasks.metrics.metric import FloatArray, Metric
from medbench.tasks.statistics.intervals import membership, rows_at_once, t_quantile, totals_by_cluster
from medbench.tasks.statistics.paired import ALPHA, RESAMPLES, relative_gain

_UNPOWERED = 0.2
Reading = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of M models, each trained with the same S seeds, on T tasks."""

    points: FloatArray  # [M, S, T]
    drawn: FloatArray  # The same on B resamplings of each task's clusters [B, M, S, T].
    clusters: Sequence[int]  # Of each task [T].

    @property
    def seeds(self) -> int:
        """Number of trainings of each model."""
        return int(self.points.shape[1])


def task_scores(
    metric: Metric, statistics: Sequence[Sequence[FloatArray]], clusters: Sequence[str], *, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return the scores of models on one task [M, S], and on resamplings of its clusters [B, M, S].

    `statistics` are, by model and training, those of the same N samples [N, K], `clusters` the names of these; `seed`
    is that of the draws, one fewer cluster each than there are.
    """
    numbers = membership(clusters)
    totals = np.stack([[totals_by_cluster(one, numbers) for one in of_model] for of_model in statistics], axis=0)
    models, trainings, count, width = totals.shape
    flat = totals.transpose(2, 0, 1, 3).reshape(count, -1)
    generator, found = np.random.default_rng(seed), list[FloatArray]()
    at_once, each = rows_at_once(max(count, models * trainings * width)), max(1, count - 1)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        chosen = generator.integers(0, count, size=(rows, each)) + count * np.arange(rows)[:, None]
        times = np.bincount(chosen.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        found.append(metric.compute((times @ flat).reshape(rows, models, trainings, width)))
    return np.asarray(metric.compute(totals.sum(axis=2))), np.concatenate(found)


def gains(ours: FloatArray, baseline: FloatArray, parts: Sequence[npt.NDArray[np.bool_]]) -> FloatArray:
    """Return the paper's gain [..., P] of scores [..., T] over a baseline's, over each of P selections [T] of tasks."""
    return np.stack([relative_gain(ours[..., part], baseline[..., part]) for part in parts], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Numbers [Q] that are read off mean scores, each with its standard error and the degrees of freedom of that."""

    values: FloatArray
    errors: FloatArray  # NaN with a single training of each model: its spread is not known.
    degrees: FloatArray
    of_seeds: FloatArray  # Share of the variance that is the seeds'.

    @property
    def intervals(self) -> tuple[FloatArray, FloatArray]:
        """The 95 % intervals' lower and upper ends."""
        reach = np.asarray([t_quantile(one) for one in self.degrees]) * self.errors
        return self.values - reach, self.values + reach

    @property
    def p(self) -> FloatArray:
        """Two-sided probability of values as far from zero, were it the truth; NaN where no error is known."""
        known = np.where(self.errors > 0, self.errors, np.nan)
        found = np.minimum(1.0, 2 * stdtr(self.degrees, -np.abs(self.values) / known))
        return np.where((self.values == 0) & ~np.isnan(self.errors), 1.0, found)

    def detectable(self, level: float = ALPHA) -> FloatArray:
        """Return how far from zero a truth is seen 8 times of 10, where p must be below `level`."""
        # With few seeds a sum of two quantiles of t promises too much: this is the non-central t's.
        limits = [t_quantile(one, level / 2) for one in self.degrees]
        return np.asarray(nctdtrinc(self.degrees, _UNPOWERED, limits)) * self.errors


def estimate(scores: Scores, read: Reading, *, seed: int) -> Estimate:
    """Return what `read` makes of the models' mean scores, [..., M, T] to [..., Q], with what it is worth."""
    values = read(scores.points.mean(axis=1))
    with_samples = _variance(read(scores.drawn.mean(axis=2)))
    if scores.seeds == 1:
        nothing = np.full_like(values, np.nan)
        return Estimate(values=values, errors=nothing, degrees=np.ones_like(values), of_seeds=nothing)
    draws, each = len(scores.drawn), scores.seeds - 1
    picks = np.random.default_rng(seed).integers(0, scores.seeds, size=(draws, each))
    with_seeds = _variance(read(scores.points[:, picks].mean(axis=2).transpose(1, 0, 2)))
    both = np.stack([one[:, pick].mean(axis=1) for one, pick in zip(scores.drawn, picks, strict=True)])
    total = with_seeds + with_samples
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(total > 0, with_seeds / total, 0.0)
        within = share**2 / each + (1 - share) ** 2 / _degrees_of_samples(scores, read)
    return Estimate(
        values=values, errors=np.sqrt(_variance(read(both))), degrees=np.asarray(1 / within), of_seeds=share
    )


def _degrees_of_samples(scores: Scores, read: Reading) -> FloatArray:
    """Return the degrees of freedom [Q] of the samples' variance, each task's part with one fewer than its clusters."""
    means, drawn = scores.points.mean(axis=1), scores.drawn.mean(axis=2)
    variances = []
    for task in range(drawn.shape[-1]):
        alone = np.tile(means, (len(drawn), 1, 1))
        alone[..., task] = drawn[..., task]
        variances.append(np.nan_to_num(_variance(read(alone))))
    parts = np.stack(variances, axis=-1)
    whole = np.square(parts.sum(axis=-1))
    squares = (np.square(parts) / np.maximum(1, np.asarray(scores.clusters) - 1)).sum(axis=-1)
    return np.asarray(np.where(squares > 0, whole / np.where(squares > 0, squares, 1.0), 1.0))


def _variance(draws: FloatArray) -> FloatArray:
    """Return the variance over draws [B, Q], NaN ones left out; NaN where all are."""
    there = ~np.isnan(draws)
    counts = np.where(there.any(axis=0), there.sum(axis=0), np.nan)
    means = np.where(there, draws, 0.0).sum(axis=0) / counts
    return np.asarray(np.where(there, np.square(draws - means), 0.0).sum(axis=0) / counts)
