"""`report.html`: all that a report shows as one JSON value, in one file that runs its own script and no other."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medbench.leaderboard import render
from medbench.leaderboard.compare import ROWS, Side, compare
from medbench.leaderboard.numbers import Board, Number, make_board, make_table
from medbench.leaderboard.render import asset, beside, render_html, written_cells, wrote
from medbench.leaderboard.report.samples import BY_COMMAND, ImageBudget, Shelves, metrics_shown, sample_columns
from medbench.leaderboard.report.sources import (
    RunSource,
    TaskSource,
    audit_findings,
    provenance,
    read_run_source,
    read_task_source,
    routing,
    tasks_of,
    timing,
)
from medbench.leaderboard.runs import leaked_in, notices_of, primary_metric, terms_of
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol
from medbench.tasks.terms import needs_agreement

REPORT_FILE = "report.html"
SCHEMA = 1
SCRIPTS = (
    "dom.js", "data.js", "route.js", "plots.js", "summary.js", "filter.js", "list.js", "sample.js", "samples.js",
    "compare.js", "facts.js", "main.js",
)  # fmt: skip
"""In the order in which they are joined: one scope, no modules, since a file opened from disk may import none."""
# What could end the element early or, in older readers, a line; surrogates cannot be written as UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def report_of(
    paths: Sequence[Path], data_dir: Path | None = None, *, budget: ImageBudget | None = BY_COMMAND,
    reveal: bool = False,
) -> str:  # fmt: skip
    """Return the report of runs of the same data as HTML; raises like `read_results`, or as runs may not be mixed.

    `data_dir` is where the prepared tasks are now, if not where the runs found them; without a budget no image is
    embedded; `reveal` shows texts and images of credentialed data.
    """
    runs = [read_run_source(path) for path in paths]
    data = {task: read_task_source(task, runs, data_dir, reveal=reveal) for task in tasks_of(runs)}
    return render_page(*make_document(runs, data, budget=budget, reveal=reveal))


def render_page(document: Mapping[str, object], images: Sequence[str]) -> str:
    """Return the report of a document and the images that it refers to, as `make_document` makes them.

    Nothing of them becomes markup: they are embedded as inert JSON, and the script shows them as text.
    """
    script = "\n".join(asset(f"report/{name}") for name in SCRIPTS)
    return render_html(
        "report.html", style=asset("report/report.css"), script=f'"use strict";\n(() => {{\n{script}\n}})();\n',
        images=True, document=inert_json(document), embedded=inert_json(list(images)),
    )  # fmt: skip


def inert_json(value: object) -> str:
    """Return JSON that no HTML parser reads as anything but text; a ValueError if a number is not finite."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def make_document(
    runs: Sequence[RunSource], data: Mapping[str, TaskSource], *, budget: ImageBudget | None, reveal: bool = False
) -> tuple[dict[str, Any], Sequence[str]]:
    """Return the document of a report and the images that it refers to, for `render_page`.

    The first run is compared with each other one; `data` are the prepared data of every task.
    """
    board = make_board([run.results for run in runs])
    shelves = Shelves()
    scores = {protocol: _scores(board, protocol) for protocol in PROTOCOLS}
    tasks = [_task(name, runs, data[name], scores, shelves) for name in tasks_of(runs)]
    uris, shown, broken = ([], {}, []) if budget is None else shelves.embed(budget)
    withheld = [name for name, source in data.items() if source.withheld]
    names = shelves.image_names
    document = {
        "schema": SCHEMA, "states": list(STATES), "protocols": list(PROTOCOLS),
        "writtenHeads": list(render.WRITTEN_HEADS), "metricTitles": render.METRIC_TITLES,
        "revealed": reveal and any(map(needs_agreement, data)), "notices": notices_of(board.runs),
        "runs": [_run(name, run, withheld) for name, run in zip(board.names, runs, strict=True)],
        "tasks": tasks,
        "pairs": [_pair(runs[0], run, place) for place, run in enumerate(runs) if place],
        "texts": shelves.texts,
        "pictures": {
            "names": names, "shown": [list(shown.get(number, ())) for number in range(len(names))], "broken": broken,
            "asked": budget is not None,
        },
    }  # fmt: skip
    return document, uris


def _run(name: str, run: RunSource, withheld: Sequence[str]) -> dict[str, Any]:
    results = run.results
    return {
        "name": name, "run": results.run, "suite": results.suite, "unsupported": list(results.unsupported),
        "trainedOn": list(results.model.trained_on), "missing": list(run.missing), "provenance": provenance(run),
        "timing": timing(run), "routing": routing(run), "audit": audit_findings(run, withheld),
        "audited": run.audit is not None,
    }  # fmt: skip


def _scores(board: Board, protocol: Protocol) -> dict[str, list[dict[str, Any]]]:
    """Return the numbers of a protocol by task."""
    found: dict[str, list[dict[str, Any]]] = {}
    for first, numbers in make_table(board, protocol).lines():
        row = {"metric": first.metric, "cells": [None if one is None else _cell(one) for one in numbers]}
        found.setdefault(first.task, []).append(row)
    return found


def _cell(number: Number) -> dict[str, Any]:
    return {
        "value": number.value, "interval": list(number.interval) if number.interval else None, "n": number.n,
        "beside": beside(number.answered, number.bounds),
        "amongAnswered": number.among_answered if render.is_partly_answered(number.answered) else None,
        "ceiling": number.ceiling, "method": number.method, "clusters": number.clusters, "signature": number.signature,
    }  # fmt: skip


def _task(
    name: str, runs: Sequence[RunSource], source: TaskSource, scores: Mapping[Protocol, Mapping[str, Any]],
    shelves: Shelves,
) -> dict[str, Any]:  # fmt: skip
    having = {place: run.results for place, run in enumerate(runs) if name in run.results.tasks}
    of_runs = [having[place].tasks[name] if place in having else None for place in range(len(runs))]
    first = next(task for task in of_runs if task is not None)
    columns = sample_columns(name, runs, source, shelves)
    return {
        "name": name, "title": first.title, "kind": first.kind, "withheld": source.withheld, "missing": source.missing,
        "open": all(terms_of(results, name).openness == "open" for results in having.values()),
        "scores": {protocol: scores[protocol].get(name, []) for protocol in PROTOCOLS},
        "leaked": [name in leaked_in(run.audit) for run in runs],
        "states": [None if task is None else dict(task.states) for task in of_runs],
        "written": [written_cells(task) if task and wrote(task) else None for task in of_runs],
        "primary": {protocol: primary_metric(first.kind, first.metrics(protocol)) for protocol in PROTOCOLS},
        "sampleMetrics": {protocol: metrics_shown(columns, protocol) for protocol in PROTOCOLS},
        **columns,
    }  # fmt: skip


def _pair(first: RunSource, second: RunSource, place: int) -> dict[str, Any]:
    shared = [name for name in tasks_of([first]) if name in first.tables and name in second.tables]
    ours, theirs = (
        Side(results=run.results, tables={name: run.tables[name] for name in shared}) for run in (first, second)
    )
    rows = {}
    for protocol in PROTOCOLS:
        shown = compare(ours, theirs, protocol).rows[[name for name in ROWS if name != "title"]]
        shown = shown.rename(columns={"difference": "value", "p_adjusted": "adjusted"}).astype(object)
        rows[protocol] = shown.where(shown.notna(), None).to_dict("records")
    return {"first": 0, "second": place, "rows": rows}
