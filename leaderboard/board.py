"""A board: runs that may stand side by side, and which of their numbers lead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.results import MetricResult, Results, TaskResult
from tasks.catalog import task_names
from tasks.foundation.errors import UsageError
from tasks.protocols import PROTOCOLS, Protocol, metric_ids

Standing = Literal["best", "second", "none"]
Leaks = Mapping[str, frozenset[str]]
_DIGITS = 4
"""Numbers that look the same in a table share their standing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one task across the runs; a cell is None where a run has no such number.

    Attributes:
        task: Name of the task.
        title: Name of the task in tables.
        metric: Id of the metric.
        cells: One per run.
        standings: One per run; all `none` where the runs were not scored on equally many samples.
    """

    task: str
    title: str
    metric: str
    cells: tuple[MetricResult | None, ...]
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Runs that may be compared.

    Attributes:
        runs: Their results, in the order given.
        names: Their names, made distinct.
        rows: By protocol, in the order of the tasks and metrics.
        leaks: Tasks with evidence of a leak, by the identity of the run; such numbers lead nobody.
    """

    runs: tuple[Results, ...]
    names: tuple[str, ...]
    rows: Mapping[Protocol, tuple[Row, ...]]
    leaks: Leaks = field(default_factory=dict)

    def is_leaked(self, run: Results, task: str) -> bool:
        """Return whether there is evidence that a run's model has seen a task's test split."""
        return task in self.leaks.get(run.run, ())

    @property
    def suite(self) -> str:
        """The suite that all runs share."""
        return self.runs[0].suite


def make_board(runs: Sequence[Results], leaks: Leaks | None = None) -> Board:
    """Put runs side by side.

    Args:
        runs: Their results.
        leaks: Tasks with evidence of a leak, by the identity of the run.

    Raises:
        UsageError: If there is none, or they answered different suites or different data.
    """
    if not runs:
        raise UsageError("No run was given.", "Give one or more folders that `medbench run` made.")
    _refuse_mixtures(runs)
    tasks = _in_catalogue_order({name for run in runs for name in run.tasks})
    rows = {
        protocol: tuple(row for task in tasks for row in _task_rows(task, runs, protocol, leaks or {}))
        for protocol in PROTOCOLS
    }
    return Board(runs=tuple(runs), names=_distinct_names(runs), rows=rows, leaks=leaks or {})


def _in_catalogue_order(names: set[str]) -> list[str]:
    known = [name for name in task_names() if name in names]
    return known + sorted(names.difference(known))


def _refuse_mixtures(runs: Sequence[Results]) -> None:
    if len({run.suite for run in runs}) > 1:
        raise UsageError(
            f"The runs answered different suites: {', '.join(sorted({run.suite for run in runs}))}.",
            "The mini suite's numbers are never shown beside others; make one table of each suite.",
        )
    if len({run.probe for run in runs}) > 1:
        raise UsageError(
            "Some of the runs asked in another way (--probe).", "A probe is no result: see `medbench audit probe`."
        )
    if len({run.run for run in runs}) < len(runs):
        raise UsageError("One run was given twice.", "Give each run once.")
    for name in {name for run in runs for name in run.tasks}:
        if len({_definitions(run, name) for run in runs if name in run.tasks}) > 1:
            raise UsageError(
                f"The runs scored {name} by different definitions.", "Bring them up to date: medbench score RUN"
            )
        if len({run.tasks[name].data for run in runs if name in run.tasks}) > 1:
            raise UsageError(
                f"The runs answered different data of {name}.", "Run them on the same prepared data, then compare."
            )


def _definitions(run: Results, task: str) -> tuple[object, ...]:
    result = run.tasks[task]
    return (
        result.version,
        *(
            (protocol, name, definition_of(metric))
            for protocol in PROTOCOLS
            for name, metric in sorted(result.metrics(protocol).items())
        ),
    )


def definition_of(metric: MetricResult) -> str:
    """Return a metric's signature without the count of samples, which belongs to a run."""
    return metric.signature.rpartition("|n=")[0] or metric.signature


def _distinct_names(runs: Sequence[Results]) -> tuple[str, ...]:
    titles = [run.model.title for run in runs]
    return tuple(
        title if titles.count(title) == 1 else f"{title} #{run.run[:6]}"
        for title, run in zip(titles, runs, strict=True)
    )


def _task_rows(task: str, runs: Sequence[Results], protocol: Protocol, leaks: Leaks) -> list[Row]:
    having = [run.tasks[task] for run in runs if task in run.tasks]
    metrics = _in_table_order(task, having, protocol)
    leaked = [task in leaks.get(run.run, ()) for run in runs]
    rows = []
    for metric in metrics:
        cells = tuple(run.tasks[task].metrics(protocol).get(metric) if task in run.tasks else None for run in runs)
        rows.append(
            Row(task=task, title=having[0].title, metric=metric, cells=cells, standings=_standings(cells, leaked))
        )
    return rows


def _in_table_order(task: str, having: Sequence[TaskResult], protocol: Protocol) -> list[str]:
    there = {metric for result in having for metric in result.metrics(protocol)}
    known = [metric for metric in metric_ids(task, having[0].kind, protocol) if metric in there]
    return known + sorted(there.difference(known))


def _standings(cells: Sequence[MetricResult | None], leaked: Sequence[bool]) -> tuple[Standing, ...]:
    return standings_of(
        [
            None if cell is None or cell.value is None or leak else (cell.value, cell.n)
            for cell, leak in zip(cells, leaked, strict=True)
        ]
    )


def standings_of(numbers: Sequence[tuple[float, int | None] | None]) -> tuple[Standing, ...]:
    """Return who leads among numbers with their counts of samples; None takes no part.

    Nobody leads alone, or where the numbers rest on unequally many samples. Equal ones share their standing.
    """
    none: Standing = "none"
    there = [number for number in numbers if number is not None]
    if len(there) < 2 or len({count for _, count in there}) > 1:  # noqa: PLR2004 - one model leads nobody
        return (none,) * len(numbers)
    ranked = sorted({round(value, _DIGITS) for value, _ in there}, reverse=True)
    return tuple(none if number is None else _standing(ranked.index(round(number[0], _DIGITS))) for number in numbers)


def _standing(place: int) -> Standing:
    words: tuple[Standing, ...] = ("best", "second")
    return words[place] if place < len(words) else "none"
