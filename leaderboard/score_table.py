"""A run's per-sample scores of one task, as `scores/<task>.jsonl` holds them: what every comparison starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from medbench.harness.results import Results
from medbench.harness.rundir import RunDirectory
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import read_numbered_json_lines
from medbench.tasks.metrics.metric import FloatArray, Metric
from medbench.tasks.protocols import PROTOCOLS, Protocol, State, metrics_for

IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """The sufficient statistics and the value of one metric on one sample; None where it counts nothing."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    statistics: tuple[float, ...]
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRecord:
    """One line of the file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sample_id: str
    group: str
    state: State
    prediction: str
    box: tuple[float, float, float, float] | None
    paper: Mapping[str, ItemScore]
    strict: Mapping[str, ItemScore]
    labels: Mapping[str, str]
    error: str = ""

    def scores(self, protocol: Protocol) -> Mapping[str, ItemScore]:
        """Return the scores under a protocol by metric; metrics that do not apply are absent."""
        return self.paper if protocol == "paper" else self.strict


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One metric on the samples that it applies to.

    Attributes:
        metric: The metric.
        rows: Their places among the samples [M].
        statistics: Their sufficient statistics [M, K].
    """

    metric: Metric
    rows: IndexArray
    statistics: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """The scores of a task.

    Attributes:
        task: Its name.
        records: One per sample, in the order of the task.
        columns: By protocol and metric.
    """

    task: str
    records: Sequence[ScoreRecord]
    columns: Mapping[Protocol, Mapping[str, Column]]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The samples, in order."""
        return tuple(record.sample_id for record in self.records)

    def groups_of(self, rows: IndexArray) -> list[str]:
        """Return the clusters of some samples."""
        return [self.records[row].group for row in rows]


_RECORD = TypeAdapter(ScoreRecord)


def read_score_table(path: Path, results: Results, task: str) -> ScoreTable:
    """Return a task's scores.

    Args:
        path: Folder of the run.
        results: Its results.
        task: One of its tasks.

    Raises:
        RunError: If the file is missing, or was written by an older version.
        DataError: If a line is no score.
    """
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
    kind = results.tasks[task].kind
    columns = {
        protocol: {metric.metric_id: _column(metric, records, protocol) for metric in metrics_for(task, kind, protocol)}
        for protocol in PROTOCOLS
    }
    return ScoreTable(task=task, records=records, columns=columns)


def _column(metric: Metric, records: Sequence[ScoreRecord], protocol: Protocol) -> Column:
    there = [
        (row, found.statistics)
        for row, record in enumerate(records)
        if (found := record.scores(protocol).get(metric.metric_id)) is not None
    ]
    width = len(there[0][1]) if there else metric.statistics(()).shape[1]
    return Column(
        metric=metric,
        rows=np.asarray([row for row, _ in there], dtype=np.intp),
        statistics=np.asarray([numbers for _, numbers in there], dtype=np.float64).reshape(len(there), width),
    )
