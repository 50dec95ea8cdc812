"""Anybody's predictions as a cell to audit: one JSON object a line.

Blank lines and unknown fields are ignored::

    {"sample_id": "s1", "group": "p10", "prediction": "No acute findings.", "reference": "No acute findings."}
    {"sample_id": "s2", "group": "p10", "prediction": null, "reference": "Small left effusion."}

`prediction` is what the model said; null, NaN and an empty text mean that it said nothing. `reference` is the right
answer, whole. `group` is the case (patient, study, image); an item without one is a case of its own. `sample_id` occurs
once; an item without one is known by its line. `question` and `choices` may say what was asked. A file of training
references has `{"reference": "..."}` or a plain JSON text a line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from medbench.harness.predictions.json_lines import parse_lines
from medbench.leaderboard.audit.items import Answered
from medbench.leaderboard.audit.run_cells import CLOSED_KINDS
from medbench.tasks.answers.thoughts import final_answer
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.spec import Kind
from medbench.tasks.validation import NativeRow

_FORM = (
    'Expected: one JSON object a line with "sample_id", "group", "prediction" (text or null) and "reference" (text).'
)
_TRAIN_FORM = 'Expected: one JSON object a line with "reference" (text), or one JSON text a line.'


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionsFile:
    """What a file holds.

    Attributes:
        items: The answers.
        notes: What must be said beside a verdict on them.
    """

    items: Sequence[Answered]
    notes: Sequence[str]


def read_predictions(path: Path, kind: Kind) -> PredictionsFile:
    """Read a file of predictions.

    Args:
        path: A JSON-lines file.
        kind: What was asked; answers of closed kinds prove nothing.

    Raises:
        DataError: If the file cannot be read, a line has another form, an id occurs twice, or no line at all has a
            prediction or a reference; messages name lines and fields, never values.
    """
    items: list[Answered] = []
    seen: dict[str, str] = {}
    given: set[str] = set()
    grouped = 0
    for where, row in parse_lines(path, _ROW, _FORM):
        given |= row.model_fields_set
        sample_id = row.sample_id or where.rpartition(", ")[2]
        if seen.setdefault(sample_id, where) != where:
            raise DataError(f"{where} has the sample_id of {seen[sample_id]}.", "Keep one of the two lines.")
        grouped += bool(row.group)
        items.append(
            Answered(
                sample_id=sample_id,
                group=row.group or f"item {sample_id}",
                # What a model thought of a case is no copy of its reference; what it answers may be one.
                prediction=None if row.prediction is None else final_answer(row.prediction),
                reference=row.reference,
                question=row.question or "",
                closed=bool(row.choices) or kind in CLOSED_KINDS,
            )
        )
    _refuse_absent(path, given)
    without = len(items) - grouped
    note = f"{without} of {len(items)} items have no group and count as a case each."
    return PredictionsFile(items=items, notes=[note] if without else [])


def _refuse_absent(path: Path, given: set[str]) -> None:
    absent = [name for name in ("prediction", "reference") if name not in given]
    if absent:
        raise DataError(f"No line of {path} has the field {absent[0]}.", _FORM)


def read_train_references(path: Path) -> list[str]:
    """Read training references; raises DataError like `read_predictions`."""
    rows = [row for _, row in parse_lines(path, _TRAIN_ROW, _TRAIN_FORM)]
    texts = [row if isinstance(row, str) else row.reference for row in rows]
    return [text for text in texts if text is not None]
