"""A run's numbers by the dataset's own labels: open and closed, modality, organ, question type, size of the box."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medbench.harness.results import Results
from medbench.leaderboard.primary import primary_metric
from medbench.leaderboard.score_table import Column, IndexArray, ScoreTable
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import Protocol
from medbench.tasks.statistics.intervals import Interval, interval

MOST_VALUES = 60
"""A label with more values than that names samples, not groups of them."""
FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The samples with one value of a label.

    Attributes:
        task: Name of the task.
        title: Name of the task in tables.
        label: The label.
        value: Its value.
        metric: Id of the metric.
        score: The number, a fraction; None if nothing could be scored.
        interval: Its 95 % interval, or None.
        n: Samples that were scored.
        samples: All samples with this value, those that failed included.
    """

    task: str
    title: str
    label: str
    value: str
    metric: str
    score: float | None
    interval: Interval | None
    n: int
    samples: int


def labels_of(table: ScoreTable) -> list[str]:
    """Return the labels of a task that divide its samples into groups."""
    names = sorted({label for record in table.records for label in record.labels})
    return [name for name in names if FEWEST <= len(_values(table, name)) <= MOST_VALUES]


def _values(table: ScoreTable, label: str) -> Counter[str]:
    return Counter(record.labels[label] for record in table.records if label in record.labels)


def break_down(
    results: Results, tables: Sequence[ScoreTable], protocol: Protocol, *, by: str | None, every_metric: bool = False
) -> list[Part]:
    """Return the parts of all tasks, by one label or by all that divide.

    Args:
        results: Of the run.
        tables: Scores of its tasks.
        protocol: Whose definitions.
        by: A label; None for all.
        every_metric: Whether all metrics are shown and not only the primary one.

    Raises:
        UsageError: If no task has such a label.
    """
    there = {table.task: labels_of(table) for table in tables}
    if by is not None and not any(by in labels for labels in there.values()):
        known = ", ".join(f"{task}: {' '.join(labels)}" for task, labels in there.items() if labels)
        raise UsageError(f"No task has a label {by!r} that divides its samples.", f"There are {known or 'none'}.")
    return [
        part
        for table in tables
        for label in there[table.task]
        if by in {None, label}
        for part in _parts(results, table, protocol, label, every_metric=every_metric)
    ]


def _parts(
    results: Results, table: ScoreTable, protocol: Protocol, label: str, *, every_metric: bool
) -> Iterator[Part]:
    result = results.tasks[table.task]
    columns = table.columns[protocol]
    primary = primary_metric(result.kind, columns)
    chosen = [column for name, column in columns.items() if every_metric or name == primary]
    for value, samples in sorted(_values(table, label).items()):
        for column in chosen:
            places = _places(table, column, label, value)
            statistics = column.statistics[places]
            score = float(column.metric.compute(statistics.sum(axis=0))) if len(places) else float("nan")
            groups = table.groups_of(column.rows[places])
            yield Part(
                task=table.task, title=result.title, label=label, value=value, metric=column.metric.metric_id,
                score=None if np.isnan(score) else score,
                interval=interval(column.metric, statistics, groups),
                n=len(places), samples=samples,
            )  # fmt: skip


def _places(table: ScoreTable, column: Column, label: str, value: str) -> IndexArray:
    there = [place for place, row in enumerate(column.rows) if table.records[row].labels.get(label) == value]
    return np.asarray(there, dtype=np.intp)
