"""Scores by sample as one Parquet file, for DuckDB, pandas and the Hub's viewer; needs `medbench[parquet]`."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from medbench.harness.results import MetricResult
from medbench.leaderboard.counts import not_ok
from medbench.leaderboard.export.files import replaced_when_whole
from medbench.leaderboard.export.public import PublicRun, PublicScore, read_public_scores
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.protocols import PROTOCOLS

METADATA_KEY = "medbench"
_REPEATED = ("run", "model", "suite", "task", "kind", "protocol", "metric", "state")
Columns = dict[str, list[Any]]


def load_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Return pyarrow and its Parquet module.

    Raises:
        UsageError: If pyarrow is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed.", "Run pip install 'medbench[parquet]'."
        ) from error


def write_parquet(path: Path, run: PublicRun) -> int:
    """Write the scores of a run, a row group for each task, and return the number of rows.

    A row is one metric of one protocol on one sample; `score` is null where the metric counts nothing, as in a sample
    that failed. `statistics` are what the metric of a whole task adds up, so corpus metrics can be made again.
    Notices, results and definitions are in the file's own metadata under `medbench`.

    Args:
        path: The file.
        run: The run, as it may be shown.

    Raises:
        UsageError: If pyarrow is not installed.
        RunError: If the file cannot be written, or scores are missing.
        DataError: If a line of the scores is malformed.
    """
    arrow, parquet = load_pyarrow()
    schema = _schema(arrow).with_metadata({METADATA_KEY: canonical_json(parquet_metadata(run))})
    rows = 0
    with replaced_when_whole(path) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for task in run.results.tasks:
            columns = task_columns(run, task, read_public_scores(run, task))
            writer.write_table(arrow.Table.from_pydict(columns, schema=schema))
            rows += len(columns["run"])
    return rows


def _schema(arrow: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    text = arrow.string()
    repeated = [(name, arrow.dictionary(arrow.int32(), text)) for name in _REPEATED]
    return arrow.schema(
        [
            *repeated,
            ("sample_id", text),
            ("cluster", text),
            ("score", arrow.float64()),
            ("statistics", arrow.list_(arrow.float64())),
            ("prediction", text),
            ("labels", arrow.map_(text, text)),
        ]
    )


def task_columns(run: PublicRun, task: str, scores: list[PublicScore]) -> Columns:
    """Return the columns of a task."""
    names = ("run", "model", "suite", "task", "kind", "protocol", "metric", "state", "sample_id", "cluster", "score")
    rows = list(_rows(run, task, scores))
    return {name: [row[name] for row in rows] for name in (*names, "statistics", "prediction", "labels")}


def _rows(run: PublicRun, task: str, scores: list[PublicScore]) -> Iterator[dict[str, Any]]:
    results = run.results
    fixed = {"run": results.run, "model": results.model.title, "suite": results.suite}
    fixed |= {"task": task, "kind": results.tasks[task].kind}
    for score in scores:
        sample = {
            "sample_id": score.sample_id,
            "cluster": score.cluster,
            "state": score.state,
            "prediction": score.prediction,
            "labels": None if score.labels is None else sorted(score.labels.items()),
        }
        for protocol in PROTOCOLS:
            for metric_id in results.tasks[task].metrics(protocol):
                item = score.scores(protocol).get(metric_id)
                yield {
                    **fixed,
                    **sample,
                    "protocol": protocol,
                    "metric": metric_id,
                    "score": None if item is None else item.value,
                    "statistics": None if item is None else list(item.statistics),
                }


def parquet_metadata(run: PublicRun) -> dict[str, Any]:
    """Return what must stand beside the rows: notices, numbers of the whole tasks, and what was left out."""
    results = run.results
    return {
        "run": results.run,
        "model": {"name": results.model.name, "title": results.model.title, "weights": results.model.weights},
        "suite": results.suite,
        "limit": results.limit,
        "notices": list(results.notices),
        "left_out": {task: terms.reason for task, terms in run.terms.items() if terms.reason},
        "numbers": {
            task: {protocol: _numbers(found.metrics(protocol)) for protocol in PROTOCOLS}
            for task, found in results.tasks.items()
        },
    }


def _numbers(metrics: Mapping[str, MetricResult]) -> dict[str, Any]:
    return {
        name: {
            "value": metric.value, "ci": metric.ci, "n": metric.n, **not_ok(metric), "answered": metric.answered,
            "among_answered": metric.among_answered, "bounds": metric.bounds, "signature": metric.signature,
        }
        for name, metric in metrics.items()
    }  # fmt: skip
