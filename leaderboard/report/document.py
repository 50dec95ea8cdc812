"""Everything that a report shows, as one JSON-compatible value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medbench.harness.results import MetricResult, Results
from medbench.leaderboard.board import make_board
from medbench.leaderboard.compare import Compared, Side, compare
from medbench.leaderboard.counts import (
    WRITTEN_HEADS,
    beside,
    is_partly_answered,
    writes_to_tell,
    written_cells,
)
from medbench.leaderboard.credentialed import terms_of
from medbench.leaderboard.leaks import leaked_in
from medbench.leaderboard.markdown import METRIC_TITLES
from medbench.leaderboard.primary import primary_metric
from medbench.leaderboard.report.facts import audit_findings, provenance, routing, timing
from medbench.leaderboard.report.pictures import Embedded, ImageBudget, Pictures
from medbench.leaderboard.report.samples import Shelves, metrics_shown, sample_columns
from medbench.leaderboard.report.sources import RunSource, TaskSource
from medbench.leaderboard.report.text_table import TextTable
from medbench.tasks.catalog import task_names
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol, metric_ids
from medbench.tasks.spec import Kind
from medbench.tasks.terms import needs_agreement

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a report holds.

    Attributes:
        budget: Of images; None embeds none.
        reveal_credentialed: Whether texts and images of credentialed data are shown.
    """

    budget: ImageBudget | None = field(default_factory=ImageBudget)
    reveal_credentialed: bool = False


def make_document(
    runs: Sequence[RunSource], data: Mapping[str, TaskSource], options: ReportOptions
) -> tuple[dict[str, Any], Sequence[str]]:
    """Return the document and the images that it refers to, for `render_page`.

    Args:
        runs: Runs of the same data; the first is compared with each other one.
        data: The prepared data of every task of the runs.
        options: What is held.

    Raises:
        UsageError: If the runs may not stand side by side.
    """
    names = make_board([run.results for run in runs]).names
    shelves = Shelves(texts=TextTable(), pictures=Pictures())
    tasks = [_task(name, runs, data[name], shelves) for name in tasks_of(runs)]
    pictures = Embedded(uris=(), shown={}, broken=())
    if options.budget is not None:
        pictures = shelves.pictures.embed(options.budget)
    withheld = [name for name, source in data.items() if source.withheld]
    document = {
        "schema": SCHEMA,
        "states": list(STATES),
        "protocols": list(PROTOCOLS),
        "writtenHeads": list(WRITTEN_HEADS),
        "metricTitles": METRIC_TITLES,
        "revealed": options.reveal_credentialed and any(map(needs_agreement, data)),
        "notices": list(dict.fromkeys(notice for run in runs for notice in run.results.notices)),
        "runs": [_run(name, run, withheld) for name, run in zip(names, runs, strict=True)],
        "tasks": tasks,
        "pairs": [_pair(runs[0], 0, run, place) for place, run in enumerate(runs) if place],
        "texts": shelves.texts.texts,
        "pictures": _picture_columns(shelves.pictures, pictures, asked=options.budget is not None),
    }
    return document, pictures.uris


def tasks_of(runs: Sequence[RunSource]) -> tuple[str, ...]:
    """Return the tasks that any of the runs has, in catalogue order."""
    there = {name for run in runs for name in run.results.tasks}
    return tuple(dict.fromkeys(name for name in (*task_names(), *sorted(there)) if name in there))


def _picture_columns(pictures: Pictures, embedded: Embedded, *, asked: bool) -> dict[str, Any]:
    return {
        "names": pictures.names,
        "shown": [list(embedded.shown.get(number, ())) for number in range(len(pictures.names))],
        "broken": list(embedded.broken),
        "asked": asked,
    }


def _run(name: str, run: RunSource, withheld: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "run": run.results.run,
        "suite": run.results.suite,
        "unsupported": list(run.results.unsupported),
        "trainedOn": list(run.results.model.trained_on),
        "missing": list(run.missing),
        "provenance": provenance(run),
        "timing": timing(run),
        "routing": routing(run),
        "audit": audit_findings(run, withheld),
        "audited": run.audit is not None,
    }


def _task(name: str, runs: Sequence[RunSource], source: TaskSource, shelves: Shelves) -> dict[str, Any]:
    results = [run.results for run in runs]
    having = next(result.tasks[name] for result in results if name in result.tasks)
    columns = sample_columns(name, runs, source, shelves)
    return {
        "name": name,
        "title": having.title,
        "kind": having.kind,
        "withheld": source.withheld,
        "missing": source.missing,
        "open": all(terms_of(result, name).openness == "open" for result in results if name in result.tasks),
        "scores": {protocol: _scores(name, results, protocol) for protocol in PROTOCOLS},
        "leaked": [_is_leaked(run, name) for run in runs],
        "states": [_states(result, name) for result in results],
        "written": [_written(result, name) for result in results],
        "primary": {protocol: _primary(name, results, protocol) for protocol in PROTOCOLS},
        "sampleMetrics": {protocol: metrics_shown(columns, protocol) for protocol in PROTOCOLS},
        **columns,
    }


def _is_leaked(run: RunSource, name: str) -> bool:
    verdicts = run.audit.get("verdicts") if isinstance(run.audit, dict) else None
    return isinstance(verdicts, dict) and name in leaked_in(verdicts)


def _primary(name: str, results: Sequence[Results], protocol: Protocol) -> str | None:
    having = [result.tasks[name] for result in results if name in result.tasks]
    return primary_metric(having[0].kind, having[0].metrics(protocol))


def _states(result: Results, name: str) -> dict[str, int] | None:
    return {str(state): number for state, number in result.tasks[name].states.items()} if name in result.tasks else None


def _written(result: Results, name: str) -> list[str] | None:
    """Return what a run wrote on a task, if it thought there or met the limit of tokens."""
    task = result.tasks.get(name)
    return written_cells(task) if task is not None and task in writes_to_tell(result) else None


def _scores(name: str, results: Sequence[Results], protocol: Protocol) -> list[dict[str, Any]]:
    by_run = [result.tasks[name].metrics(protocol) if name in result.tasks else {} for result in results]
    there = {metric for metrics in by_run for metric in metrics}
    ordered = dict.fromkeys((*metric_ids(name, _kind(name, results), protocol), *sorted(there)))
    return [
        {"metric": metric, "cells": [_cell(metrics.get(metric)) for metrics in by_run]}
        for metric in ordered
        if metric in there
    ]


def _kind(name: str, results: Sequence[Results]) -> Kind:
    return next(result.tasks[name].kind for result in results if name in result.tasks)


def _cell(metric: MetricResult | None) -> dict[str, Any] | None:
    if metric is None:
        return None
    return {
        "value": metric.value,
        "interval": list(metric.ci) if metric.ci else None,
        "n": metric.n,
        "beside": beside(metric.answered, metric.bounds),
        "amongAnswered": metric.among_answered if is_partly_answered(metric.answered) else None,
        "ceiling": metric.limiting_ceiling,
        "method": metric.interval.method if metric.interval else None,
        "clusters": metric.interval.clusters if metric.interval else None,
        "signature": metric.signature,
    }


def _pair(first: RunSource, first_place: int, second: RunSource, second_place: int) -> dict[str, Any]:
    shared = [name for name in tasks_of([first]) if name in first.tables and name in second.tables]
    ours, theirs = (
        Side(results=run.results, tables={name: run.tables[name] for name in shared}) for run in (first, second)
    )
    return {
        "first": first_place,
        "second": second_place,
        "rows": {
            protocol: [_difference(row) for row in compare(ours, theirs, protocol).rows] for protocol in PROTOCOLS
        },
    }


def _difference(row: Compared) -> dict[str, Any]:
    return {
        "task": row.task,
        "metric": row.metric,
        "first": row.first,
        "second": row.second,
        "value": row.found.value,
        "low": row.found.low,
        "high": row.found.high,
        "p": row.found.p,
        "adjusted": row.p_adjusted,
        "verdict": row.verdict,
        "detectable": row.detectable if math.isfinite(row.detectable) else None,
        "samples": row.found.samples,
        "clusters": row.found.clusters,
    }
