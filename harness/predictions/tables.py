"""Predictions as a table with columns of any names: CSV, TSV, JSON, JSON lines, Parquet."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medbench.harness.predictions.rows import FIELDS, FORM, Prediction, Source, predictions_of
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.foundation.files import json_value, table_rows
from medbench.tasks.foundation.printable import printable
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import read_bytes, read_text_bytes

Row = tuple[str, Mapping[str, Any]]
"""The place of a row, for messages, and its cells by column."""
# What others call our columns; of several in a table the first counts.
_NAMES: Mapping[str, Sequence[str]] = {
    "prediction": (
        "predicted", "pred", "response", "model_answer", "model_output", "model_response", "model_prediction", "output",
        "generated_answer", "generated_text", "generated", "generation", "completion", "hypothesis", "hyp",
        "predicted_answer", "answer_pred", "pred_answer", "predicted_box", "pred_box", "pred_bbox", "text", "answer",
    ),
    "reference": (
        "ref", "ground_truth", "groundtruth", "gt", "gt_answer", "answer_gt", "gold", "gold_answer", "target",
        "correct_answer", "reference_answer", "correct", "expected", "label", "answer",
    ),
    "sample_id": ("id", "question_id", "qid", "uid", "index", "idx"),
    "question": ("prompt", "query", "input", "object"),
    "image": ("image_name", "img_name", "image_path", "image_id", "img_path", "image_file", "filename", "img"),
    "group": ("patient", "patient_id", "subject_id", "study_id", "case"),
    "choices": ("options",),
    "box": ("bbox", "gt_box", "gt_bbox", "reference_box"),
}  # fmt: skip
_COMMON = frozenset(name for field in FIELDS for name in (field, *_NAMES.get(field, ())))
_OF_VALUES = frozenset({"box", "image_size", "choices"})
_MOST_COLUMNS, _LONGEST = 30, 40


def read_table(source: Source, spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the predictions of a table.

    Raises DataError that names a broken row and its column, never a value; UsageError for columns that it lacks.
    """
    return predictions_of(read_rows(source), spec)


def read_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a table with our names of its columns, and what a second table has of their right answers."""
    columns = dict(source.columns)
    if wrong := [name for name in columns if name not in FIELDS]:
        raise unknown_name("column of ours", wrong[0], FIELDS)
    if source.references is None:
        yield from _named_rows(source.path, columns, "prediction")
        return
    second = {"reference": columns.pop("reference")} if "reference" in columns else {}
    rows = _named_rows(source.references, second, "reference")
    right = {str(row["sample_id"]): row for _, row in rows if row.get("sample_id") not in {None, ""}}
    for where, row in _named_rows(source.path, columns, "prediction"):
        other = right.get(str(row.get("sample_id", "")))
        if other is None:
            problem = f"{where} has no sample_id that {source.references} has, too, by which right answers are found."
            raise DataError(problem, "Both need such a column: --column sample_id=NAME, or commonly id, question_id.")
        yield where, {**other, **row, "reference": other["reference"]}


def _named_rows(path: Path, columns: Mapping[str, str], needed: str) -> Iterator[Row]:
    rows = list(_rows_of(path, columns))
    if not rows:
        return
    names = _matched(path, list(dict.fromkeys(name for _, row in rows for name in row)), columns, needed)
    if guessed := [f"{ours}={theirs}" for ours, theirs in names.items() if theirs not in {ours, columns.get(ours)}]:
        say(f"{path.name}: read with --column {' --column '.join(map(_shown, guessed))}")
    for where, row in rows:
        yield where, {ours: _value(ours, row[theirs]) for ours, theirs in names.items() if theirs in row}


def _matched(path: Path, there: Sequence[str], said: Mapping[str, str], needed: str) -> dict[str, str]:
    """Return their column of each of ours."""
    listed = ", ".join(map(_shown, there[:_MOST_COLUMNS])) or "none"
    for ours, theirs in said.items():
        if theirs not in there:
            guess = guessed_columns(there).get(ours)
            better = f" Did you mean --column {ours}={_shown(guess)}?" if guess else ""
            raise UsageError(f"{path} has no column {theirs!r}.", f"It has: {listed}.{better}")
    names = guessed_columns(there, said)
    if needed not in names:
        way_out = f"It has: {listed}. Say which it is: --column {needed}=NAME. {FORM}"
        raise DataError(f"No column of {path} has a name that is common for a {needed}.", way_out)
    return names


def guessed_columns(there: Sequence[str], said: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return their column of each of ours: what is `said`, our own names, and those that are common."""
    plain = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in reversed(there)}
    names = {**{field: field for field in FIELDS if field in there}, **said}
    for ours in (field for field in FIELDS if field not in names):
        found = (plain[name] for name in (ours, *_NAMES.get(ours, ())) if name in plain)
        theirs = next((name for name in found if name not in names.values()), None)
        if theirs is not None:
            names[ours] = theirs
    return names


def _shown(name: str) -> str:
    return printable(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...")


def _value(ours: str, cell: object) -> object:
    """Return a cell; one of a CSV that holds a box, a size or choices is read as JSON, with or without brackets."""
    if ours not in _OF_VALUES or not isinstance(cell, str):
        return cell
    text = cell.strip()
    try:
        return json_value(text if text.startswith(("[", "{")) else f"[{text}]") if text else None
    except ValueError:
        return cell


def _rows_of(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    data = read_bytes(path)
    if data.startswith(b"PAR1"):
        return _parquet_rows(path, columns)
    text = read_text_bytes(path)
    if text.lstrip().startswith((b"[", b"{")) or path.suffix == ".jsonl":
        return _json_rows(path, text)
    return _csv_rows(path, data, _COMMON.union(name.strip().lower() for name in columns.values()))


def _csv_rows(path: Path, data: bytes, known: frozenset[str]) -> Iterator[Row]:
    rows = table_rows(data, str(path), lambda row: any(cell.strip().lower() in known for cell in row))
    _, header = next(rows, (0, []))
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f"{path} has two columns {_shown(twice[0])!r}.", "Give each a name of its own.")
    for number, row in rows:
        if len(row) > len(header):
            problem = f"{path}, line {number} has {len(row)} cells, and the header {len(header)}."
            raise DataError(problem, "Put texts with commas or line breaks in quotes.")
        yield f"{path}, line {number}", dict(zip(header, row, strict=False))


def _json_rows(path: Path, text: bytes) -> Iterator[Row]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    whole = None
    with suppress(ValueError):
        whole = None if path.suffix == ".jsonl" else json_value(text)
    if isinstance(whole, list) or (isinstance(whole, dict) and (len(lines) > 1 or _lists_in(whole))):
        found = whole if isinstance(whole, list) else _only_list(path, whole)
        entries: Iterable[tuple[str, object]] = ((f"{path}, entry {place}", one) for place, one in enumerate(found))
    else:
        entries = ((f"{path}, line {number}", _line(path, number, line)) for number, line in lines)
    for where, row in entries:
        if not isinstance(row, dict):
            raise DataError(f"{where} is a JSON {type(row).__name__}, not an object.", FORM)
        yield where, row


def _line(path: Path, number: int, line: bytes) -> object:
    try:
        return json_value(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}.", FORM) from error


def _lists_in(document: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, one in document.items()
        if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)
    ]


def _only_list(path: Path, document: Mapping[str, Any]) -> list[object]:
    names = _lists_in(document)
    if len(names) != 1:
        there = f" It has several: {', '.join(map(_shown, names))}." if names else ""
        raise DataError(f"{path} is no list of objects, and has not one under a name.{there}", FORM)
    rows: list[object] = document[names[0]]
    return rows


def _parquet_rows(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        way_out = "Install it: pip install 'medbench[parquet]'. Or save the table as CSV."
        raise UsageError(f"{path} is a Parquet file, which needs the package pyarrow.", way_out) from error
    try:
        there = parquet.read_schema(path).names
        # Pictures, which many tables hold, stay where they are.
        wanted = {*guessed_columns(there, {ours: name for ours, name in columns.items() if name in there}).values()}
        rows = parquet.read_table(path, columns=[name for name in there if name in wanted]).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no readable Parquet file: {' '.join(str(error).split())[:200]}", FORM) from error
    empty = dict.fromkeys(there)
    for number, row in enumerate(rows):
        yield f"{path}, row {number}", {**empty, **row}
