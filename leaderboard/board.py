"""A board: runs that may stand side by side, and which of their numbers lead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from medbench.harness.results import MetricResult, Results, TaskResult
from medbench.leaderboard.score_table import Column, ScoreTable
from medbench.leaderboard.standings import Standing, field_of, standings_of, values_without_scores
from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import PROTOCOLS, Protocol, metric_ids

Leaks = Mapping[str, frozenset[str]]
Scores = Mapping[str, Mapping[str, ScoreTable]]
"""Scores by sample, by the identity of the run and task; of runs whose scores are at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of one task across the runs; a cell is None where a run has no such number.

    Attributes:
        task: Name of the task.
        title: Name of the task in tables.
        metric: Id of the metric.
        cells: One per run.
        compared: By run, the number on the samples that the runs share; None for one that takes no part.
        remark: What must be said of the comparison: why there is none, or on which samples; empty if on all.
    """

    task: str
    title: str
    metric: str
    cells: tuple[MetricResult | None, ...]
    compared: tuple[float | None, ...]
    remark: str = ""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Who leads, one per run."""
        return standings_of(self.compared)


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


def make_board(runs: Sequence[Results], leaks: Leaks | None = None, scores: Scores | None = None) -> Board:
    """Put runs side by side.

    Args:
        runs: Their results.
        leaks: Tasks with evidence of a leak, by the identity of the run.
        scores: Their scores by sample. Without them nobody leads where a sample failed.

    Raises:
        UsageError: If there is none, or they answered different suites or different data.
    """
    if not runs:
        raise UsageError("No run was given.", "Give one or more folders that `medbench run` made.")
    _refuse_mixtures(runs)
    tasks = in_catalogue_order({name for run in runs for name in run.tasks})
    board = Board(runs=tuple(runs), names=_distinct_names(runs), rows={}, leaks=leaks or {})
    rows = {
        protocol: tuple(row for task in tasks for row in _task_rows(task, board, protocol, scores or {}))
        for protocol in PROTOCOLS
    }
    return replace(board, rows=rows)


def in_catalogue_order(names: set[str]) -> list[str]:
    """Return names of tasks in the order of the catalogue, those that it does not know at the end."""
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


def _task_rows(task: str, board: Board, protocol: Protocol, scores: Scores) -> list[Row]:
    having = [run.tasks[task] for run in board.runs if task in run.tasks]
    rows = []
    for metric in _in_table_order(task, having, protocol):
        cells = tuple(
            run.tasks[task].metrics(protocol).get(metric) if task in run.tasks else None for run in board.runs
        )
        compared, remark = _compared(task, metric, cells, board, protocol, scores)
        rows.append(Row(task=task, title=having[0].title, metric=metric, cells=cells, compared=compared, remark=remark))
    return rows


def _compared(
    task: str, metric: str, cells: Sequence[MetricResult | None], board: Board, protocol: Protocol, scores: Scores
) -> tuple[tuple[float | None, ...], str]:
    """Return the numbers that may be compared, and what must be said of them; a leaked one takes no part."""
    fair = [
        None if cell is None or cell.value is None or board.is_leaked(run, task) else cell
        for cell, run in zip(cells, board.runs, strict=True)
    ]
    columns = [
        None if cell is None else _column(scores.get(run.run, {}).get(task), metric, protocol)
        for cell, run in zip(fair, board.runs, strict=True)
    ]
    there = sum(cell is not None for cell in fair)
    if there <= 1 or sum(column is not None for column in columns) < there:
        return values_without_scores(fair)
    found = field_of(columns)
    return found.values, found.remark(board.names)


def _column(table: ScoreTable | None, metric: str, protocol: Protocol) -> tuple[ScoreTable, Column] | None:
    column = None if table is None else table.columns[protocol].get(metric)
    return None if table is None or column is None else (table, column)


def _in_table_order(task: str, having: Sequence[TaskResult], protocol: Protocol) -> list[str]:
    there = {metric for result in having for metric in result.metrics(protocol)}
    known = [metric for metric in metric_ids(task, having[0].kind, protocol) if metric in there]
    return known + sorted(there.difference(known))
