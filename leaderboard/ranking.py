"""Who stands where, as intervals: on each task by its primary metric, and over all tasks by the mean rank.

Test cases are drawn again, whole clusters for all models alike; an interval of ranks holds 95 % of what comes out. A
task is decided on the samples that the runs share (`leaderboard.standings`); a model that cannot do a task, or whose
number has evidence of a leak, is not last there, it has no rank. The mean counts the tasks on which all have one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medbench.leaderboard.board import Leaks, in_catalogue_order
from medbench.leaderboard.compare import Side
from medbench.leaderboard.primary import primary_metric
from medbench.leaderboard.standings import Field, field_of
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.protocols import Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.joint import bounds, ranks, resampled_together


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
    """The ranks of all models on one task.

    Attributes:
        task: Name of the task.
        title: Name of the task in tables.
        metric: Its primary metric.
        ranks: One for each model; None for one that takes no part.
        remark: On which samples, if not on all, and without whom.
    """

    task: str
    title: str
    metric: str
    ranks: tuple[Rank | None, ...]
    remark: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every model has a rank."""
        return None not in self.ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All ranks.

    Attributes:
        tasks: By task.
        overall: Mean over kinds of the mean over the tasks on which all have a rank; empty if there is none.
        left_out: Why a task has no ranks, by its name in tables.
    """

    tasks: tuple[TaskRanks, ...]
    overall: tuple[Rank, ...]
    left_out: Mapping[str, str]


Drawn = tuple[FloatArray, FloatArray]


def rank_runs(sides: Sequence[Side], names: Sequence[str], protocol: Protocol, leaks: Leaks | None = None) -> Ranking:
    """Return the ranks of runs that may stand side by side.

    Args:
        sides: Two or more runs with their scores.
        names: What they are called.
        protocol: Whose definitions.
        leaks: Tasks with evidence of a leak, by the identity of the run.
    """
    found: list[TaskRanks] = []
    of_kinds: dict[Kind, list[Drawn]] = {}
    left_out: dict[str, str] = {}
    for task in in_catalogue_order({name for side in sides for name in side.results.tasks}):
        result = next(side.results.tasks[task] for side in sides if task in side.results.tasks)
        field = _field(sides, task, protocol, leaks or {})
        if isinstance(field, str):
            left_out[result.title] = field
            continue
        own, others = _drawn(field, sides[0].results.seed)
        one = TaskRanks(
            task=task, title=result.title, metric=field.metric.metric_id, ranks=_spread(_intervals(own, others), field),
            remark=field.remark(names),
        )  # fmt: skip
        found.append(one)
        if one.is_whole:
            of_kinds.setdefault(result.kind, []).append((own, others))
    return Ranking(tasks=tuple(found), overall=_overall(of_kinds), left_out=left_out)


def _field(sides: Sequence[Side], task: str, protocol: Protocol, leaks: Leaks) -> Field | str:
    """Return the runs on what they share of a task, or why they cannot be ranked."""
    kind = next(side.results.tasks[task].kind for side in sides if task in side.results.tasks)
    tables = [
        None if task in leaks.get(side.results.run, ()) or task not in side.tables else side.tables[task]
        for side in sides
    ]
    columns = [None if table is None else table.columns[protocol] for table in tables]
    metric = primary_metric(kind, {name for one in columns if one is not None for name in one})
    if metric is None:
        return "this protocol does not have its primary metric"
    runs = [
        None if table is None or column is None or metric not in column else (table, column[metric])
        for table, column in zip(tables, columns, strict=True)
    ]
    if sum(run is not None for run in runs) <= 1:
        return "only one of the runs may be ranked there"
    field = field_of(runs)
    return field.reason or field


def _drawn(field: Field, seed: int) -> Drawn:
    """Return the ranks [M] of the runs that take part, and those [B, M] of their resamplings."""
    statistics = [one for one in field.statistics if one is not None]
    values = np.asarray([float(field.metric.compute(one.sum(axis=0))) for one in statistics])
    resampled = resampled_together(field.metric, statistics, field.groups, seed=seed)
    return ranks(-_missing_last(-values)), ranks(-_missing_last(-resampled))


def _spread(found: Sequence[Rank], field: Field) -> tuple[Rank | None, ...]:
    those = iter(found)
    return tuple(None if one is None else next(those) for one in field.statistics)


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
