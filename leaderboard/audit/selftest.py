"""Does the audit of outputs work on a user's own predictions: is a planted leak found, and its control not?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medbench.harness.results import read_results
from medbench.leaderboard.audit.controls import Controls, run_controls
from medbench.leaderboard.audit.run_cells import read_run_cells, read_task_data
from medbench.leaderboard.audit.thresholds import THRESHOLDS
from medbench.leaderboard.audit.verdicts import Verdict

Outcome = Literal["found", "missed", "not testable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """One task.

    Attributes:
        title: Its title.
        clusters: Cases with a reference that counts.
        planted_cases: Cases that a leak was planted in.
        planted: Verdict on the answers with the leak.
        shuffled: Verdict on the same answers, dealt to other cases.
        outcome: `found` if the first is evidence and the second is not.
    """

    title: str
    clusters: int
    planted_cases: int
    planted: Verdict
    shuffled: Verdict
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Selftest:
    """All tasks of a run; `problems` says by title why one could not be read."""

    tasks: tuple[TaskOutcome, ...]
    problems: Mapping[str, str]


def outcomes(path: Path, data_dir: Path | None, *, seed: int = 0) -> Selftest:
    """Plant a leak into a copy of each task's answers and look for it; raises like `audit_run`."""
    results = read_results(path)
    run = read_run_cells(path, read_task_data(path, results, data_dir))
    return Selftest(
        tasks=tuple(
            _outcome(results.tasks[task].title, run_controls(cell, THRESHOLDS, seed))
            for task, cell in run.cells.items()
        ),
        problems={results.tasks[task].title: why for task, why in run.problems.items()},
    )


def _outcome(title: str, controls: Controls) -> TaskOutcome:
    return TaskOutcome(
        title=title,
        clusters=controls.planted.K,
        planted_cases=controls.planted_cases,
        planted=controls.planted.verdict,
        shuffled=controls.shuffled.verdict,
        outcome=outcome_of(controls),
    )


def outcome_of(controls: Controls) -> Outcome:
    """Return what controls show."""
    if controls.works:
        return "found"
    return "missed" if controls.testable else "not testable"
