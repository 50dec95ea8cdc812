"""Who leads, decided here alone for tables, ranks and gains: on the samples that the runs share.

A run that scored less than 80 % of the samples that any run scored takes no part, and nothing is decided on less than
half of them: machines do not fail at random, and what they left would decide. A model that cannot do a task, or whose
number has evidence of a leak, is not last there, it has no rank.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from medbench.harness.results import MetricResult, Results
from medbench.leaderboard.runs import Leaks, in_catalogue_order, primary_metric
from medbench.leaderboard.samples import MetricScores, ScoreTable
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.protocols import Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.joint import bounds, ranks, resampled_together

Standing = Literal["best", "second", "none"]
ScoresByRun = Mapping[str, Mapping[str, ScoreTable]]
"""Scores by sample, by the identity of the run and task; of runs whose scores are at hand."""
_DIGITS = 4  # numbers that look the same in a table share their standing
_TAKES_PART = 0.8
_LEAST_SHARED = 0.5
_PAIR = 2  # one run leads nobody
_NOT_KNOWN = "which samples each run scored is not known, since its scores by sample are not at hand"


class Field(NamedTuple):
    """Runs on the samples of a metric that they share."""

    runs: tuple[MetricScores | None, ...]  # None for one that takes no part
    shared: Sequence[str]  # samples that all of those that take part scored
    groups: Sequence[str]  # clusters of these
    scored: int  # samples that any of the runs scored
    counts: tuple[int | None, ...]  # by run, samples that it scored; None if it does not have the metric
    reason: str  # why they cannot be compared; empty if they can

    @property
    def values(self) -> tuple[float | None, ...]:
        """The metric on the shared samples by run; None for a run that takes no part."""
        found = [None if run is None else run.value(self.shared) for run in self.runs]
        return tuple(None if value is None or np.isnan(value) else value for value in found)

    def remark(self, names: Sequence[str]) -> str:
        """Return what must be said of the comparison: why there is none, or on which samples; empty if on all."""
        if self.reason:
            return self.reason
        out = [(name, n) for name, run, n in zip(names, self.runs, self.counts, strict=True) if run is None]
        left = [f"{name} ({count} of {self.scored} samples)" for name, count in out if count is not None]
        parts = [f"without {', '.join(left)}"] if left else []
        if len(self.shared) < self.scored:
            parts.append(f"on the {len(self.shared)} of {self.scored} samples that all of them scored")
        return f"compared {', '.join(parts)}" if parts else ""


def field_of(tables: Sequence[ScoreTable | None], protocol: Protocol, metric: str) -> Field:
    """Return runs on what they share of a metric; None stands for a run that takes no part, one at least does."""
    columns = [None if table is None else table.columns[protocol].get(metric) for table in tables]
    scored = set().union(*(column.places for column in columns if column is not None))
    taking = [one if one and one.places and len(one.places) >= _TAKES_PART * len(scored) else None for one in columns]
    there = [column for column in taking if column is not None]
    shared = [name for name in there[0].sample_ids if all(name in one.places for one in there)] if there else []
    groups = next((table.groups_of(shared) for table, one in zip(tables, taking, strict=True) if table and one), [])
    reason = ""
    if not scored:
        reason = "nothing was scored"
    elif sum(column is not None for column in columns) > 1 and len(there) < _PAIR:
        reason = f"fewer than two of the runs scored {100 * _TAKES_PART:.0f} % of the {len(scored)} samples"
    elif len(shared) < _LEAST_SHARED * len(scored):
        reason = f"the runs have only {len(shared)} of {len(scored)} samples in common"
    return Field(
        runs=(None,) * len(tables) if reason else tuple(taking), shared=shared, groups=groups, scored=len(scored),
        counts=tuple(None if column is None else len(column.places) for column in columns), reason=reason,
    )  # fmt: skip


def compared_values(
    cells: Sequence[MetricResult | None], tables: Sequence[ScoreTable | None], protocol: Protocol, metric: str,
    names: Sequence[str],
) -> tuple[tuple[float | None, ...], str]:  # fmt: skip
    """Return the numbers by which runs are compared on a metric, and what must be said; None takes no part.

    Where not all scores by sample (`tables`) are at hand, numbers of equally many samples of which none failed are
    compared as they are: these are the same samples of the same data.
    """
    there = [cell for cell in cells if cell is not None and cell.value is not None]
    taking = [table if cell and cell.value is not None else None for cell, table in zip(cells, tables, strict=True)]
    known = sum(table is not None and metric in table.columns[protocol] for table in taking)
    if len(there) > 1 and known == len(there):
        found = field_of(taking, protocol, metric)
        return found.values, found.remark(names)
    if len(there) > 1 and (len({cell.n for cell in there}) > 1 or any(cell.errors for cell in there)):
        return (None,) * len(cells), _NOT_KNOWN
    return tuple(None if cell is None else cell.value for cell in cells), ""


def standings_of(values: Sequence[float | None]) -> tuple[Standing, ...]:
    """Return who leads; None takes no part, nobody leads alone or at zero, and equal ones share their standing."""
    rounded = [None if value is None else round(value, _DIGITS) for value in values]
    there = [value for value in rounded if value is not None]
    right = sorted({value for value in there if value > 0}, reverse=True) if len(there) >= _PAIR else []
    words: dict[float | None, Standing] = dict(zip(right, ("best", "second"), strict=False))
    return tuple(words.get(value, "none") for value in rounded)


class Rank(NamedTuple):
    """A rank, 1 for the best, equal ones sharing their mean, and its 95 % interval."""

    rank: float
    low: float
    high: float


class TaskRanks(NamedTuple):
    """The ranks of all models on one task by its primary metric."""

    title: str
    metric: str
    ranks: tuple[Rank | None, ...]  # None for one that takes no part
    remark: str  # on which samples


class Ranking(NamedTuple):
    """All ranks."""

    tasks: tuple[TaskRanks, ...]
    overall: tuple[Rank, ...]  # means over kinds of the mean over those tasks on which all have a rank, if any
    left_out: Mapping[str, str]  # why a task has no ranks, by its name in tables


def rank_runs(
    runs: Sequence[Results], scores: ScoresByRun, names: Sequence[str], protocol: Protocol, leaks: Leaks | None = None
) -> Ranking:
    """Return the ranks of two or more runs that may stand side by side, as intervals.

    Test cases are drawn again, whole clusters for all models alike; an interval of ranks holds 95 % of what comes out.
    """
    found: list[TaskRanks] = []
    of_kinds: dict[Kind, list[tuple[FloatArray, FloatArray]]] = {}
    left_out: dict[str, str] = {}
    for task in in_catalogue_order(name for run in runs for name in run.tasks):
        result = next(run.tasks[task] for run in runs if task in run.tasks)
        tables = [None if task in (leaks or {}).get(run.run, ()) else scores[run.run].get(task) for run in runs]
        metric = primary_metric(result.kind, {name for one in tables if one for name in one.columns[protocol]})
        if metric is None:
            left_out[result.title] = "this protocol does not have its primary metric"
            continue
        field = field_of(tables, protocol, metric)
        few = sum(count is not None for count in field.counts) < _PAIR
        if few or field.reason:
            left_out[result.title] = "only one of the runs may be ranked there" if few else field.reason
            continue
        taking = [run for run in field.runs if run is not None]
        values = np.asarray([run.value(field.shared) for run in taking])
        statistics = [run.of(field.shared) for run in taking]
        resampled = resampled_together(taking[0].metric, statistics, field.groups, seed=runs[0].seed)
        # What cannot be computed comes last. Ranks are [M] of the runs that take part, [B, M] of their resamplings.
        drawn = ranks(np.nan_to_num(values, nan=-np.inf)), ranks(np.nan_to_num(resampled, nan=-np.inf))
        intervals = iter(_intervals(*drawn))
        those = tuple(None if run is None else next(intervals) for run in field.runs)
        found.append(TaskRanks(result.title, metric, those, field.remark(names)))
        if None not in those:
            of_kinds.setdefault(result.kind, []).append(drawn)
    # Kinds weigh alike, or those with more data sets would decide.
    by_kind = [[np.mean(of, axis=0) for of in zip(*pairs, strict=True)] for pairs in of_kinds.values()]
    overall = _intervals(*(np.mean(of, axis=0) for of in zip(*by_kind, strict=True))) if by_kind else ()
    return Ranking(tuple(found), overall, left_out)


def _intervals(own: FloatArray, others: FloatArray) -> tuple[Rank, ...]:
    return tuple(Rank(*map(float, one)) for one in zip(own, *bounds(others), strict=True))
