"""Samples that fail: how many may, when a run ends because nothing is answered any more, and what is said of them."""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.harness.engine.requests import Name, Outcome
from medbench.harness.rundir import GenerationRecord
from medbench.harness.settings import Settings
from medbench.harness.tolerance import Tolerance, read_tolerance
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import RunError

# So many failures of a model, and no answer between; more where more come at once, of a batch or of half a second.
_IN_A_ROW, _TIMES_AT_ONCE = 64, 2
# What lies in a sample says nothing of the next one, and whoever asks servers knows when one is gone.
_OF_THE_MODEL = frozenset({"model", "memory", "numbers", "worker"})
_SHOWN_WORDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A sample that got no answer, by the machine's fault or that of its data."""

    task: str
    sample_id: str
    error: str
    kind: str  # A `FailureKind`; empty in records of earlier versions.


def failures_of(task: str, records: Iterable[GenerationRecord | Outcome]) -> list[Failed]:
    """Return the failures among the records or outcomes of a task."""
    failed = (one for one in records if one.error)
    return [Failed(task=task, sample_id=one.sample_id, error=one.error, kind=one.kind) for one in failed]


class Watch:
    """Sees the outcomes of a run as they come, and ends it as soon as it is known to fail.

    `total` are the samples of the whole run that the model can answer, `folder` is where the records lie.
    """

    @classmethod
    def of(cls, settings: Settings, loads: Iterable[TaskLoad], folder: Path) -> "Watch":
        """Return the watch of a run of tasks."""
        tolerance = None if settings.fail_on_error is None else read_tolerance(settings.fail_on_error)
        return cls(tolerance, sum(len(load.samples) for load in loads), folder)

    def __init__(self, tolerance: Tolerance | None, total: int, folder: Path) -> None:
        self._tolerance, self._total, self._folder = tolerance, total, folder
        self._settled: list[Failed] = []
        self._row: list[Failed] = []
        self._at_once = 0
        self._failing: list[Failed] = []
        self._last_round = True

    def begin(self, settled: Sequence[Failed], *, last_round: bool) -> None:
        """Begin with a share of the tasks, or a round of what failed of it; `settled` failures are asked no more."""
        self._settled, self._failing, self._last_round = list(settled), [], last_round

    def see(self, outcomes: Sequence[Outcome], before: Container[Name] = ()) -> None:
        """Raise a RunError if more have failed than may, or nothing but the model's failures comes.

        Those that failed `before` stand in a row when they are tried again, which says nothing of the model.
        """
        # Answers from the cache come in larger lists, and say nothing of the model's.
        self._at_once = max(self._at_once, sum(one.generation is None for one in outcomes))
        for one in outcomes:
            if one.generation is not None:
                self._row = []
                continue
            failed = failures_of(one.task, [one])
            self._failing += failed
            if one.kind in _OF_THE_MODEL and (one.task, one.sample_id) not in before:
                self._row += failed
        if self._last_round and not self.may_end_with(len(self._settled) + len(self._failing)):
            self.judge([*self._settled, *self._failing])
        too_many = max(_IN_A_ROW, _TIMES_AT_ONCE * self._at_once)
        if len(self._row) >= too_many and not (self._tolerance and self._tolerance.share == 1):
            raise RunError(
                f"{len(self._row)} samples failed one after the other ({counted(self._row)}), and none was answered "
                f"between them. The last: {_first_line(self._row[-1])}",
                f"What was answered is in {self._folder}; the same command continues and tries these again. If only "
                "some tasks fail, leave them out with --tasks; --fail-on-error 100% goes on whatever fails.",
            )

    def may_end_with(self, failures: int) -> bool:
        """Return whether a run may end with so many failures, as far as it was said how many may."""
        return self._tolerance is None or failures <= self._tolerance.of(self._total)

    def judge(self, failures: Sequence[Failed]) -> bool:
        """Return whether a run may end with these failures; RunError if it was said how many may, and these are more.

        Where nobody said so, only a run without failures is done.
        """
        if self._tolerance is None or not failures:
            return not failures
        if self.may_end_with(len(failures)):
            return True
        raise RunError(
            f"{len(failures)} of {self._total} samples failed ({counted(failures)}); --fail-on-error "
            f"{self._tolerance.word} allows {self._tolerance.of(self._total)}. The first: {_first_line(failures[0])}",
            f"Their records are in {self._folder / 'generations'}; the same command tries them again and continues.",
        )


def counted(failures: Iterable[Failed]) -> str:
    """Return the kinds of failures with their numbers, the most frequent first: `12 picture, 3 timeout`."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds_of(failures).items())


def kinds_of(failures: Iterable[Failed]) -> dict[str, int]:
    """Return how many failures there are of each kind, the most frequent first."""
    return dict(Counter(one.kind or "of an unknown kind" for one in failures).most_common())


def tell(failures: Sequence[Failed], again: str) -> None:
    """Say how many samples failed and why, with the first of each kind, and how they are tried `again`."""
    if not failures:
        return
    warn(f"{len(failures)} samples failed and are counted as errors:")
    firsts = {one.kind: one for one in reversed(failures)}
    for kind, count in kinds_of(failures).items():
        first = firsts.get(kind) or firsts[""]
        warn(f"{count:>7} {kind}, first {first.task}/{first.sample_id}: {_first_line(first)}")
    say(again)


def _first_line(failed: Failed) -> str:
    return failed.error.partition("\n")[0][:_SHOWN_WORDS]
