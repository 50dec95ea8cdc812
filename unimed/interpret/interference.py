"""Interference between tasks (Uni-Med, Eqs. 2 to 5), of sums that are gathered while gradients go by.

There are T tasks with n batches each; g_i^b is the gradient of the loss of batch b of task i, ĝ the same of length one.
A pull Δ_ji[b] = mean over a of <ĝ_j^a, g_i^b> says how much a step for task j moves the loss of a batch of task i. A
batch never pulls itself: its own pair is left out, as the published notebook of Uni-Perceiver does it. (That one drops
the pairs of the same number of two tasks as well, which are as good as any other.)

Everything is float64. A ratio that has no value is NaN.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medbench.unimed.interpret.document import BINS

Array = npt.NDArray[np.float64]
LEVEL = 0.95
DRAWS = 2000
_FEWEST = 2  # Batches of which one may be left out.


class Interval(NamedTuple):
    """A value and its bounds, all of one shape."""

    value: Array
    low: Array
    high: Array


def without_own_pairs(pulls: Array, squares: Array, norms: Array) -> Array:
    """Return Δ [T, T, n], at [j, i, b], of the pulls u_j·g_i^b [T, T, n], where u_j is the mean of task j's ĝ.

    `squares` [T, n] are the squared lengths of g_i^b in the parameters looked at, `norms` [T, n] those of whole
    gradients, by which ĝ is made. ValueError if there is a single batch.
    """
    tasks, batches = norms.shape
    if batches < _FEWEST:
        raise ValueError(f"{batches} batch has no other to be compared with")
    own = np.divide(squares, norms, out=np.zeros_like(norms), where=norms > 0)
    deltas = pulls.copy()
    for task in range(tasks):
        deltas[task, task] = (batches * pulls[task, task] - own[task]) / (batches - 1)
    return deltas


def paper_direction(deltas: Array) -> Array:
    """Return GD [T, T] (Eq. 2) as published: row i, column j is the mean over b of Δ_ji[b] / Δ_ii[b]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Array = (deltas / _own(deltas)).mean(axis=2).T
    return ratios


def strict_direction(deltas: Array) -> Array:
    """Return GD [T, T] as a ratio of means: the mean over b of Δ_ji[b] by that of Δ_ii[b]."""
    return _ratio(deltas.mean(axis=2))


def non_positive(deltas: Array) -> Array:
    """Return for each task [T] the share of batches whose Δ_ii[b], the denominator of Eq. 2, is not positive."""
    shares: Array = (_own(deltas) <= 0).mean(axis=1)
    return shares


def magnitude(norms: Array) -> Array:
    """Return GM [..., T, T] (Eq. 3) of the norms of batch gradients [..., T, n]; 1 where two tasks are alike."""
    return _magnitude(norms.mean(axis=-1))


def _magnitude(means: Array) -> Array:
    one, other = means[..., :, None], means[..., None, :]
    with np.errstate(invalid="ignore"):
        similar: Array = 2 * one * other / (one**2 + other**2)
    return similar


def tug_of_war(direction: Array, size: Array) -> Array:
    """Return each task's index [..., T] (Eq. 4), the sum over j of GD_ij·GM_ij; its own part is 1."""
    index: Array = (direction * size).sum(axis=-1)
    return index


def normalised(index: Array) -> Array:
    """Return indexes [..., T] by their largest, as Fig. 4a shows them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Array = index / index.max(axis=-1, keepdims=True)
    return shares


def _own(deltas: Array) -> Array:
    """Return Δ_ii [T, n]."""
    tasks = np.arange(len(deltas))
    return deltas[tasks, tasks]


def _ratio(means: Array) -> Array:
    """Return GD [..., T, T] of means of Δ [..., T, T] at [j, i]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Array = np.swapaxes(means, -1, -2) / np.diagonal(means, axis1=-2, axis2=-1)[..., None]
    return ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class Strict:
    """The strict reading, each with the interval of a bootstrap over batches."""

    direction: Interval  # [T, T]
    size: Interval  # [T, T]
    index: Interval  # [T]
    normalised: Interval  # [T]


def strict(deltas: Array, norms: Array, lengths: Array, *, seed: int, draws: int = DRAWS) -> Strict:
    """Return the strict reading of Δ [T, T, n], of norms [T, n] of whole gradients and `lengths` of those looked at.

    Each draw takes n batches of each task anew, both where they pull and where they are pulled. To first order the
    change by the pulling ones is sum_a (w_a - 1/n) <ĝ_j^a, mean of g_i>; the mean of g_i is taken to lie along u_i,
    with the mean norm of task i, so that no more than Δ is needed.
    """
    tasks, batches = norms.shape
    dice = np.random.default_rng(seed)
    weights = dice.multinomial(batches, [1 / batches] * batches, size=(draws, tasks)) / batches
    pulled = np.einsum("rib,jib->rji", weights, deltas)
    turned = np.divide(deltas, norms, out=np.zeros_like(deltas), where=norms > 0)  # <u_i, ĝ_j^a> at [i, j, a]
    pulling = np.einsum("rja,ija->rji", weights - 1 / batches, turned) * norms.mean(axis=1)
    direction = _ratio(pulled + pulling)
    size = _magnitude(np.einsum("rib,ib->ri", weights, lengths))
    index = tug_of_war(direction, size)
    whole, alike = strict_direction(deltas), magnitude(lengths)
    value = tug_of_war(whole, alike)
    return Strict(
        direction=_around(whole, direction), size=_around(alike, size), index=_around(value, index),
        normalised=_around(normalised(value), normalised(index)),
    )  # fmt: skip


def _around(value: Array, drawn: Array) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Interval(value, low, high)


def flipped_band(deltas: Array, *, seed: int, draws: int = DRAWS) -> Array:
    """Return the strict |GD| [T, T] that 95 % of draws stay below when each batch of task i gets a random sign.

    That is what there would be if a task's batches had no direction in common. The denominators are the real ones.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, *deltas.shape[1:]))
    means = np.einsum("rib,jib->rji", signs, deltas) / deltas.shape[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.swapaxes(means, 1, 2) / _own(deltas).mean(axis=1)[:, None]
    band: Array = np.quantile(np.abs(ratios), LEVEL, axis=0)
    return band


def halves_direction(own: Array, half: Array, squares: Array, norms: Array) -> float:
    """Return the strict GD of the second half of one task's batches under the first; 1 if both say the same.

    `own` [n] are u·g^b, `half` [n - m] the same for the second half with u of the first m batches alone. NaN where the
    second half has fewer than two batches.
    """
    batches, first = len(own), len(own) - len(half)
    if len(half) < _FEWEST or not first:
        return float("nan")
    pairs = np.divide(squares, norms, out=np.zeros_like(norms), where=norms > 0)[first:]
    within = (batches * own[first:] - first * half - pairs) / (len(half) - 1)
    return float(half.mean() / within.mean()) if within.mean() else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Statistics scores (Eq. 5) of parameters, counted; from 0, tasks cancel out, to 1, all pull one way."""

    shared: tuple[int, ...] = (0,) * BINS  # Of parameters that two tasks or more reach, in ten bins from 0 to 1.
    total: float = 0.0  # Sum of the scores of these.
    single: int = 0  # Parameters that one task alone reaches: they score exactly 1 and say nothing of interference.
    silent: int = 0  # Parameters that no task reaches: 0/0.

    def __add__(self, other: "Bins") -> "Bins":
        shared = tuple(one + more for one, more in zip(self.shared, other.shared, strict=True))
        return Bins(
            shared=shared, total=self.total + other.total, single=self.single + other.single,
            silent=self.silent + other.silent,
        )  # fmt: skip

    @property
    def mean(self) -> float:
        """Mean score of what two tasks or more reach; NaN if there is nothing."""
        count = sum(self.shared)
        return self.total / count if count else float("nan")

    @property
    def paper(self) -> tuple[int, ...]:
        """The bins of Fig. 4b, where what a single task reaches is in the last one."""
        return (*self.shared[:-1], self.shared[-1] + self.single)

    @property
    def paper_mean(self) -> float:
        """Mean score with what a single task reaches; NaN if there is nothing."""
        count = sum(self.paper)
        return (self.total + self.single) / count if count else float("nan")


def scores(total: Array, absolute: Array) -> Array:
    """Return |Σ m_i| / Σ |m_i| [P] (Eq. 5) of the two sums over tasks of their mean gradients m_i; NaN for 0/0."""
    with np.errstate(invalid="ignore"):
        shares: Array = np.abs(total) / absolute
    return np.minimum(shares, 1.0)


def binned(total: Array, absolute: Array, reached: npt.NDArray[np.uint8]) -> Bins:
    """Count the scores of parameters [P]; `reached` [P] says how many tasks have another mean gradient than zero."""
    found = scores(total, absolute)[reached > 1]
    counts = np.bincount(np.minimum((found * BINS).astype(np.int64), BINS - 1), minlength=BINS)
    return Bins(
        shared=tuple(map(int, counts)), total=float(found.sum()), single=int((reached == 1).sum()),
        silent=int((reached == 0).sum()),
    )  # fmt: skip
