"""JSON lines, the default form and the easiest to write; and how every JSON format of this folder is read.

One object a line; blank lines and unknown fields are ignored::

    {"prediction": "MRI", "reference": "CT", "answer_type": "OPEN", "group": "xmlab3"}
    {"prediction": "The answer is (B).", "reference": "B", "choices": {"A": "aspirin", "B": "warfarin"}}
    {"prediction": "[12, 40, 90, 120]", "box": [10.0, 38.5, 92.0, 121.0], "image_size": [512, 512]}
    {"prediction": null, "reference": "No acute findings.", "sample_id": "s50000000"}

`prediction` is what the model said, or null (or NaN) where it failed. `reference` is the right answer, a key of
`choices` where the question showed some; a REC prediction has `box` (left, top, right, bottom) and `image_size` (width,
height) instead, both in pixels of the original image. `answer_type` is OPEN or CLOSED, `group` is what ties predictions
together (an image, a patient), `sample_id` is a name that occurs once. A number stands for its text, and null for an
optional field that is left out.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, TypeAdapter

from medbench.harness.predictions.catalog import require_kind
from medbench.harness.predictions.record import Prediction
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import Box
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import NativeRow, empty_for_missing, parse_json, read_text_bytes

T = TypeVar("T")

_FORM = (
    'Expected: one JSON object a line with "prediction" (text or null) and "reference" (text); for REC with '
    '"prediction", "box" [left, top, right, bottom] and "image_size" [width, height] in pixels.'
)


def _text_of_number(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a text or a finite number is expected")
    return str(value) if isinstance(value, int | float) else value


def _upper_case(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value or ""


def _none_for_nan(value: object) -> object:
    # pandas writes NaN for an answer that is not there.
    return None if value != "" and empty_for_missing(value) == "" else value


def _texts_by_key(value: object) -> object:
    if value is None:
        return {}
    # pydantic would name the key in its message, and a key is the file's text.
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("an object of texts by key is expected")
    return value


Text = Annotated[str, BeforeValidator(_text_of_number)]
"""A text; a number is taken as its text."""

Said = Annotated[Text | None, BeforeValidator(_none_for_nan)]
"""What a model said; null or NaN where it failed."""

AnswerType = Annotated[Literal["OPEN", "CLOSED", ""], BeforeValidator(_upper_case)]
"""Whether a question is open; empty where nobody says."""

Numbers = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
"""The edges of a box: left, top, right, bottom."""


def _upright(edges: Numbers) -> Numbers:
    left, top, right, bottom = edges
    if left > right or top > bottom:
        raise ValueError("the order of the edges is left, top, right, bottom")
    return edges


UprightBox = Annotated[Numbers, AfterValidator(_upright)]
"""The edges of a right box; a model's box may be upside down."""


class _Row(NativeRow):
    prediction: Said
    reference: Text
    answer_type: AnswerType = ""
    group: Text | None = None
    sample_id: Text | None = None
    choices: Annotated[dict[str, str], BeforeValidator(_texts_by_key)] = Field(default_factory=dict)


def _whole_number(value: object) -> object:
    # numpy and pandas write sizes as 640.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Length = Annotated[int, BeforeValidator(_whole_number), Field(gt=0)]


class _BoxRow(_Row):
    reference: Annotated[Text, BeforeValidator(empty_for_missing)] = ""
    box: UprightBox
    image_size: tuple[_Length, _Length]


_ROW: TypeAdapter[_Row] = TypeAdapter(_Row)
_BOX_ROW: TypeAdapter[_Row] = TypeAdapter(_BoxRow)


def read_json_predictions(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the predictions of a JSON-lines file; see the module's docstring.

    Raises:
        DataError: If a line is broken; the message names the line and the field, never a value.
    """
    require_kind("jsonl", spec)
    seen: dict[str, str] = {}
    for where, row in parse_lines(path, _BOX_ROW if spec.kind == "rec" else _ROW, _FORM):
        if row.sample_id is not None and seen.setdefault(row.sample_id, where) != where:
            raise DataError(f"{where} has the sample_id of {seen[row.sample_id]}.", "Keep one of the two lines.")
        yield _prediction(where, row)


def _prediction(where: str, row: _Row) -> Prediction:
    if row.choices and row.reference not in row.choices:
        raise DataError(
            f"{where}, field reference: it is no key of the field choices.",
            "Give the key of the right choice as the reference, or leave out the choices.",
        )
    return Prediction(
        where=where,
        prediction=row.prediction,
        reference=row.reference,
        box=Box(*row.box) if isinstance(row, _BoxRow) else None,
        image_size=row.image_size if isinstance(row, _BoxRow) else None,
        answer_type=row.answer_type,
        group=row.group or "",
        choices=row.choices,
    )


def parse_lines(path: Path, adapter: TypeAdapter[T], form: str) -> Iterator[tuple[str, T]]:
    """Yield place and row of every line that is not blank.

    Args:
        path: A JSON-lines file.
        adapter: The type of a row.
        form: What is expected, for the message.

    Raises:
        DataError: If the file cannot be read or a line has another form.
    """
    for number, line in enumerate(read_document(path).splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            with _expected(form):
                row = parse_json(adapter, line, where)
            yield where, row


def parse_list(path: Path, adapter: TypeAdapter[list[T]], form: str) -> Iterator[tuple[str, T]]:
    """Yield place and row of every entry of a JSON list; entries are counted from 0, as in the messages.

    Raises:
        DataError: If the file cannot be read or has another form.
    """
    with _expected(form):
        rows = parse_json(adapter, read_document(path), str(path))
    yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows))


def read_document(path: Path) -> bytes:
    """Return a file of text as UTF-8 without a mark, whichever way it was saved; raises like `read_text_bytes`."""
    return read_text_bytes(path)


@contextmanager
def _expected(form: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(error.problem, form) from error
