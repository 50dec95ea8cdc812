"""How far the truth may lie from a number: the score interval, for every metric, with clusters.

Wilson's interval of a share asks of each possible truth whether what was seen would be likely, with the spread that
*that truth* has. Here the same question is asked of any metric between bounds. A truth higher than what was seen is
taken as: a part of the data comes out wholly right instead. So the spread grows with the distance, and there is a width
at 0 and 100 % and where scores are rare. For independent answers that are right or wrong this is Wilson's interval.

- The spread of what was seen is the cluster-robust standard error (CR1), with Student's t for as many clusters as there
  would be of like size (Kish).
- How fast it grows is a matter of skewness (the third moment over the second), estimated from the data and one event of
  the largest size beside them: what was not seen may be larger than what was.
- How large that event is, is a matter of how alike a cluster's samples are. Their correlation is estimated from the
  clusters that differ from the middle one, and drawn towards one half where these are few: where all are right, or all
  but one, nothing tells of it.
- Of scores from 0 to 1 no upper bound lies below that of scores that are all 0 (no lower one above that of all 1): a
  sample that is partly right must not speak for a worse model.
- On the near side the skewness of what was seen shifts the bound outwards (Johnson 1978): Wilson's own interval goes
  down to 90 % near the edges, this one to 94 %.

Sources: Wilson 1927, Cameron and Miller 2015 (cluster-robust inference), Johnson 1978 (skewness in t), Kish 1965.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from tasks.metrics.metric import FloatArray

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
_UNSEEN_CLUSTERS = 0.5
_UNSEEN_ALIKE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is known of a number's spread.

    Attributes:
        pulls: How far each of C clusters pulls the number its way [C].
        error: The cluster-robust standard error.
        alone: The same, were all samples independent.
        chunk: Sum of squared weights of what may turn out right or wrong as one: 1 / C if clusters are all of a piece,
            1 / N if samples are independent.
        unseen: The same where nothing tells how alike samples are.
        degrees: Degrees of freedom of the standard error.
    """

    pulls: FloatArray
    error: float
    alone: float
    chunk: float
    unseen: float
    degrees: float

    @property
    def clusters(self) -> int:
        """Number of clusters that count."""
        return len(self.pulls)

    @property
    def design_effect(self) -> float:
        """How many times the variance is that of as many independent samples; NaN where samples do not differ."""
        return (self.error / self.alone) ** 2 if self.alone > 0 else float("nan")


def spread_of(pulls: FloatArray, by_sample: FloatArray, weights: FloatArray, numbers: npt.NDArray[np.intp]) -> Spread:
    """Return the spread of a number.

    Args:
        pulls: How far each of C clusters pulls it its way [C].
        by_sample: The same of each of N samples [N].
        weights: What hangs on each sample, one in all [N].
        numbers: Cluster of each sample [N].
    """
    shares = np.bincount(numbers, weights=weights, minlength=len(pulls))
    # What counts nothing must neither narrow nor widen.
    counts, counted = (shares != 0) | (pulls != 0), (weights != 0) | (by_sample != 0)
    pulls, shares, by_sample, weights = pulls[counts], shares[counts], by_sample[counted], weights[counted]
    error, alone = standard_error(pulls), standard_error(by_sample)
    apart, together = float(np.square(weights).sum()), float(np.square(shares).sum())
    alike = _alike(pulls, shares, error, alone, together / apart) if together > apart else 1.0
    return Spread(
        pulls=pulls, error=error, alone=alone, chunk=alike * together + (1 - alike) * apart,
        unseen=_UNSEEN_ALIKE * together + (1 - _UNSEEN_ALIKE) * apart, degrees=max(1.0, 1 / together - 1),
    )  # fmt: skip


def standard_error(pulls: FloatArray) -> float:
    """Return the standard error (CR1) of a number from the pulls of its independent parts; 0 for one part."""
    parts = len(pulls)
    return float(np.sqrt(parts / (parts - 1) * np.square(pulls).sum())) if parts > 1 else 0.0


def _alike(pulls: FloatArray, shares: FloatArray, error: float, alone: float, size: float) -> float:
    """Return the correlation within clusters, drawn towards one half where few clusters tell of it."""
    levels = np.divide(pulls, shares, out=np.zeros_like(pulls), where=shares > 0)
    apart = np.abs(pulls - np.median(levels) * shares)
    # Kish's number of clusters; one cluster tells nothing of others.
    telling = max(0.0, apart.sum() ** 2 / np.square(apart).sum() - 1) if apart.any() else 0.0
    seen = np.clip(((error / alone) ** 2 - 1) / (size - 1), 0, 1) if alone > 0 else _UNSEEN_ALIKE
    return float((telling * seen + _UNSEEN_CLUSTERS * _UNSEEN_ALIKE) / (telling + _UNSEEN_CLUSTERS))


def t_quantile(degrees: float, tail: float = TAIL) -> float:
    """Return the upper quantile of Student's t."""
    return float(stats.t.ppf(1 - tail, degrees))


def reach(spread: Spread, room: float, *, upwards: bool) -> float:
    """Return how far the truth may lie above (or below) the number: one side of the 95 % interval.

    Args:
        spread: Of the number.
        room: Distance to the largest (or smallest) possible value.
        upwards: Which side.
    """
    quantile = t_quantile(spread.degrees)
    pulls = spread.pulls if upwards else -spread.pulls
    shift = max(0.0, -_skewness(pulls)) * (quantile**2 - 1) / 6
    return _solved(spread.error**2, growth(spread, room, upwards=upwards), room, quantile, shift)


def reach_from_the_edge(spread: Spread) -> float:
    """Return how far the truth may lie from 0 where all scores are 0, or from 1 where all are 1."""
    return _solved(0.0, spread.unseen, 1.0, t_quantile(spread.degrees))


def growth(spread: Spread, room: float, *, upwards: bool) -> float:
    """Return how much variance a truth at the far end of the room adds, before it runs out of room itself."""
    pulls = spread.pulls if upwards else -spread.pulls
    grown = _skewness(np.append(pulls, room * spread.chunk)) * room + spread.error**2
    return float(np.clip(grown, 0.0, room**2 * spread.chunk))


def _skewness(pulls: FloatArray) -> float:
    squares = float(np.square(pulls).sum())
    return float((pulls**3).sum()) / squares if squares > 0 else 0.0


def _solved(variance: float, grown: float, room: float, quantile: float, shift: float = 0.0) -> float:
    """Return the distance `d = e * room` with `(d - shift)^2 = quantile^2 (1 - e) (variance + e grown)`."""
    if room <= 0:
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
