"""Scores by sample, as `scores/<task>.jsonl` holds them: what every comparison, breakdown and export starts from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError, with_config

from medbench.harness.results import Results, read_results
from medbench.harness.rundir import RunDirectory
from medbench.leaderboard.runs import chosen_tasks, picked, primary_metric
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import read_numbered_json_lines
from medbench.tasks.metrics.asked import as_read
from medbench.tasks.metrics.metric import FloatArray, Metric, Traits
from medbench.tasks.protocols import PROTOCOLS, Protocol, State, metrics_for
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.intervals import interval
from medbench.tasks.validation import read_once

if TYPE_CHECKING:
    from pandas import DataFrame

_VALUES = range(2, 61)  # of a label that divides samples into groups; one with more names samples
_PARTS = ("task", "title", "label", "value", "metric", "score", "low", "high", "clusters", "n", "samples")


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """The sufficient statistics and the value of one metric on one sample; None where it counts nothing."""

    statistics: tuple[FiniteFloat, ...]
    value: FiniteFloat | None


Scores = Annotated[Mapping[str, ItemScore], read_once()]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord:
    """One line of the file; `group` is its cluster, `paper` and `strict` hold its scores by metric."""

    sample_id: str
    group: str
    state: State
    prediction: str
    box: tuple[float, float, float, float] | None
    paper: Scores
    strict: Scores
    labels: Annotated[Mapping[str, str], read_once()]
    error: str = ""

    def scores(self, protocol: Protocol) -> Mapping[str, ItemScore]:
        """Return the scores under a protocol by metric; metrics that do not apply are absent."""
        return self.paper if protocol == "paper" else self.strict


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """One metric on the M samples that it applies to: their names, and their sufficient statistics [M, K]."""

    metric: Metric
    sample_ids: tuple[str, ...]
    statistics: FloatArray

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The row of each sample."""
        return _places(self.sample_ids)

    def of(self, names: Sequence[str]) -> FloatArray:
        """Return the statistics of samples [len(names), K]; each must have some."""
        return self.statistics[[self.places[name] for name in names]]

    def value(self, names: Sequence[str] | None = None) -> float:
        """Return the metric over some of the samples, or all; NaN where nothing counts."""
        return float(self.metric.compute((self.statistics if names is None else self.of(names)).sum(axis=0)))


@lru_cache(maxsize=64)
def _places(names: tuple[str, ...]) -> Mapping[str, int]:
    # Metrics and runs that have the same samples share it.
    return {name: place for place, name in enumerate(names)}


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """The scores of a task: a record for each sample in order, and the same by protocol and metric."""

    task: str
    records: Sequence[ScoreRecord]
    columns: Mapping[Protocol, Mapping[str, MetricScores]]

    @cached_property
    def by_id(self) -> Mapping[str, ScoreRecord]:
        """The records by sample."""
        return {record.sample_id: record for record in self.records}

    def groups_of(self, names: Iterable[str]) -> list[str]:
        """Return the clusters of samples."""
        return [self.by_id[name].group for name in names]


def score_table(
    task: str, kind: Kind, records: Sequence[ScoreRecord], asked: Mapping[str, Traits] | None = None
) -> ScoreTable:
    """Return the scores of a task from its records; metrics that were `asked` for have their traits by id."""

    def scored(metric: Metric, protocol: Protocol) -> MetricScores:
        of = [(record.sample_id, record.scores(protocol).get(metric.metric_id)) for record in records]
        there = {name: item.statistics for name, item in of if item is not None}
        width = len(next(iter(there.values()))) if there else metric.statistics(()).shape[1]
        statistics = np.asarray(list(there.values()), dtype=np.float64).reshape(len(there), width)
        return MetricScores(metric=metric, sample_ids=tuple(there), statistics=statistics)

    metrics = {protocol: metrics_for(task, kind, protocol) for protocol in PROTOCOLS}
    metrics["strict"] += tuple(as_read(*pair) for pair in (asked or {}).items())
    columns = {
        protocol: {metric.metric_id: scored(metric, protocol) for metric in found}
        for protocol, found in metrics.items()
    }
    return ScoreTable(task=task, records=records, columns=columns)


_RECORD = TypeAdapter(ScoreRecord)


def read_score_table(path: Path, results: Results, task: str) -> ScoreTable:
    """Return a task's scores from a run's folder; a RunError if they are missing, a DataError if a line is no score."""
    file = RunDirectory(path=path, identity=results.run).scores(task)
    again = f"Score the run again: medbench score {path}"
    if not file.is_file():
        raise RunError(f"{file} is missing.", again)
    records = []
    for number, line in read_numbered_json_lines(file):
        try:
            records.append(_RECORD.validate_python(line))
        except ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, found["loc"]))
            raise DataError(f"{file}, line {number} is no score: {where}: {found['msg']}.", again) from error
    result = results.tasks[task]
    asked = {name: metric.traits for name, metric in result.strict.items() if metric.traits is not None}
    try:
        return score_table(task, result.kind, records, asked)
    except ValueError as error:
        raise DataError(f"{file} holds statistics of several lengths for one metric.", again) from error


def read_score_tables(path: Path, results: Results, tasks: str | None = None) -> dict[str, ScoreTable]:
    """Return the scores of those of a run's tasks that a selection names, all by default; raises like the above."""
    return {task: read_score_table(path, results, task) for task in chosen_tasks(tuple(results.tasks), tasks)}


def read(path: Path, tasks: str | None = None) -> "DataFrame":
    """Return the scores of a run by sample as one long table: a row for each metric of each protocol on each sample.

    Columns: `run`, `model`, `suite`, `task`, `kind`, `protocol`, `metric`, `state`, `sample_id`, `cluster`, `score`
    (NaN where the metric counts nothing, as in a sample that failed), `statistics` (what the metric of a whole task
    adds up: see `MetricScores.value`), `prediction`, `labels`, `box`, `error`. `tasks` are names, kinds or globs; None
    for all. Raises RunError if the folder is no finished run, or lacks scores; DataError if its files are malformed;
    UsageError if it has none of the tasks.
    """
    import pandas as pd

    results = read_results(path)
    tables = read_score_tables(path, results, tasks)
    return pd.concat([as_frame(results, task, table.records) for task, table in tables.items()], ignore_index=True)


def as_frame(results: Results, task: str, records: Iterable[ScoreRecord]) -> "DataFrame":
    """Return the records of a task as the long table that `read` describes."""
    import pandas as pd

    found, rows = results.tasks[task], list[dict[str, Any]]()
    for record in records:
        own = picked(record, ("state", "sample_id", "prediction", "labels", "box", "error"))
        for protocol in PROTOCOLS:
            for metric in found.metrics(protocol):
                item = record.scores(protocol).get(metric)
                score = {} if item is None else {"score": item.value, "statistics": list(item.statistics)}
                rows.append({**own, "cluster": record.group, "protocol": protocol, "metric": metric, **score})
    names = ["protocol", "metric", "state", "sample_id", "cluster", "score", "statistics", "prediction", "labels"]
    frame = pd.DataFrame(rows, columns=[*names, "box", "error"], dtype=object).astype({"score": "float64"})
    whole = {"run": results.run, "model": results.title, "suite": results.suite, "task": task, "kind": found.kind}
    return frame.assign(**whole)[[*whole, *frame.columns]]


def rows_of(frame: "DataFrame") -> list[Any]:
    """Return the rows of a table, each with its cells by the names of the columns."""
    return list(frame.itertuples(index=False))


def labels_of(table: ScoreTable) -> dict[str, dict[str, list[str]]]:
    """Return the labels that divide a task's samples into groups: by label and value, the samples, in order."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in table.records:
        for label, value in record.labels.items():
            found.setdefault(label, {}).setdefault(value, []).append(record.sample_id)
    return {label: dict(sorted(groups.items())) for label, groups in sorted(found.items()) if len(groups) in _VALUES}


def break_down(
    results: Results, tables: Iterable[ScoreTable], protocol: Protocol, *, by: str | None, every_metric: bool = False
) -> "DataFrame":
    """Return a run's numbers by the dataset's own labels: modality, organ, question type, size of the box.

    A row is one metric on the samples of a task with one value of a label: `task`, `title`, `label`, `value`, `metric`,
    `score` (a fraction; NaN if nothing could be scored), its 95 % interval `low` to `high` over so many `clusters`, the
    `n` samples that were scored, and all `samples`, those that failed included. It is by one label or by all that
    divide the samples, and by all metrics or each task's primary one. Raises UsageError if no task has such a label.
    """
    import pandas as pd

    there = [(table, labels_of(table)) for table in tables]
    if by is not None and not any(by in labels for _, labels in there):
        known = ", ".join(f"{table.task}: {' '.join(labels)}" for table, labels in there if labels)
        raise UsageError(f"No task has a label {by!r} that divides its samples.", f"There are {known or 'none'}.")
    parts = []
    for table, labels in there:
        columns, result = table.columns[protocol], results.tasks[table.task]
        primary = primary_metric(result.kind, columns)
        for label, value, names in ((label, *item) for label, groups in labels.items() for item in groups.items()):
            for metric, column in columns.items():
                if by in {None, label} and (every_metric or metric == primary):
                    about = {"task": table.task, "title": result.title, "label": label, "value": value}
                    parts.append(about | {"metric": metric} | _part(table, column, names))
    return pd.DataFrame(parts, columns=list(_PARTS)).astype(dict.fromkeys(("score", "low", "high"), "float64"))


def _part(table: ScoreTable, column: MetricScores, names: Sequence[str]) -> dict[str, Any]:
    scored = [name for name in names if name in column.places]
    found = interval(column.metric, column.of(scored), table.groups_of(scored))
    return {
        "score": column.value(scored) if scored else None, "low": found and found.low, "high": found and found.high,
        "clusters": found.clusters if found else 0, "n": len(scored), "samples": len(names),
    }  # fmt: skip
