"""Who stands where, as intervals: on each task by its primary metric, and over all tasks by the mean rank.

Test cases are drawn again, whole clusters for all models alike; an interval of ranks holds 95 % of what comes out. Only
tasks count that every run scored on the same samples: a model that cannot do a task is not last there, it has no rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.compare import Side
from leaderboard.primary import primary_metric
from leaderboard.score_table import Column, ScoreTable
from tasks.catalog import task_names
from tasks.metrics.metric import FloatArray
from tasks.protocols import Protocol
from tasks.spec import Kind
from tasks.statistics.joint import bounds, ranks, resampled_together


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """A rank, 1 for the best; equal ones share their mean.

    Attributes:
        rank: On the test set as it is.
        low: Best rank of the 95 % interval.
        high: Worst rank of it.
    """

    rank: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRanks:
    """The ranks of all models on one task."""

    task: str
    title: str
    metric: str
    ranks: tuple[Rank, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All ranks.

    Attributes:
        tasks: By task.
        overall: Mean over kinds of the mean over their tasks; empty if no task counts.
        left_out: Tasks that do not count, since not all runs scored the same samples.
    """

    tasks: tuple[TaskRanks, ...]
    overall: tuple[Rank, ...]
    left_out: tuple[str, ...]


def rank_runs(sides: Sequence[Side], protocol: Protocol) -> Ranking:
    """Return the ranks of runs that may stand side by side.

    Args:
        sides: Two or more runs with their scores.
        protocol: Whose definitions.
    """
    found: list[TaskRanks] = []
    of_kinds: dict[Kind, list[tuple[FloatArray, FloatArray]]] = {}
    left_out: list[str] = []
    for task in _in_catalogue_order({name for side in sides for name in side.results.tasks}):
        drawn = _drawn(sides, task, protocol)
        if drawn is None:
            left_out.append(task)
            continue
        metric, values, resampled = drawn
        result = sides[0].results.tasks[task]
        own, others = ranks(-_missing_last(-values)), ranks(-_missing_last(-resampled))
        of_kinds.setdefault(result.kind, []).append((own, others))
        found.append(TaskRanks(task=task, title=result.title, metric=metric, ranks=_intervals(own, others)))
    return Ranking(tasks=tuple(found), overall=_overall(of_kinds), left_out=tuple(left_out))


def _in_catalogue_order(names: set[str]) -> list[str]:
    known = [name for name in task_names() if name in names]
    return known + sorted(names.difference(known))


def _drawn(sides: Sequence[Side], task: str, protocol: Protocol) -> tuple[str, FloatArray, FloatArray] | None:
    """Return metric, values [M] and resampled values [B, M]; None unless all scored the same samples."""
    tables = [side.tables.get(task) for side in sides]
    there = [table for table in tables if table is not None]
    if len(there) < len(sides):
        return None
    metric = primary_metric(sides[0].results.tasks[task].kind, there[0].columns[protocol])
    if metric is None:
        return None
    columns = [table.columns[protocol][metric] for table in there]
    scored = [
        [table.records[row].sample_id for row in column.rows] for table, column in zip(there, columns, strict=True)
    ]
    if not scored[0] or any(ids != scored[0] for ids in scored):
        return None
    statistics = [column.statistics for column in columns]
    compute = columns[0].metric.compute
    values = np.asarray([float(compute(one.sum(axis=0))) for one in statistics])
    groups = there[0].groups_of(columns[0].rows)
    seed = sides[0].results.seed
    return metric, values, resampled_together(columns[0].metric, statistics, groups, seed=seed)


def _scored(table: ScoreTable, column: Column) -> list[str]:
    return [table.records[row].sample_id for row in column.rows]


def _missing_last(negative: FloatArray) -> FloatArray:
    return np.nan_to_num(negative, nan=np.inf)


def _intervals(own: FloatArray, others: FloatArray) -> tuple[Rank, ...]:
    low, high = bounds(others)
    return tuple(
        Rank(rank=float(own[place]), low=float(low[place]), high=float(high[place])) for place in range(len(own))
    )


def _overall(of_kinds: dict[Kind, list[tuple[FloatArray, FloatArray]]]) -> tuple[Rank, ...]:
    if not of_kinds:
        return ()
    # Kinds weigh alike, or those with more data sets would decide.
    own = np.mean([np.mean([one for one, _ in pairs], axis=0) for pairs in of_kinds.values()], axis=0)
    others = np.mean([np.mean([two for _, two in pairs], axis=0) for pairs in of_kinds.values()], axis=0)
    return _intervals(own, others)
