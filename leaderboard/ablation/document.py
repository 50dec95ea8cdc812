"""`ablation.json`: the numbers of a table of trained rows; made of their runs, and read again."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, with_config

from medbench.harness.ablation.grid import Base, TrainedRow
from medbench.harness.results import SCHEMA, Results, read_results
from medbench.leaderboard import runs as known
from medbench.leaderboard.compare import field_of
from medbench.leaderboard.paper import LAYOUTS, Publication, read_publication
from medbench.leaderboard.samples import read_score_table
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import PROTOCOLS, Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.paired import ALPHA, holm, levels_to_reach
from medbench.tasks.statistics.trainings import Estimate, Scores, estimate, gains, task_scores
from medbench.tasks.suite import SuiteName
from medbench.tasks.validation import parse_json_file

KINDS: tuple[Kind, ...] = ("vqa", "rec", "reg", "report", "cls")
TOTAL = "total"
Verdict = Literal["baseline", "better", "worse", "undecided"]
_SEED = 0
_STRICT = with_config(ConfigDict(extra="forbid"))


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """A number over several trainings, a fraction, with its 95 % interval over seeds and samples together."""

    value: float | None
    low: float | None = None  # None with one training: how far others would be from it is not known.
    high: float | None = None
    of_seeds: float | None = None  # Share of the variance that is between seeds.


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """One row under one protocol."""

    name: str
    over: str  # The row that its gain is counted over; empty for one that others are counted over.
    parameters: int  # How many were trained.
    scores: Mapping[str, Worth]  # By task, of the metric that the paper's table shows.
    by_seed: Mapping[str, tuple[float | None, ...]]  # The same of each training.
    gains: Mapping[str, Worth]  # As the paper counts it, by kind of task and as `total`; empty without `over`.
    p: float | None  # That the total gain is as large by chance; None with one training.
    p_adjusted: float | None  # Among the rows of the table (Holm).
    detectable: float | None  # Smallest true total gain that such data show 8 times of 10.
    verdict: Verdict
    reported: Mapping[str, float]  # The gains that the paper prints, as fractions.


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """A table, its rows in the paper's order."""

    table: str
    source: str  # Which table of which paper.
    suite: SuiteName
    base: Base  # The recipe that all rows share.
    seeds: int
    metrics: tuple[tuple[str, str], ...]  # Tasks, each with its metric, in the order of the paper's table.
    protocols: Mapping[Protocol, tuple[RowScores, ...]]
    missing: tuple[str, ...]  # Rows that were asked for, and are not through.
    notices: tuple[str, ...]
    runs: Mapping[str, tuple[str, ...]]  # Identities of the runs by row.
    schema: Literal[1] = field(default=SCHEMA)

    def as_json(self) -> dict[str, Any]:
        """Return the document."""
        plain: dict[str, Any] = TypeAdapter(Ablation).dump_python(self, mode="json")
        return plain


def read_ablation(path: Path) -> Ablation:
    """Return the numbers of a file; DataError if it is not what `medbench ablate` writes."""
    return parse_json_file(Ablation, path)


def make_ablation(table: str, rows: Sequence[TrainedRow], missing: Sequence[str], base: Base) -> Ablation:
    """Return the numbers of trained rows of a table, of each as many trainings.

    UsageError if the runs may not share a table; RunError if one lacks scores; DataError if its files are malformed.
    """
    runs = [[read_results(path) for path in row.runs] for row in rows]
    flat = [one for of_row in runs for one in of_row]
    if problem := known.mixture(flat):
        raise problem
    published, notices = read_publication(f"table{table}"), known.notices_of(flat, _names(rows))
    metrics = {task: metric for task, metric in LAYOUTS["table2"].rows if all(task in one.tasks for one in flat)}
    if not metrics:
        raise UsageError(
            "The runs share no task of the paper's table.", f"It has {', '.join(dict(LAYOUTS['table2'].rows))}."
        )
    protocols = {}
    for protocol in PROTOCOLS:
        scores, lacking = _scores_of(rows, runs, protocol, metrics)
        notices += lacking
        protocols[protocol] = tuple(_rows(rows, scores, list(metrics), published))
    return Ablation(
        table=table, source=published.source, suite=flat[0].suite, base=base, seeds=len(rows[0].runs),
        metrics=tuple(metrics.items()),
        protocols=protocols, missing=tuple(missing), notices=tuple(dict.fromkeys(notices)),
        runs={row.name: tuple(one.run for one in of_row) for row, of_row in zip(rows, runs, strict=True)},
    )  # fmt: skip


def _names(rows: Sequence[TrainedRow]) -> list[str]:
    """Return what a notice calls each of the runs of rows, row by row."""
    return [f'"{row.name}" (training {number})' for row in rows for number in range(1, len(row.runs) + 1)]


def _scores_of(
    rows: Sequence[TrainedRow], runs: Sequence[Sequence[Results]], protocol: Protocol, metrics: Mapping[str, str]
) -> tuple[Scores, list[str]]:
    """Return the scores of all trainings on the samples that all of them scored, NaN for a task where that fails."""
    points, drawn, clusters, notices = [], [], list[int](), []
    shape = len(rows), len(rows[0].runs)
    for task, metric in metrics.items():
        pairs = [pair for row, of_row in zip(rows, runs, strict=True) for pair in zip(row.runs, of_row, strict=True)]
        found = field_of([read_score_table(path, results, task) for path, results in pairs], protocol, metric)
        columns = [column for column in found.runs if column is not None]
        if len(columns) < len(pairs):
            notices.append(f"{task} is left out: {found.reason or 'some trainings scored too few of the samples'}.")
            columns = []
        names, each = found.shared, iter(columns)
        if columns:
            statistics = [[next(each).of(names) for _ in range(shape[1])] for _ in range(shape[0])]
            own, draws = task_scores(columns[0].metric, statistics, found.groups, seed=_SEED)
        else:
            own, draws = np.full(shape, np.nan), np.full((1, *shape), np.nan)
        clusters.append(len(set(found.groups)))
        points.append(own)
        drawn.append(draws)
    most = max(map(len, drawn))
    whole = [np.broadcast_to(one, (most, *shape)) for one in drawn]
    return Scores(points=np.stack(points, axis=-1), drawn=np.stack(whole, axis=-1), clusters=clusters), notices


def parts_of(tasks: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which of the tasks count for each kind that there is, and for the total [T]."""
    kinds = np.asarray([get_task(task).kind for task in tasks])
    return {kind: kinds == kind for kind in KINDS if (kinds == kind).any()} | {TOTAL: np.ones(len(tasks), dtype=bool)}


def _rows(
    rows: Sequence[TrainedRow], scores: Scores, tasks: Sequence[str], published: Publication
) -> Iterator[RowScores]:
    places, parts = {row.name: place for place, row in enumerate(rows)}, parts_of(tasks)
    found = {
        row.name: _gain(scores, places[row.name], places[row.over], list(parts.values())) for row in rows if row.over
    }
    # None of a single training, or where the baseline scores nothing.
    ps = {name: p for name, one in found.items() if (p := _number(one.p[-1])) is not None}
    adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
    levels = dict(zip(ps, levels_to_reach(list(ps.values())), strict=True))
    for place, row in enumerate(rows):
        own = estimate(scores, partial(np.take, indices=place, axis=-2), seed=_SEED)
        gain, p = found.get(row.name), adjusted.get(row.name)
        yield RowScores(
            name=row.name, over=row.over, parameters=row.parameters,
            scores=dict(zip(tasks, _worths(own, inside=True), strict=True)),
            by_seed={task: tuple(map(_number, scores.points[place, :, at])) for at, task in enumerate(tasks)},
            gains=dict(zip(parts, _worths(gain), strict=True)) if gain else {},
            p=ps.get(row.name), p_adjusted=p, verdict=_verdict(gain, p),
            detectable=_number(gain.detectable(levels[row.name])[-1]) if gain and p is not None else None,
            reported={name: percent / 100 for name, percent in published.models[row.name].gains.items()},
        )  # fmt: skip


def _gain(scores: Scores, ours: int, baseline: int, parts: Sequence[npt.NDArray[np.bool_]]) -> Estimate:
    return estimate(scores, lambda every: gains(every[..., ours, :], every[..., baseline, :], parts), seed=_SEED)


def _verdict(gain: Estimate | None, p: float | None) -> Verdict:
    if gain is None:
        return "baseline"
    if p is None or p >= ALPHA:
        return "undecided"
    return "better" if gain.values[-1] > 0 else "worse"


def _worths(found: Estimate, *, inside: bool = False) -> Iterator[Worth]:
    """Yield each number; `inside` keeps the intervals of scores between nothing and everything."""
    low, high = found.intervals
    if inside:
        low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
    for numbers in zip(found.values, low, high, found.of_seeds, strict=True):
        value, below, above, share = map(_number, numbers)
        yield Worth(value=value, low=below, high=above, of_seeds=share)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
