"""Predictions of other people, as the tests of their readers write and read them."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from native_data import write_json

from medbench.harness.predictions.formats import TABLE, read_predictions
from medbench.harness.predictions.rows import Prediction, Source
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.spec import Kind, TaskSpec

TASK_OF_KIND: Mapping[Kind, str] = {
    "qa": "pubmedqa",
    "vqa": "slake-vqa",
    "report": "mimic-cxr",
    "rec": "slake-rec",
    "reg": "slake-reg",
    "cls": "dermamnist",
}
SECRET = "Mrs Doe has a mass"


def task(kind: Kind) -> TaskSpec:
    return get_task(TASK_OF_KIND[kind])


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_table(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def read(path: Path, form: str, spec: TaskSpec, references: Path | None = None) -> tuple[Prediction, ...]:
    return read_predictions(Source(path=path, form=form, references=references), spec)


def read_lines(folder: Path, *rows: object, kind: Kind = "vqa") -> tuple[Prediction, ...]:
    return read(write_lines(folder / "p.jsonl", *rows), TABLE, task(kind))


def read_list(folder: Path, format_name: str, name: str, *rows: object) -> tuple[Prediction, ...]:
    return read(write_json(folder / "results.json", list(rows)), format_name, get_task(name))


def refusal(folder: Path, *rows: object, kind: Kind = "vqa") -> DataError:
    with pytest.raises(DataError) as caught:
        read_lines(folder, *rows, kind=kind)
    assert SECRET not in str(caught.value)
    return caught.value
