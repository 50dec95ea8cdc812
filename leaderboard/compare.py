"""Runs on the samples that they share: who leads and ranks, what separates two, may the one replace the other?

A run that scored less than 80 % of the samples that any run scored takes no part, and nothing is decided on less than
half of them: machines do not fail at random, and what they left would decide. A model that cannot do a task, or whose
number has evidence of a leak, is not last there, it has no rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from medbench.harness.results import MetricResult, Results, read_results
from medbench.leaderboard import runs as known
from medbench.leaderboard.samples import MetricScores, ScoreRecord, ScoreTable, read_score_table
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.protocols import Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics import paired
from medbench.tasks.statistics.paired import ALPHA, Difference, bounds, difference, ranks

Standing = Literal["best", "second", "none"]
ScoresByRun = Mapping[str, Mapping[str, ScoreTable]]  # by identity of the run and task, where they are at hand
_ALL_PAIRED, _BEST_PAIRED = 12, 6
_DIGITS = 4  # numbers that look the same in a table share their standing
_TAKES_PART = 0.8
_LEAST_SHARED = 0.5
_PAIR = 2  # one run leads nobody
_NOT_KNOWN = "which samples each run scored is not known, since its scores by sample are not at hand"
Verdict = Literal["better", "worse", "not distinguishable", "too few clusters"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Decision = Literal["pass", "worse", "undecidable"]
EXIT_CODES: dict[Decision, int] = {"pass": 0, "worse": 3, "undecidable": 4}
ROWS = (
    "task", "title", "metric", "first", "second", "difference", "low", "high", "p", "p_adjusted", "verdict",
    "detectable", "samples", "clusters",
)  # fmt: skip
_DTYPES = dict.fromkeys(("first", "second", "difference", "low", "high", "p", "p_adjusted", "detectable"), "float64")
_UNSCORED = 0.01
"""Share of the baseline's samples that may be left unscored: failures, under `paper` reports without text."""


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


def standings_of(values: Sequence[float | None], *, lower_is_better: bool = False) -> tuple[Standing, ...]:
    """Return who leads; None takes no part, nobody leads alone or at the worst, and equal ones share their standing."""
    rounded = [None if value is None else round(value, _DIGITS) for value in values]
    there = [value for value in rounded if value is not None]
    worst = 1.0 if lower_is_better else 0.0
    good = {value for value in there if value != worst} if len(there) >= _PAIR else set()
    right = sorted(good, reverse=not lower_is_better)
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
    # By run, the mean over kinds of the mean over tasks; None for one that is not ranked on all of them. Where fewer
    # than two are, over those tasks on which all are, if any. Empty if nobody has one.
    overall: tuple[Rank | None, ...]
    unranked: tuple[str, ...]  # By run, why it has no overall rank; empty if it has one.
    left_out: Mapping[str, str]  # why a task has no ranks, by its name in tables


class _Drawn(NamedTuple):
    """The primary metric of a task by run [M], and of its resamplings [B, M]; NaN for runs that take no part."""

    kind: Kind
    values: FloatArray
    resampled: FloatArray

    def ranks_of(self, places: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Return the ranks of some runs among themselves; what cannot be computed comes last."""
        own, others = (np.nan_to_num(one[..., places], nan=-np.inf) for one in (self.values, self.resampled))
        return ranks(own), ranks(others)


def rank_runs(
    runs: Sequence[Results], scores: ScoresByRun, names: Sequence[str], protocol: Protocol,
    leaks: known.Leaks | None = None,
) -> Ranking:  # fmt: skip
    """Return the ranks of two or more runs that may stand side by side, as intervals.

    Test cases are drawn again, whole clusters for all models alike; an interval of ranks holds 95 % of what comes out.
    """
    found: list[TaskRanks] = []
    drawn: list[_Drawn] = []
    missing: list[list[str]] = [[] for _ in runs]
    left_out: dict[str, str] = {}
    for task in known.in_catalogue_order(name for run in runs for name in run.tasks):
        result = next(run.tasks[task] for run in runs if task in run.tasks)
        leaked = [task in (leaks or {}).get(run.run, ()) for run in runs]
        tables = [None if out else scores[run.run].get(task) for run, out in zip(runs, leaked, strict=True)]
        metric = known.primary_metric(result.kind, {name for one in tables if one for name in one.columns[protocol]})
        if metric is None:
            left_out[result.title] = "this protocol does not have its primary metric"
            continue
        field = field_of(tables, protocol, metric)
        few = sum(count is not None for count in field.counts) < _PAIR
        if few or field.reason:
            left_out[result.title] = "only one of the runs may be ranked there" if few else field.reason
            continue
        one = _drawn(result.kind, field, runs[0].seed)
        taking = [place for place, run in enumerate(field.runs) if run is not None]
        intervals = dict(zip(taking, _intervals(*one.ranks_of(taking)), strict=True))
        those = tuple(intervals.get(place) for place in range(len(runs)))
        found.append(TaskRanks(result.title, metric, those, field.remark(names)))
        drawn.append(one)
        for place in set(range(len(runs))).difference(taking):
            there = "too few samples of" if task in runs[place].tasks else "no number of"
            missing[place].append(f"{'evidence of a leak of' if leaked[place] else there} {result.title}")
    return _with_overall(found, drawn, missing, left_out)


def _drawn(kind: Kind, field: Field, seed: int) -> _Drawn:
    taking = {place: run for place, run in enumerate(field.runs) if run is not None}
    statistics = [run.of(field.shared) for run in taking.values()]
    metric = next(iter(taking.values())).metric
    some = paired.resampled_together(metric, statistics, field.groups, seed=seed)
    values, resampled = np.full(len(field.runs), np.nan), np.full((len(some), len(field.runs)), np.nan)
    values[list(taking)] = [run.value(field.shared) for run in taking.values()]
    resampled[:, list(taking)] = some
    return _Drawn(kind, values, resampled)


def _with_overall(
    tasks: Sequence[TaskRanks], drawn: Sequence[_Drawn], missing: Sequence[Sequence[str]], left_out: Mapping[str, str]
) -> Ranking:
    """Return ranks with those over all tasks: of the runs that have a rank on each, or of all on what they share.

    A run that lacks a task, or whose number there has evidence of a leak, would take it from the means of all others.
    """
    whole = [place for place, out in enumerate(missing) if not out]
    unranked = [f"it has {', '.join(out)}" if out else "" for out in missing]
    if len(whole) < _PAIR:
        whole, unranked = list(range(len(missing))), [""] * len(missing)
    of_kinds: dict[Kind, list[tuple[FloatArray, FloatArray]]] = {}
    for task, one in zip(tasks, drawn, strict=True):
        if all(task.ranks[place] is not None for place in whole):
            of_kinds.setdefault(one.kind, []).append(one.ranks_of(whole))
    if not of_kinds:
        return Ranking(tuple(tasks), (), tuple(unranked), left_out)
    # Kinds weigh alike, or those with more data sets would decide.
    by_kind = [[np.mean(of, axis=0) for of in zip(*pairs, strict=True)] for pairs in of_kinds.values()]
    overall = dict(zip(whole, _intervals(*(np.mean(of, axis=0) for of in zip(*by_kind, strict=True))), strict=True))
    return Ranking(tuple(tasks), tuple(overall.get(place) for place in range(len(missing))), tuple(unranked), left_out)


def _intervals(own: FloatArray, others: FloatArray) -> tuple[Rank, ...]:
    return tuple(Rank(*map(float, one)) for one in zip(own, *bounds(others), strict=True))


def pairs_among(best_first: Sequence[int]) -> list[tuple[int, int]]:
    """Return which of so many runs are compared: all pairs of up to twelve; of more, those of the best six.

    A pair costs a test for each task, and two hundred runs have twenty thousand pairs.
    """
    some = best_first if len(best_first) <= _ALL_PAIRED else best_first[:_BEST_PAIRED]
    return list(combinations(sorted(some), 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What separates two runs.

    `rows` has one for each metric of each task: the values of the `first` and the `second` run on the shared samples,
    their `difference` and its 95 % interval from `low` to `high`, all fractions; its `p`; for the task's primary metric
    `p_adjusted` by Holm over all tasks and the `verdict` on the first run, None for the others, which describe;
    `detectable`, the smallest true difference that would have led to a verdict in four of five cases, NaN where none
    would; shared `samples` and their `clusters`. `changed` has the samples that the two answered with different success
    by the primary metric: what the `first` and the `second` said, and the `gain` of the first.
    """

    names: tuple[str, str]
    runs: tuple[str, str]
    protocol: Protocol
    rows: pd.DataFrame
    changed: pd.DataFrame
    left_out: tuple[str, ...]  # tasks that only one of the runs has
    unpaired: Mapping[str, tuple[int, int]]  # by task, samples that only the first and that only the second scored
    notices: tuple[str, ...]
    withheld: frozenset[str]  # tasks whose texts may not be shown, since their data are under a signed agreement

    @property
    def decisive(self) -> pd.DataFrame:
        """The rows of primary metrics."""
        return self.rows[self.rows["p_adjusted"].notna()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two runs: its results and its scores by task."""

    results: Results
    tables: Mapping[str, ScoreTable] = field(default_factory=dict)


def compare_runs(first: Path, second: Path, *, protocol: Protocol = "strict", tasks: str | None = None) -> Comparison:
    """Compare two runs on the samples that both scored; `tasks` are names, kinds or globs, None for all.

    Raises UsageError if the runs cannot be compared, or share none of the tasks; RunError if one is not finished, or
    lacks scores.
    """
    results = read_results(first), read_results(second)
    wanted = known.chosen_tasks(shared_tasks(*results), tasks)
    ours, theirs = (
        Side(results=found, tables={name: read_score_table(path, found, name) for name in wanted})
        for path, found in zip((first, second), results, strict=True)
    )
    return compare(ours, theirs, protocol)


def shared_tasks(first: Results, second: Results) -> tuple[str, ...]:
    """Return the tasks that two runs share; a UsageError if none, or if they may not share a table of these."""
    shared = known.in_catalogue_order(first.tasks.keys() & second.tasks.keys())
    if (apart := known.mixture([first, second], tasks=shared)) is not None:
        raise apart
    if not shared:
        raise UsageError("The two runs share no task.", "Give runs that answered the same tasks.")
    return tuple(shared)


def compare(first: Side, second: Side, protocol: Protocol, *, primary_only: bool = False) -> Comparison:
    """Compare two runs on the tasks that both have tables of; a difference is the first minus the second.

    By all metrics, of which only the primary one of each task gets a verdict, or by these alone, without what changed.
    """
    found: list[tuple[dict[str, object], Difference, bool]] = []
    changed: list[dict[str, object]] = []
    unpaired: dict[str, tuple[int, int]] = {}
    shared = known.in_catalogue_order(first.tables.keys() & second.tables.keys())
    for name in shared:
        ours, theirs, task = first.tables[name], second.tables[name], first.results.tasks[name]
        primary = known.primary_metric(task.kind, ours.columns[protocol])
        for metric, column in ours.columns[protocol].items():
            other = theirs.columns[protocol].get(metric)
            if other is None or (primary_only and metric != primary):
                continue
            both = [sample for sample in column.sample_ids if sample in other.places]
            groups, seed = ours.groups_of(both), first.results.seed
            separates = difference(column.metric, column.of(both), other.of(both), groups, seed=seed)
            if separates is not None:
                row: dict[str, object] = {"task": name, "title": task.title, "metric": metric}
                row |= {"first": column.value(both), "second": other.value(both)}
                found.append((row, separates, metric == primary))
            if metric == primary:
                unpaired[name] = (len(column.sample_ids) - len(both), len(other.sample_ids) - len(both))
                changed += () if primary_only else _changed(ours, theirs, column, other, both)
    results = first.results, second.results
    one, two = known.distinct_names(results)
    return Comparison(
        names=(one, two), runs=(first.results.run, second.results.run), protocol=protocol,
        rows=pd.DataFrame(_judged(found), columns=list(ROWS), dtype=object).astype(_DTYPES),
        changed=pd.DataFrame(changed, columns=["task", "sample_id", "first", "second", "gain"]),
        left_out=tuple(sorted(set(first.results.tasks) ^ set(second.results.tasks))),
        unpaired={name: counts for name, counts in unpaired.items() if any(counts)},
        notices=tuple(known.notices_of(results)),
        withheld=frozenset(name for name in shared if known.is_credentialed(first.results, name)),
    )  # fmt: skip


def _judged(rows: Sequence[tuple[dict[str, object], Difference, bool]]) -> Iterator[dict[str, object]]:
    """Yield rows with what separates the runs, and the verdict of primary metrics, their p adjusted over all tasks."""
    ps = [found.p for _, found, primary in rows if primary]
    adjusted = iter(zip(paired.holm(ps), paired.levels_to_reach(ps), strict=True))
    for row, found, primary in rows:
        # The level is what its own p must be below, given those of the other tasks.
        p, level = next(adjusted) if primary else (None, ALPHA)
        verdict: Verdict | None = None
        if p is not None and p < ALPHA:
            verdict = "better" if found.value > 0 else "worse"
        elif p is not None:
            verdict = "too few clusters" if found.least_p >= level else "not distinguishable"
        yield row | known.picked(found, ("low", "high", "p", "samples", "clusters")) | {
            "difference": found.value, "p_adjusted": p, "verdict": verdict, "detectable": found.detectable_at(level),
        }  # fmt: skip


def _changed(
    ours: ScoreTable, theirs: ScoreTable, column: MetricScores, other: MetricScores, both: Sequence[str]
) -> Iterator[dict[str, object]]:
    first, second = column.metric.compute(column.of(both)), other.metric.compute(other.of(both))
    for name, gain in zip(both, np.nan_to_num(first) - np.nan_to_num(second), strict=True):
        if gain:
            said = {"first": _said(ours.by_id[name]), "second": _said(theirs.by_id[name])}
            yield {"task": ours.task, "sample_id": name, **said, "gain": float(gain)}


def _said(record: ScoreRecord) -> str:
    """Return what a model said, for people: its box in pixels if it drew one, else its text on one line."""
    if record.box is not None:
        return f"[{', '.join(f'{edge:.0f}' for edge in record.box)}]"
    return " ".join(record.prediction.split())


class Gate(NamedTuple):
    """Whether a run may replace another: for all tasks, by task (a column `decision`), and what else leaves doubt."""

    decision: Decision
    rows: pd.DataFrame
    reasons: tuple[str, ...]


def decide(comparison: Comparison, margin: float) -> Gate:
    """Decide by the primary metric of each task whether the first run is worse than the second.

    `worse`: significantly worse (Holm over the tasks) by more than `margin`, the accepted loss, a fraction. `pass`: the
    interval excludes such a loss, and nearly all of what the baseline scored was scored. Otherwise the data cannot
    tell: more samples are needed, or a larger margin. The candidate comes first, the baseline second.
    """
    rows = comparison.decisive
    worse = (rows["p_adjusted"] < ALPHA) & (rows["difference"] < -margin)
    decisions = np.select([worse, rows["low"] >= -margin], ["worse", "pass"], "undecidable")
    samples = dict(zip(rows["task"], rows["samples"], strict=True))
    reasons = tuple(
        f"{task}: {by_baseline} samples that the baseline scored were not scored for the candidate."
        for task, (_, by_baseline) in comparison.unpaired.items()
        if by_baseline > _UNSCORED * (samples.get(task, 0) + by_baseline)
    )
    doubtful = "undecidable" in decisions or reasons or not len(rows)
    overall: Decision = "worse" if "worse" in decisions else "undecidable" if doubtful else "pass"
    return Gate(overall, rows.assign(decision=decisions), reasons)
