"""Which samples go to which worker, and what becomes of those whose worker dies. Pure: it knows of no process.

Samples that share an image stay together, whatever their tasks, so that it is encoded once. Units become smaller to the
end, so that all workers end at about the same time. A sample that was under way in a death is asked again, in a smaller
unit; after the second death alone; after a third it is given up.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from medbench.harness.engine.requests import LONG_ANSWERS_FIRST, Name
from medbench.harness.generate import Plan

SMALLEST, LARGEST, LARGEST_AGAIN = 16, 1024, 64
_ALONE_AFTER, _GIVEN_UP_AFTER = 2, 3
Group = tuple[Name, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What a death cost: how many samples were under way, whether one was alone, and which are given up."""

    samples: int
    alone: bool
    given_up: tuple[Name, ...]


def groups_of(plan: Plan) -> list[Group]:
    """Return the samples that a plan misses, those that share an image together, long answers first."""
    first_with: dict[object, Name] = {}
    sets: Any = DisjointSet()
    for load in sorted(plan.loads, key=lambda load: LONG_ANSWERS_FIRST.index(load.spec.kind)):
        for sample in plan.missing[load.spec.name]:
            name = (load.spec.name, sample.sample_id)
            sets.add(name)
            for image in sample.images:
                sets.merge(first_with.setdefault((load.prepared.source, image), name), name)
    together: dict[Name, list[Name]] = {}
    for name in sets:
        together.setdefault(sets[name], []).append(name)
    return [tuple(part) for names in together.values() for part in _parts(names, LARGEST)]


def _parts(names: Sequence[Name], most: int) -> Iterator[Sequence[Name]]:
    return (names[first : first + most] for first in range(0, len(names), most))


class Units:
    """What is left to answer, and what each worker is answering; every sample leaves it exactly once."""

    def __init__(self, groups: Iterable[Group], workers: int) -> None:
        self._workers = workers
        self._fresh, self._again, self._alone = deque(groups), deque[Group](), deque[Group]()
        self._flying: dict[int, dict[Name, None]] = {}
        self._deaths: Counter[Name] = Counter()
        self.repeated = 0  # Samples that were under way when their worker died.

    @property
    def waiting(self) -> bool:
        """Whether there are samples that no worker has."""
        return bool(self._fresh or self._again or self._alone)

    @property
    def done(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self.waiting and not self._flying

    def take(self, worker: int) -> tuple[Name, ...]:
        """Give a worker its next unit, empty if nothing waits; what has seen a death comes last."""
        queue, most = self._fresh, LARGEST
        if not queue:
            queue, most = (self._again, LARGEST_AGAIN) if self._again else (self._alone, 1)
        size = min(most, max(SMALLEST, sum(map(len, queue)) // (2 * self._workers)))
        unit: list[Name] = []
        while queue and (not unit or len(unit) + len(queue[0]) <= size):
            unit += queue.popleft()
        if unit:
            self._flying[worker] = dict.fromkeys(unit)
        return tuple(unit)

    def answered(self, worker: int, names: Iterable[Name]) -> set[Name]:
        """Note what a worker answered; return which of it was asked for and had no answer yet."""
        flying = self._flying.get(worker, {})
        wanted = {name for name in names if name in flying}
        for name in wanted:
            del flying[name]
        return wanted

    def finished(self, worker: int) -> tuple[Name, ...]:
        """Note that a worker's unit is over; return what it left without an outcome, which nobody asks again."""
        return tuple(self._flying.pop(worker, {}))

    def lost(self, worker: int) -> "Lost":
        """Note that a worker died; what was under way is asked again in smaller units, then alone, then given up."""
        under_way = self._flying.pop(worker, {})
        self._deaths.update(under_way.keys())
        self.repeated += len(under_way)
        by_deaths: dict[int, list[Name]] = {}
        for name in under_way:
            by_deaths.setdefault(min(self._deaths[name], _GIVEN_UP_AFTER), []).append(name)
        self._again += (tuple(part) for part in _parts(by_deaths.get(1, []), SMALLEST))
        self._alone += ((name,) for name in by_deaths.get(_ALONE_AFTER, []))
        alone = len(under_way) == 1 and _GIVEN_UP_AFTER in by_deaths
        return Lost(samples=len(under_way), alone=alone, given_up=tuple(by_deaths.get(_GIVEN_UP_AFTER, ())))
