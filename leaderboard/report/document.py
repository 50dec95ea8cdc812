"""`report.html`: all that it shows as one JSON value, in one file that runs its own script and no other.

Samples are columns; every text and every image is there once, and samples refer to them by number.
"""

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from medbench.leaderboard import render
from medbench.leaderboard.audit.document import wording
from medbench.leaderboard.compare import ROWS, ScoresByRun, compare, pairs_among, rank_runs
from medbench.leaderboard.numbers import Board, Number, lines_of, make_board, make_table
from medbench.leaderboard.report import sources
from medbench.leaderboard.report.sources import NO_ANSWER, RawAnswer, RunSource, TaskSource, tasks_of
from medbench.leaderboard.runs import leaked_in, notices_of, picked, primary_metric, terms_of
from medbench.leaderboard.samples import ScoreRecord
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import JsonObject
from medbench.tasks.foundation.printable import printable_values
from medbench.tasks.images import open_image, size_of_image
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.terms import needs_agreement

REPORT_FILE = "report.html"
SCHEMA = 1
SCRIPTS = (
    "dom.js", "tools.js", "data.js", "route.js", "plots.js", "overview.js", "summary.js", "filter.js", "list.js",
    "more.js", "sample.js", "samples.js", "compare.js", "facts.js", "main.js",
)  # fmt: skip
"""In the order in which they are joined: one scope, no modules, since a file opened from disk may import none."""
# What could end the element early.
_UNSAFE = re.compile("[<>&]")
MEGABYTE = 1_000_000
_CORPUS_METRICS = frozenset({"macro_f1"})  # whose value of a single sample says nothing
_SCORE_DIGITS = 4
_BOX_DIGITS = 1
_LONGEST_SIDE = 320
_TINY = 72
_QUALITY = 72
_PIECE = 4096
Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBudget:
    """How much may be embedded: characters of all data URIs together, and pixels to decode; None for any number."""

    size: int
    pixels: int | None = None


BY_COMMAND = ImageBudget(size=24 * MEGABYTE)
AT_THE_END_OF_A_RUN = ImageBudget(size=4 * MEGABYTE, pixels=100 * MEGABYTE)
"""Seconds at most; `medbench report` embeds more."""


@dataclass(slots=True)
class Shelves:
    """Where the texts and images of all tasks go, each once; which images are embedded is decided by `embed`."""

    texts: dict[str, int] = field(default_factory=dict)  # in the order in which they came
    _images: dict[tuple[Path, ImageRef], int] = field(default_factory=dict)
    _wanted: dict[str, list[int]] = field(default_factory=dict)

    @property
    def image_names(self) -> list[str]:
        """What the images are called in their datasets."""
        refs = [ref for _, ref in self._images]
        return [f"{ref.path}: {ref.member}[{ref.index}]" if ref.member else ref.path for ref in refs]

    def text(self, text: str | None) -> int:
        """Return the number of a text, -1 for None or an empty one."""
        return self.texts.setdefault(text, len(self.texts)) if text else -1

    def image(self, task: str, source: Path, ref: ImageRef) -> int:
        """Return the number of an image of a task's sample."""
        number = self._images.setdefault((source, ref), len(self._images))
        self._wanted.setdefault(task, []).append(number)
        return number

    def embed(self, budget: ImageBudget) -> tuple[list[str], dict[int, tuple[int, int, int]], list[int]]:
        """Return small copies of as many as fit, the first of every task before the second of any.

        They are data URIs, each once; by image its URI's place, width and height in pixels; and what was not readable.
        """
        keys = list(self._images)
        uris: dict[str, int] = {}
        shown: dict[int, tuple[int, int, int]] = {}
        broken: list[int] = []
        size = pixels = 0
        turns = zip_longest(*self._wanted.values())
        for number in dict.fromkeys(number for turn in turns for number in turn if number is not None):
            try:
                width, height = size_of_image(*keys[number])
                pixels += width * height
                if budget.pixels is not None and pixels > budget.pixels:
                    break
                uri = thumbnail(open_image(*keys[number]))
            except SampleError:
                broken.append(number)
                continue
            size += 0 if uri in uris else len(uri)
            if size > budget.size:
                break
            shown[number] = (uris.setdefault(uri, len(uris)), width, height)
        return list(uris), shown, broken


def thumbnail(image: Image.Image) -> str:
    """Return an RGB image, at most 320 pixels long, as a data URI: tiny ones as PNG, others as JPEG."""
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    tiny = max(small.size) <= _TINY
    small.save(stream, "PNG" if tiny else "JPEG", optimize=True, **({} if tiny else {"quality": _QUALITY}))
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"


def report_of(
    paths: Sequence[Path], data_dir: Path | None = None, *, budget: ImageBudget | None = BY_COMMAND,
    reveal: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Return the report of runs of the same data as HTML, piece by piece.

    Raises like `read_results`, or as runs may not be mixed, before the first piece.

    `data_dir` is where the prepared tasks are now; without a budget no image is embedded; `reveal` shows texts and
    images of credentialed data.
    """
    runs = [sources.read_run_source(path) for path in paths]
    data = {task: sources.read_task_source(task, runs, data_dir, reveal=reveal) for task in tasks_of(runs)}
    return render_page(*make_document(runs, data, budget=budget, reveal=reveal))


def render_page(document: Mapping[str, object], images: Sequence[str]) -> Iterator[str]:
    """Return a report, piece by piece.

    Nothing of the document and its images becomes markup: the script shows inert JSON as text.
    """
    script = "\n".join(render.asset(f"report/{name}") for name in SCRIPTS)
    return render.html_pieces(
        "report.html", style=render.asset("report/report.css"), script=f'"use strict";\n(() => {{\n{script}\n}})();\n',
        images=True, document=inert_json(document), embedded=inert_json(list(images)),
    )  # fmt: skip


def inert_json(value: object) -> Iterator[str]:
    """Yield JSON, long lists in pieces, that no HTML parser reads as anything but text, all of it printable.

    ValueError if a number is not finite.
    """
    if isinstance(value, dict):
        for place, (name, one) in enumerate(value.items()):
            yield f"{',' if place else '{'}{inert_text(name)}:"
            yield from inert_json(one)
        yield "}" if value else "{}"
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for place, one in enumerate(value):
            yield "," if place else "["
            yield from inert_json(one)
        yield "]"
    elif isinstance(value, list) and len(value) > _PIECE:
        for start in range(0, len(value), _PIECE):
            yield f"{',' if start else '['}{inert_text(value[start : start + _PIECE])[1:-1]}"
        yield "]"
    else:
        yield inert_text(value)


def inert_text(value: object) -> str:
    """Return JSON like `inert_json`, in one piece."""
    text = json.dumps(printable_values(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def make_document(
    runs: Sequence[RunSource], data: Mapping[str, TaskSource], *, budget: ImageBudget | None, reveal: bool = False
) -> tuple[dict[str, Any], Sequence[str]]:
    """Return a report's document and images; runs are compared with one another, `data` are by task."""
    tables = {run.results.run: run.tables for run in runs}
    leaks = {run.results.run: leaked_in(run.audit) for run in runs}
    board, shelves = make_board([run.results for run in runs], leaks, tables), Shelves()
    scores = {protocol: _scores(board, protocol) for protocol in PROTOCOLS}
    tasks = [_task(name, runs, data[name], scores, shelves) for name in tasks_of(runs)]
    uris, shown, broken = ([], {}, []) if budget is None else shelves.embed(budget)
    withheld = [name for name, source in data.items() if source.withheld]
    names = shelves.image_names
    ranks = {protocol: _ranks(board, tables, protocol) for protocol in PROTOCOLS} if len(runs) > 1 else {}
    document = {
        "schema": SCHEMA, "states": list(STATES), "protocols": list(PROTOCOLS),
        "writtenHeads": list(render.WRITTEN_HEADS), "metricTitles": render.METRIC_TITLES,
        "revealed": reveal and any(map(needs_agreement, data)), "notices": notices_of(board.runs, board.names),
        "runs": [_run(name, run, withheld) for name, run in zip(board.names, runs, strict=True)],
        "tasks": tasks,
        "pairs": [_pair(runs, *places) for places in pairs_among(_best_first(len(runs), ranks))], "ranks": ranks,
        "texts": list(shelves.texts), "glossary": wording("glossary"),
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
        "trainedOn": list(results.model.trained_on), "missing": list(run.missing),
        "provenance": sources.provenance(run), "timing": sources.timing(run),
        "routing": sources.routing(run.environment),
        "audit": sources.audit_findings(run, withheld), "audited": run.audit is not None,
        "leak": sources.audit_verdict(run),
    }  # fmt: skip


def _scores(board: Board, protocol: Protocol) -> dict[str, list[JsonObject]]:
    found: dict[str, list[JsonObject]] = {}
    for line in lines_of(make_table(board, protocol), ("task", "metric"), _cell):
        found.setdefault(line.pop("task"), []).append(line)
    return found


def _cell(number: Number) -> JsonObject:
    partly = render.is_partly_answered(number.answered)
    return {
        "value": number.value, "interval": list(number.interval) if number.interval else None, "n": number.n,
        "beside": render.beside(number.answered, number.bounds),
        "amongAnswered": number.among_answered if partly else None,
        **picked(number, ("ceiling", "method", "clusters", "signature", "standing")),
    }  # fmt: skip


def _task(
    name: str, runs: Sequence[RunSource], source: TaskSource, scores: Mapping[Protocol, Mapping[str, Any]],
    shelves: Shelves,
) -> dict[str, Any]:  # fmt: skip
    of_runs = [run.results.tasks.get(name) for run in runs]
    first = next(task for task in of_runs if task is not None)
    columns = sample_columns(name, runs, source, shelves)
    answered = [answers for answers in columns["answers"] if answers]
    return {
        "name": name, "title": first.title, "kind": first.kind, "withheld": source.withheld, "missing": source.missing,
        "open": all(terms_of(run.results, name).openness == "open" for run in runs if name in run.results.tasks),
        "scores": {protocol: scores[protocol].get(name, []) for protocol in PROTOCOLS},
        "leaked": [name in leaked_in(run.audit) for run in runs],
        "states": [None if task is None else dict(task.states) for task in of_runs],
        "written": [render.written_cells(task) if task and render.wrote(task) else None for task in of_runs],
        "primary": {protocol: primary_metric(first.kind, first.metrics(protocol)) for protocol in PROTOCOLS},
        # Metrics that samples have a score of, in order.
        "sampleMetrics": {
            protocol: list(dict.fromkeys(metric for answers in answered for metric in answers[protocol]))
            for protocol in PROTOCOLS
        },
        **columns,
    }  # fmt: skip


def _ranks(board: Board, tables: ScoresByRun, protocol: Protocol) -> dict[str, Any]:
    ranking = rank_runs(board.runs, tables, board.names, protocol, board.leaks)
    return {
        "overall": [rank and list(rank) for rank in ranking.overall], "unranked": list(ranking.unranked),
        "leftOut": dict(ranking.left_out),
    }  # fmt: skip


def _best_first(count: int, ranks: Mapping[Protocol, Mapping[str, Any]]) -> list[int]:
    """Return the places of the runs by their mean rank, those without one last."""
    overall = next(iter(ranks.values()))["overall"] if ranks else []
    mean = [rank[0] if rank else math.inf for rank in overall]
    return sorted(range(count), key=lambda place: mean[place] if place < len(mean) else math.inf)


def _pair(runs: Sequence[RunSource], one: int, other: int) -> dict[str, Any]:
    """Return the comparison of two runs; that of others than the first, of which there are many, by primary metrics."""
    rows = {}
    for protocol in PROTOCOLS:
        found = compare(runs[one], runs[other], protocol, primary_only=one > 0)
        shown = found.rows[[name for name in ROWS if name != "title"]]
        shown = shown.rename(columns={"difference": "value", "p_adjusted": "adjusted"}).astype(object)
        rows[protocol] = shown.where(shown.notna(), None).to_dict("records")
    return {"first": one, "second": other, "rows": rows}


def sample_columns(task: str, runs: Sequence[RunSource], source: TaskSource, shelves: Shelves) -> Columns:
    """Return the columns of a task's samples, in the order of the first run's; ids, states and scores if withheld.

    Texts and images are numbers, states numbers into `STATES`; -1 stands for nothing.
    """
    by_run = [run.tables[task].by_id if task in run.tables else None for run in runs]
    ids = list(dict.fromkeys(sample_id for records in by_run for sample_id in records or ()))
    answers = [
        None if records is None else _answers(ids, records, run.generations.get(task, {}), source, shelves)
        for run, records in zip(runs, by_run, strict=True)
    ]
    columns: Columns = {"ids": ids, "answers": answers}
    if source.withheld:
        return columns
    anywhere = [next(records[sample_id] for records in by_run if records and sample_id in records) for sample_id in ids]
    return columns | {"labels": _labels(anywhere)} | _asked(task, ids, source, shelves)


def _answers(
    ids: Sequence[str], records: Mapping[str, ScoreRecord], generations: Mapping[str, RawAnswer], source: TaskSource,
    shelves: Shelves,
) -> Columns:  # fmt: skip
    found = [records.get(sample_id) for sample_id in ids]
    columns: Columns = {"state": [STATES.index(record.state) if record else -1 for record in found]}
    columns |= {protocol: _sample_scores(found, protocol) for protocol in PROTOCOLS}
    if source.withheld:
        return columns
    both = [(record, generations.get(sample_id, NO_ANSWER)) for record, sample_id in zip(found, ids, strict=True)]
    failed = [said.error or (record.error if record else "") for record, said in both]
    # Why a sample failed is told without the way to the data on the machine that ran it.
    folder = None if source.folder is None else f"{source.folder}/"
    return columns | {
        "text": [shelves.text(record.prediction if record else None) for record in found],
        "raw": [
            shelves.text(said.text if one and said.text.strip() != one.prediction.strip() else None)
            for one, said in both
        ],
        "error": [shelves.text(error if folder is None else error.replace(folder, "")) for error in failed],
        "stop": [shelves.text(said.stop) for _, said in both],
        "tokens": [said.tokens for _, said in both],
        "box": _boxes(record.box if record else None for record in found),
    }


def _sample_scores(records: Sequence[ScoreRecord | None], protocol: Protocol) -> dict[str, list[float | None]]:
    rows = [record.scores(protocol) if record else {} for record in records]
    metrics = dict.fromkeys(metric for row in rows for metric in row if metric not in _CORPUS_METRICS)
    return {
        metric: [_rounded(one.value, _SCORE_DIGITS) if (one := row.get(metric)) else None for row in rows]
        for metric in metrics
    }


def _rounded(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    rounded = round(value, digits)
    return int(rounded) if rounded == int(rounded) else rounded


def _boxes(boxes: Iterable[Sequence[float] | None]) -> list[list[float | None] | int]:
    """Return the boxes, 0 where there is none; an empty list if there are none at all."""
    column = [0 if box is None else [_rounded(edge, _BOX_DIGITS) for edge in box] for box in boxes]
    return column if any(column) else []


def _labels(records: Sequence[ScoreRecord]) -> list[Columns]:
    columns = []
    for key in dict.fromkeys(key for record in records for key in record.labels):
        values = sorted({record.labels[key] for record in records if key in record.labels})
        of = [values.index(record.labels[key]) if key in record.labels else -1 for record in records]
        title = render.WORDING["label_titles"].get(key, key.replace("_", " "))
        columns.append({"key": key, "title": title, "values": values, "of": of})
    return columns


def _asked(task: str, ids: Sequence[str], source: TaskSource, shelves: Shelves) -> Columns:
    folder, text = source.folder, shelves.text
    if folder is None:
        return {}
    samples = [source.samples.get(sample_id) for sample_id in ids]
    return {
        "prompt": [text(_prompt(sample, source.spec)) for sample in samples],
        "reference": [text(sample.reference if sample else None) for sample in samples],
        "choices": [text(_choices(sample.choices) if sample else None) for sample in samples],
        "images": [[shelves.image(task, folder, ref) for ref in sample.images] if sample else [] for sample in samples],
        "rightBox": _boxes(sample.box if sample else None for sample in samples),
        "size": [list(sample.image_size) if sample and sample.image_size else 0 for sample in samples],
    }


def _prompt(sample: Sample | None, spec: TaskSpec | None) -> str | None:
    if sample is None or spec is None:
        return None
    try:
        return spec.instruction(sample, box=render.box_text(sample.box) if sample.box else "")
    except DataError:
        return None


def _choices(choices: Mapping[str, str]) -> str:
    return "\n".join(key if key == text else f"{key}. {text}" for key, text in choices.items())
