"""Two runs on the samples that they share: which is better where, how sure that is, and which samples changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from medbench.harness.results import Results
from medbench.leaderboard.credentialed import is_credentialed
from medbench.leaderboard.primary import primary_metric
from medbench.leaderboard.score_table import Column, IndexArray, ScoreTable
from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import Protocol
from medbench.tasks.statistics.paired import ALPHA, Difference, difference, holm, levels_to_reach

Verdict = Literal["better", "worse", "not distinguishable", "too few clusters"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One metric of one task.

    Attributes:
        task: Name of the task.
        title: Name of the task in tables.
        metric: Id of the metric.
        first: Value of the first run on the shared samples, a fraction.
        second: Value of the second.
        found: What separates them.
        p_adjusted: For the task's primary metric, its p by Holm over all tasks; None for the others, which describe.
        level: What its own p must be below to be significant, given those of the other tasks.
    """

    task: str
    title: str
    metric: str
    first: float
    second: float
    found: Difference
    p_adjusted: float | None
    level: float = ALPHA

    @property
    def verdict(self) -> Verdict | None:
        """Whether the first is better, for a primary metric; None for the others."""
        if self.p_adjusted is None:
            return None
        if self.p_adjusted < ALPHA:
            return "better" if self.found.value > 0 else "worse"
        return "too few clusters" if self.found.least_p >= self.level else "not distinguishable"

    @property
    def verdict_text(self) -> str:
        """The verdict for people; empty for other metrics than the primary one."""
        counted = f" ({self.found.clusters})" if self.verdict == "too few clusters" else ""
        return f"{self.verdict or ''}{counted}"

    @property
    def detectable(self) -> float:
        """Smallest true difference that would have led to a verdict in four of five cases; NaN where none would."""
        return self.found.detectable_at(self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A sample that the two runs answered with different success, by the primary metric.

    Attributes:
        task: Name of the task.
        sample_id: The sample.
        first: What the first run said.
        second: What the second said.
        gain: Score of the first minus that of the second.
    """

    task: str
    sample_id: str
    first: str
    second: str
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result.

    Attributes:
        names: Titles of the two models.
        runs: Identities of the two runs.
        protocol: Whose definitions.
        rows: In the order of tasks and metrics.
        changed: Samples in the order of the tasks.
        left_out: Tasks that only one of the runs has.
        unpaired: By task, samples that only the first and that only the second scored.
        notices: What must be said beside the numbers.
        withheld: Tasks whose texts may not be shown, since their data are under a signed agreement.
    """

    names: tuple[str, str]
    runs: tuple[str, str]
    protocol: Protocol
    rows: tuple[Compared, ...]
    changed: tuple[Changed, ...]
    left_out: tuple[str, ...]
    unpaired: dict[str, tuple[int, int]]
    notices: tuple[str, ...]
    withheld: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two runs: its results and its scores by task."""

    results: Results
    tables: dict[str, ScoreTable]


def shared_tasks(first: Results, second: Results) -> tuple[str, ...]:
    """Return the tasks that two runs share.

    Raises:
        UsageError: If there are none, they are one run, or they answered different suites or data.
    """
    if first.run == second.run:
        raise UsageError("One run was given twice.", "Give two runs.")
    if first.probe != second.probe:
        raise UsageError("One of the runs asked in another way (--probe).", "Read it with `medbench audit probe`.")
    if first.suite != second.suite:
        raise UsageError(
            f"One run answered the suite {first.suite!r}, the other {second.suite!r}.", "Compare runs of one suite."
        )
    names = [name for name in (*task_names(), *sorted(first.tasks)) if name in first.tasks and name in second.tasks]
    shared = tuple(dict.fromkeys(names))
    if not shared:
        raise UsageError("The two runs share no task.", "Give runs that answered the same tasks.")
    for name in shared:
        if first.tasks[name].data != second.tasks[name].data:
            raise UsageError(
                f"The runs answered different data of {name}.", "Run both on the same prepared data, then compare."
            )
    return shared


def compare(first: Side, second: Side, protocol: Protocol) -> Comparison:
    """Compare two runs on the tasks that both have tables of.

    Args:
        first: One run.
        second: The other; a difference is the first minus the second.
        protocol: Whose definitions.
    """
    rows: list[Compared] = []
    changed: list[Changed] = []
    unpaired: dict[str, tuple[int, int]] = {}
    seed = first.results.seed
    for name, ours in first.tables.items():
        theirs = second.tables[name]
        result = first.results.tasks[name]
        primary = primary_metric(result.kind, ours.columns[protocol])
        for metric, column in ours.columns[protocol].items():
            other = theirs.columns[protocol].get(metric)
            if other is None:
                continue
            pairs = _pairs(ours, column, theirs, other)
            row = _compared(name, result.title, column, other, pairs, seed, primary=metric == primary)
            rows += [row] if row is not None else []
            if metric == primary:
                both = len(pairs.groups)
                unpaired[name] = (len(column.rows) - both, len(other.rows) - both)
                changed += _changed(ours, theirs, column, other, pairs)
    return Comparison(
        names=_names(first.results, second.results),
        runs=(first.results.run, second.results.run),
        protocol=protocol,
        rows=_adjusted(rows),
        changed=tuple(changed),
        left_out=tuple(sorted(set(first.results.tasks) ^ set(second.results.tasks))),
        unpaired={name: counts for name, counts in unpaired.items() if any(counts)},
        notices=tuple(dict.fromkeys((*first.results.notices, *second.results.notices))),
        withheld=frozenset(name for name in first.tables if is_credentialed(first.results, name)),
    )


def _names(first: Results, second: Results) -> tuple[str, str]:
    one, other = first.model.title, second.model.title
    return (one, other) if one != other else (f"{one} #{first.run[:6]}", f"{other} #{second.run[:6]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Places in two columns that belong to the same sample, and the clusters of these samples."""

    ours: IndexArray
    theirs: IndexArray
    groups: list[str]


def _pairs(ours: ScoreTable, column: Column, theirs: ScoreTable, other: Column) -> _Pairs:
    places = {theirs.records[row].sample_id: place for place, row in enumerate(other.rows)}
    found = [
        (place, places[sample_id], ours.records[row].group)
        for place, row in enumerate(column.rows)
        if (sample_id := ours.records[row].sample_id) in places
    ]
    return _Pairs(
        ours=np.asarray([place for place, _, _ in found], dtype=np.intp),
        theirs=np.asarray([place for _, place, _ in found], dtype=np.intp),
        groups=[group for _, _, group in found],
    )


def _compared(
    task: str, title: str, column: Column, other: Column, pairs: _Pairs, seed: int, *, primary: bool
) -> Compared | None:
    first, second = column.statistics[pairs.ours], other.statistics[pairs.theirs]
    found = difference(column.metric, first, second, pairs.groups, seed=seed)
    if found is None:
        return None
    values = [float(column.metric.compute(statistics.sum(axis=0))) for statistics in (first, second)]
    return Compared(
        task=task, title=title, metric=column.metric.metric_id, first=values[0], second=values[1], found=found,
        p_adjusted=found.p if primary else None,
    )  # fmt: skip


def _adjusted(rows: Sequence[Compared]) -> tuple[Compared, ...]:
    primary = [place for place, row in enumerate(rows) if row.p_adjusted is not None]
    ps = [rows[place].found.p for place in primary]
    adjusted = dict(zip(primary, zip(holm(ps), levels_to_reach(ps), strict=True), strict=True))
    return tuple(
        replace(row, p_adjusted=adjusted[place][0], level=adjusted[place][1]) if place in adjusted else row
        for place, row in enumerate(rows)
    )


def _changed(ours: ScoreTable, theirs: ScoreTable, column: Column, other: Column, pairs: _Pairs) -> list[Changed]:
    first = column.metric.compute(column.statistics[pairs.ours])
    second = other.metric.compute(other.statistics[pairs.theirs])
    changes = []
    for place, gain in enumerate(np.nan_to_num(first) - np.nan_to_num(second)):
        if gain:
            one = ours.records[column.rows[pairs.ours[place]]]
            two = theirs.records[other.rows[pairs.theirs[place]]]
            changes.append(
                Changed(
                    task=ours.task, sample_id=one.sample_id, first=said(one.prediction, one.box),
                    second=said(two.prediction, two.box), gain=float(gain),
                )
            )  # fmt: skip
    return changes


def said(prediction: str, box: Sequence[float] | None) -> str:
    """Return what a model said, for people: its box in pixels if it drew one, else its text on one line."""
    return f"[{', '.join(f'{edge:.0f}' for edge in box)}]" if box is not None else " ".join(prediction.split())
