"""The samples of a task as columns: what was asked, what is right, what each run said and scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medbench.leaderboard.report.pictures import Pictures
from medbench.leaderboard.report.sources import RunSource, Said, TaskSource
from medbench.leaderboard.report.text_table import TextTable
from medbench.leaderboard.score_table import ScoreRecord
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

CORPUS_METRICS = frozenset({"macro_f1"})
"""Whose value of a single sample says nothing."""
_SCORE_DIGITS = 4
_BOX_DIGITS = 1
_NOTHING = Said(text="", stop="", tokens=0, error="")

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelves:
    """Where the texts and images of all tasks go."""

    texts: TextTable
    pictures: Pictures


def sample_columns(task: str, runs: Sequence[RunSource], source: TaskSource, shelves: Shelves) -> Columns:
    """Return the columns of a task's samples, in the order of the first run's.

    Texts and images are numbers into `shelves`, states numbers into `STATES`; -1 stands for nothing. Of a task that is
    withheld only ids, states and scores remain.
    """
    tables = [run.tables.get(task) for run in runs]
    by_run = [{record.sample_id: record for record in table.records} if table else {} for table in tables]
    ids = list(dict.fromkeys(sample_id for records in by_run for sample_id in records))
    columns: Columns = {
        "ids": ids,
        "answers": [
            _answers(ids, records, {} if source.withheld else run.generations.get(task, {}), source, shelves.texts)
            if table
            else None
            for run, records, table in zip(runs, by_run, tables, strict=True)
        ],
    }
    if source.withheld:
        return columns
    anywhere = [next(records[sample_id] for records in by_run if sample_id in records) for sample_id in ids]
    return columns | {"labels": _labels(anywhere)} | _asked(task, ids, source, shelves)


def _answers(
    ids: Sequence[str],
    records: Mapping[str, ScoreRecord],
    generations: Mapping[str, Said],
    source: TaskSource,
    texts: TextTable,
) -> Columns:
    found = [records.get(sample_id) for sample_id in ids]
    scores: Columns = {
        str(protocol): _score_columns([record.scores(protocol) if record else {} for record in found])
        for protocol in PROTOCOLS
    }
    columns = {"state": [STATES.index(record.state) if record else -1 for record in found]} | scores
    if source.withheld:
        return columns
    said = [generations.get(sample_id, _NOTHING) for sample_id in ids]
    return columns | {
        "text": [texts.place(record.prediction if record else None) for record in found],
        "raw": [texts.place(_raw(record, one)) for record, one in zip(found, said, strict=True)],
        "error": [
            texts.place(_without_folder(one.error or (record.error if record else ""), source))
            for record, one in zip(found, said, strict=True)
        ],
        "stop": [texts.place(one.stop) for one in said],
        "tokens": [one.tokens for one in said],
        "box": _boxes(record.box if record else None for record in found),
    }


def _without_folder(error: str, source: TaskSource) -> str:
    """Return why a sample failed without the way to the data on the machine that ran it."""
    return error if source.folder is None else error.replace(f"{source.folder}/", "")


def _raw(record: ScoreRecord | None, said: Said) -> str | None:
    return None if record is None or said.text.strip() == record.prediction.strip() else said.text


def _score_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    metrics = dict.fromkeys(metric for row in rows for metric in row if metric not in CORPUS_METRICS)
    return {
        metric: [None if (one := row.get(metric)) is None else _rounded(one.value, _SCORE_DIGITS) for row in rows]
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
        places = {value: place for place, value in enumerate(values)}
        of = [places.get(record.labels.get(key, ""), -1) if key in record.labels else -1 for record in records]
        columns.append({"key": key, "values": values, "of": of})
    return columns


def _asked(task: str, ids: Sequence[str], source: TaskSource, shelves: Shelves) -> Columns:
    if source.folder is None:
        return {}
    samples = [source.samples.get(sample_id) for sample_id in ids]
    texts, pictures, folder = shelves.texts, shelves.pictures, source.folder
    return {
        "prompt": [texts.place(_prompt(sample, source.spec)) for sample in samples],
        "reference": [texts.place(sample.reference if sample else None) for sample in samples],
        "choices": [texts.place(_choices(sample)) for sample in samples],
        "images": [
            [pictures.place(task, folder, ref) for ref in sample.images] if sample else [] for sample in samples
        ],
        "rightBox": _boxes(sample.box if sample else None for sample in samples),
        "size": [list(sample.image_size) if sample and sample.image_size else 0 for sample in samples],
    }


def _prompt(sample: Sample | None, spec: TaskSpec | None) -> str | None:
    if sample is None or spec is None:
        return None
    box = f"[{', '.join(f'{edge:g}' for edge in sample.box)}]" if sample.box else ""
    try:
        return spec.instruction(sample, box=box)
    except DataError:
        return None


def _choices(sample: Sample | None) -> str | None:
    if sample is None or not sample.choices:
        return None
    return "\n".join(key if key == text else f"{key}. {text}" for key, text in sample.choices.items())


def metrics_shown(columns: Columns, protocol: Protocol) -> list[str]:
    """Return the metrics that samples have a score of under a protocol, in order."""
    answered = [answers for answers in columns["answers"] if answers]
    return list(dict.fromkeys(metric for answers in answered for metric in answers[protocol]))
