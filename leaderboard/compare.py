"""Two runs on the samples that both scored: which is better where, how surely; and may the one replace the other?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from medbench.harness.results import Results, read_results
from medbench.leaderboard import runs as known
from medbench.leaderboard.samples import MetricScores, ScoreRecord, ScoreTable, read_score_table
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import Protocol
from medbench.tasks.statistics.paired import ALPHA, Difference, difference, holm, levels_to_reach

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
    """Compare two runs on the samples that both scored; a difference is the first minus the second.

    `tasks` are names, kinds or globs, comma-separated; None for all that they share. Raises UsageError if the runs
    cannot be compared, or share none of the tasks; RunError if a folder is no finished run, or lacks scores.
    """
    results = read_results(first), read_results(second)
    wanted = known.chosen_tasks(shared_tasks(*results), tasks)
    ours, theirs = (
        Side(results=found, tables={name: read_score_table(path, found, name) for name in wanted})
        for path, found in zip((first, second), results, strict=True)
    )
    return compare(ours, theirs, protocol)


def shared_tasks(first: Results, second: Results) -> tuple[str, ...]:
    """Return the tasks that two runs share; a UsageError if none, or if other suites or data forbid to compare them."""
    if first.run == second.run:
        raise UsageError("One run was given twice.", "Give two runs.")
    if first.probe != second.probe:
        raise UsageError("One of the runs asked in another way (--probe).", "Read it with `medbench audit probe`.")
    if first.suite != second.suite:
        problem = f"One run answered the suite {first.suite!r}, the other {second.suite!r}."
        raise UsageError(problem, "Compare runs of one suite.")
    shared = known.in_catalogue_order(first.tasks.keys() & second.tasks.keys())
    if not shared:
        raise UsageError("The two runs share no task.", "Give runs that answered the same tasks.")
    for name in shared:
        if first.tasks[name].data != second.tasks[name].data:
            way_out = "Run both on the same prepared data, then compare."
            raise UsageError(f"The runs answered different data of {name}.", way_out)
    return tuple(shared)


def compare(first: Side, second: Side, protocol: Protocol) -> Comparison:
    """Compare two runs on the tasks that both have tables of; a difference is the first minus the second."""
    found: list[tuple[dict[str, object], Difference, bool]] = []
    changed: list[dict[str, object]] = []
    unpaired: dict[str, tuple[int, int]] = {}
    shared = known.in_catalogue_order(first.tables.keys() & second.tables.keys())
    for name in shared:
        ours, theirs, task = first.tables[name], second.tables[name], first.results.tasks[name]
        primary = known.primary_metric(task.kind, ours.columns[protocol])
        for metric, column in ours.columns[protocol].items():
            other = theirs.columns[protocol].get(metric)
            if other is None:
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
                changed += _changed(ours, theirs, column, other, both)
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
    adjusted = iter(zip(holm(ps), levels_to_reach(ps), strict=True))
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

    `worse`: significantly worse (Holm over the tasks) by more than `margin`. `pass`: the interval excludes a loss of
    more than `margin`, and nearly all of what the baseline scored was scored. Otherwise the data cannot tell: more
    samples are needed, or a larger margin. The candidate comes first, the baseline second; `margin` is the loss that is
    accepted, a fraction.
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
