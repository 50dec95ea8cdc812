"""Where the answers of an audit come from: runs beside their prepared data, files of predictions, rows in memory.

A file of predictions is in any format of `harness/predictions/formats.md`; by itself a table with these columns, or as
others commonly call them::

    {"sample_id": "s1", "group": "p10", "prediction": "No acute findings.", "reference": "No acute findings."}
    {"sample_id": "s2", "group": "p10", "prediction": null, "reference": "Small left effusion."}

`prediction` is what the model said; null, NaN and an empty text mean that it said nothing. `reference` is the right
answer, whole. `group` is the case (patient, study, image); an item without one is a case of its own. `sample_id` occurs
once; an item without one is known by its line. `question` and `choices` may say what was asked. A file of training
references has `{"reference": "..."}` or a plain JSON text a line.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from medbench.harness.predictions.formats import rows_of
from medbench.harness.predictions.rows import Source, parse_lines
from medbench.harness.results import Results, read_results
from medbench.harness.settings import Settings, load_settings
from medbench.harness.workload import TaskLoad, load_workload
from medbench.leaderboard.audit.outputs.cells import Answered, Cell, long_texts, make_cell
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.answers.thoughts import final_answer
from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.spec import Kind
from medbench.tasks.validation import NativeRow, parse_value

Predictions = Path | Source | Iterable[Mapping[str, Any]]
"""A file of predictions, or its rows."""
_CLOSED_KINDS: frozenset[Kind] = frozenset({"rec", "cls"})
"""Boxes, and classes from a list."""
_FREE_TEXT: frozenset[Kind] = frozenset({"qa", "vqa", "report"})
_FORM = (
    'Expected: one JSON object a line with "sample_id", "group", "prediction" (text or null) and "reference" (text).'
)
_TRAIN_FORM = 'Expected: one JSON object a line with "reference" (text), or one JSON text a line.'


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What a task's prepared data hold for an audit."""

    load: TaskLoad  # its test split
    # training references of all tasks at hand, and what else the user knows of; None where none are known of this task.
    # `train_references` are the long ones, normalised.
    train_texts: Sequence[str] | None
    train_references: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A model's answers by task."""

    name: str  # title of the model, or the name of the file
    run: str  # identity of the run; of a file a part of its digest
    cells: Mapping[str, Cell]  # the answers, of the tasks that could be read
    problems: Mapping[str, str] = field(default_factory=dict)  # why the other tasks could not be checked
    notes: Sequence[str] = ()  # what must be said beside a verdict on them

    @property
    def identity(self) -> str:
        """The identity of the run; empty for a file."""
        return self.run if any(cell.table is not None for cell in self.cells.values()) else ""


def read_run_answers(path: Path, data: Mapping[str, TaskData | str]) -> Answers:
    """Read a finished run's answers beside its references: by task the prepared data, or why there are none.

    Raises RunError if the folder is no finished run; DataError if its results are malformed.
    """
    results = read_results(path)
    cells: dict[str, Cell] = {}
    problems: dict[str, str] = {}
    for task in results.tasks:
        found = data.get(task, "Its data were not read.")
        try:
            if isinstance(found, str):
                problems[task] = found
            else:
                cells[task] = _cell(read_score_table(path, results, task), found)
        except MedbenchError as error:
            # Reports name no folder of this machine.
            problems[task] = error.problem.replace(f"{path}/", "").replace(str(path), "the folder")
    return Answers(name=results.title, run=results.run, cells=cells, problems=problems, notes=results.notices)


def _cell(table: ScoreTable, data: TaskData) -> Cell:
    spec, samples = data.load.spec, {sample.sample_id: sample for sample in data.load.samples}
    found: dict[str, Answered] = {}
    for record in table.records:
        sample = samples.get(record.sample_id)
        if sample is None or record.sample_id in found:
            what = "is no sample of the prepared data" if sample is None else "was scored twice"
            raise DataError(f"A sample {what}: {record.sample_id!r}.", "Score the run again: medbench score RUN")
        found[record.sample_id] = Answered(
            sample_id=record.sample_id, group=record.group,
            prediction=None if record.state in {"error", "empty"} else record.prediction, reference=sample.reference,
            question=" ".join(sample.inputs.values()), closed=bool(sample.choices) or spec.kind in _CLOSED_KINDS,
            truncated=record.state == "truncated",
        )  # fmt: skip
    split = [(one.reference, one.groups.get(spec.group_key, one.sample_id)) for one in data.load.samples]
    cell = make_cell(found.values(), train_references=data.train_references, whole_split=split)
    return replace(cell, train_texts=data.train_texts, table=table)


def read_task_data(
    path: Path, results: Results, data_dir: Path | None, more_references: Sequence[str] = ()
) -> dict[str, TaskData | str]:
    """Return the prepared data that a run answered by task, or why they could not be read.

    `data_dir` is where the prepared data are now, if not where the run found them.
    """
    settings = load_settings(path / "run.yaml", {"data_dir": data_dir})
    found = {task: _load(settings, results, task) for task in results.tasks}
    own = [one.train_texts or () for one in found.values() if isinstance(one, TaskData)]
    texts = tuple(chain(*own, more_references))
    known = long_texts(texts)
    for task, one in found.items():
        if isinstance(one, TaskData) and (one.train_texts or more_references):
            found[task] = replace(one, train_texts=texts, train_references=known)
    return found


def _load(settings: Settings, results: Results, task: str) -> TaskData | str:
    """Return a task's data with its own training references, where its answers are free text."""
    try:
        (load,) = load_workload(replace(settings, tasks=(task,), limit=None)).loads
        if load.prepared.manifest.data_fingerprint != results.tasks[task].data:
            return "The prepared data are not those that the run answered."
        train = load.prepared.samples("train") if load.spec.kind in _FREE_TEXT else ()
    except MedbenchError as error:
        return error.problem
    return TaskData(load=load, train_texts=[sample.reference for sample in train] or None)


def refuse_unequal(task: str, ours: Cell, theirs: Cell, name: str) -> None:
    """Refuse to set a model beside one that answered other items.

    Raises UsageError with how many items only one of the two has, and the first of them.
    """
    mine, others = ({item.sample_id: item.group for item in cell.items} for cell in (ours, theirs))
    apart = sorted(mine.keys() ^ others.keys())
    if apart:
        raise UsageError(
            f"The peer {name} has other items of {task}: {len(mine.keys() - others.keys())} are missing, "
            f"{len(others.keys() - mine.keys())} are too many; the first is {apart[0]!r}.",
            "Give peers that answered the same items: the same data, and the same --limit.",
        )
    if mine != others:
        raise UsageError(
            f"The peer {name} puts the items of {task} into other cases.", "Give peers that answered the same data."
        )


def _text_or_none(value: object) -> object:
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str | None, BeforeValidator(_text_or_none)]
"""A text; a number stands for its digits, NaN for nothing."""


class _Row(NativeRow):
    sample_id: Text = None
    group: Text = None
    prediction: Text = None
    reference: Text = None
    question: Text = None
    choices: Any = None


class _TrainRow(NativeRow):
    reference: Text


_ROW: TypeAdapter[_Row] = TypeAdapter(_Row)
_TRAIN_ROW: TypeAdapter[_TrainRow | str] = TypeAdapter(_TrainRow | str)


def read_predictions(given: Predictions, kind: Kind, *, name: str, train: Iterable[str] | None) -> Answers:
    """Read predictions as the answers to one task, named after its kind.

    Answers of closed kinds prove nothing; `train` is None if no training references are known. Raises DataError if the
    file cannot be read, a line has another form, an id occurs twice, or no line at all has a prediction or a reference;
    messages name lines and fields, never values.
    """
    file = given.path if isinstance(given, Source) else given if isinstance(given, Path) else None
    items: list[Answered] = []
    seen: dict[str, str] = {}
    fields: set[str] = set()
    without = 0
    for where, row in _rows(given, kind, name):
        fields |= row.model_fields_set
        sample_id = row.sample_id or where.rpartition(", ")[2]
        if seen.setdefault(sample_id, where) != where:
            raise DataError(f"{where} has the sample_id of {seen[sample_id]}.", "Keep one of the two lines.")
        without += not row.group
        items.append(
            Answered(
                sample_id=sample_id, group=row.group or f"item {sample_id}",
                # What a model thought of a case is no copy of its reference; what it answers may be one.
                prediction=None if row.prediction is None else final_answer(row.prediction), reference=row.reference,
                question=row.question or "", closed=bool(row.choices) or kind in _CLOSED_KINDS,
            )
        )  # fmt: skip
    absent = [field for field in ("prediction", "reference") if field not in fields]
    if absent:
        raise DataError(f"No line of {file or name} has the field {absent[0]}.", _FORM)
    texts = None if train is None else list(train)
    cell = replace(make_cell(items, train_references=None if texts is None else long_texts(texts)), train_texts=texts)
    notes = [f"{without} of {len(items)} items have no group and count as a case each."] if without else []
    run = file_sha256(file)[:12] if file else ""
    return Answers(name=name, run=run, cells={kind: cell}, notes=notes)


def _rows(given: Predictions, kind: Kind, name: str) -> Iterator[tuple[str, _Row]]:
    source = Source(path=given) if isinstance(given, Path) else given
    if isinstance(source, Source):
        # Of the formats only the kind of the task decides how a file is read.
        rows = rows_of(source, next(spec for spec in map(get_task, task_names()) if spec.kind == kind))
    else:
        rows = ((f"{name}, line {number}", row) for number, row in enumerate(source, start=1))
    for where, row in rows:
        try:
            yield where, parse_value(_ROW, dict(row), where)
        except DataError as error:
            raise DataError(error.problem, _FORM) from error


def read_train_references(path: Path) -> list[str]:
    """Read training references; raises DataError like `read_predictions`."""
    rows = (row for _, row in parse_lines(path, _TRAIN_ROW, _TRAIN_FORM))
    texts = (row if isinstance(row, str) else row.reference for row in rows)
    return [text for text in texts if text is not None]
