"""Where a model loses what a picture shows: five tests on the same test samples, adjusted together (Holm).

A loss is shown where one place tells more than the next by over a margin. Two things are random: the test samples, in
whole clusters, and what the probes were trained on. So probes are trained again on resampled clusters of their train
samples, and the spread of that joins the error. Which decoder layer is best is chosen on validation samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import nctdtrinc, stdtr

from medbench.harness.probing.document import Mode, ModeName, Score
from medbench.harness.probing.probes import Probe, Scale
from medbench.harness.probing.targets import Places, Target
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.statistics.intervals import influences_of, membership, t_quantile, totals_by_cluster
from medbench.tasks.statistics.paired import ALPHA, difference, holm

_UNPOWERED = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """What one side of a test tells of the test samples."""

    name: str
    statistics: FloatArray  # [N, K]
    refits: tuple[FloatArray, ...] = ()  # The same of trainings on other samples; none where nothing was trained.
    there: Places | None = None  # Which of the test samples it has; None for all.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """How much the first side has over the second, with what is known of its error."""

    value: float
    error: float
    degrees: float
    p: float  # Of a difference no larger than the margin.
    two_sided: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        reach = t_quantile(self.degrees) * self.error
        return self.value - reach, self.value + reach

    def would_show(self, margin: float, tests: int) -> float:
        """Return the smallest true difference that is shown 8 times of 10, were it one of so many tests."""
        level = ALPHA / tests / (2 if self.two_sided else 1)
        return margin + float(nctdtrinc(self.degrees, _UNPOWERED, t_quantile(self.degrees, level))) * self.error


def refitted(probe: Probe, target: Target, refits: int, seed: int) -> tuple[FloatArray, ...]:
    """Return the test statistics of a probe trained on resampled clusters, the same ones for all of a target."""
    known = np.concatenate([target.parts.train, target.parts.validation])
    names, numbers = np.unique(target.clusters[known], return_inverse=True)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    found = []
    for refit in range(refits):
        drawn = np.random.default_rng([seed, refit]).integers(0, len(names), len(names))
        rows = known[np.concatenate([members[one] for one in drawn])]
        if target.kind == "box" or len(np.unique(target.right[rows])) > 1:
            found.append(probe.tested(train=rows, right=target.right[rows]))
    return tuple(found)


def compared(
    first: Side, second: Side, scale: Scale, target: Target, *, margin: float, two_sided: bool
) -> Tested | None:
    """Test that the first side has more than the second; None if there are too few samples for it."""
    places = np.arange(len(target.parts.test))
    for side in (first, second):
        places = places if side.there is None else np.intersect1d(places, side.there)
    clusters = target.clusters[target.parts.test][places].tolist()
    one, two = _at(first, places), _at(second, places)
    found = difference(scale.metric, one[0], two[0], clusters, seed=0)
    if found is None or found.clusters == 1:
        return None
    both, count = _of_training(one[1:], two[1:], scale, clusters)
    value, of_samples = found.value / (1 - scale.chance), (found.error / (1 - scale.chance)) ** 2
    variance = of_samples + both
    if variance == 0:
        return Tested(value=value, error=0.0, degrees=1.0, p=float(value <= margin), two_sided=two_sided)
    share = both / variance
    degrees = 1 / (share**2 / max(1, count - 1) + (1 - share) ** 2 / max(1.0, found.degrees))
    error = variance**0.5
    distance = ((abs(value) if two_sided else value) - margin) / error
    p = float(stdtr(degrees, -distance)) * (2 if two_sided else 1)
    return Tested(value=value, error=error, degrees=degrees, p=min(1.0, p), two_sided=two_sided)


def _at(side: Side, places: Places) -> list[FloatArray]:
    """Return the statistics of a side, then those of its refits, at some of the test samples."""
    own = places if side.there is None else np.searchsorted(side.there, places)
    return [one[own] for one in (side.statistics, *side.refits)]


def _of_training(
    first: Sequence[FloatArray], second: Sequence[FloatArray], scale: Scale, clusters: Sequence[str]
) -> tuple[float, int]:
    """Return the variance of a difference that is due to what was trained on, and the number of trainings behind it.

    Some trainings tell one test sample better, some another. That part is in the variance over test samples already,
    so it is taken off; what is left is what all test samples have in common.
    """
    sides = [np.asarray([_told(one, scale, clusters) for one in side]) for side in (first, second)]
    if len(first) == len(second):
        # Probes of two places were trained on the same samples each time.
        sides = [sides[0] - sides[1]]
    several = [one for one in sides if len(one) > 1]
    variances = [one.var(axis=0, ddof=1) for one in several]
    return sum(max(0.0, float(one[0] - one[1:].sum())) for one in variances), min(map(len, several), default=1)


def _told(statistics: FloatArray, scale: Scale, clusters: Sequence[str]) -> FloatArray:
    """Return the score of a training, and behind it how far each cluster influences it [1 + C]."""
    of_clusters = influences_of(scale.metric, totals_by_cluster(statistics, membership(clusters)))
    return np.concatenate([[scale.score(statistics)], of_clusters / (1 - scale.chance)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sides:
    """What the five tests compare; None, and why, where there is none."""

    reference: Side | None
    vision: Side | None
    connector: Side | None
    best: Side | None  # The decoder's layer that tells most on validation samples.
    last: Side | None  # The prompt's last token behind the last layer.
    answers: Side | None
    missing: Mapping[str, str]  # Why, by field.


_TESTS: Mapping[ModeName, tuple[str, str]] = {
    "vision": ("reference", "vision"), "connector": ("vision", "connector"), "comprehension": ("connector", "best"),
    "utilisation": ("best", "last"), "answer": ("last", "answers"),
}  # fmt: skip


def modes_of(sides: Sides, scale: Scale, target: Target, margin: float) -> tuple[Mode, ...]:
    """Return the modes in their order, each with its verdict; p values are adjusted for those that can be tested."""
    found: dict[ModeName, Tested] = {}
    modes: dict[ModeName, Mode] = {}
    for name, (ours, theirs) in _TESTS.items():
        first, second = getattr(sides, ours), getattr(sides, theirs)
        why = _why_not(name, sides, ours, theirs, target)
        one = None
        if first is not None and second is not None and not why:
            one = compared(first, second, scale, target, margin=margin, two_sided=name == "answer")
            why = "" if one else "there are too few clusters of test samples"
        modes[name] = Mode(name=name, verdict="cannot be tested", why=why)
        if one and first and second:
            found[name] = one
            modes[name] = Mode(name=name, verdict="not shown", first=first.name, second=second.name)
    for (name, one), p in zip(found.items(), holm([one.p for one in found.values()]), strict=True):
        low, high = one.interval
        modes[name] = replace(
            modes[name], verdict="shown" if p < ALPHA else "not shown", p=p,
            difference=Score(value=one.value, low=low, high=high), would_show=one.would_show(margin, len(found)),
        )  # fmt: skip
    return tuple(modes.values())


def _why_not(name: ModeName, sides: Sides, ours: str, theirs: str, target: Target) -> str:
    if target.needs_question and name in {"vision", "connector", "comprehension"}:
        return "what is asked differs for one picture, so its states alone cannot tell"
    return next((sides.missing[one] for one in (ours, theirs) if getattr(sides, one) is None), "")
