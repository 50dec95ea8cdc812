"""Predictions as JSON lines, as `formats.md` beside this file shows them; and how every JSON format is read."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, TypeAdapter

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import Box
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import NativeRow, empty_for_missing, parse_json, read_text_bytes

T = TypeVar("T")
_FORM = (
    'Expected: one JSON object a line with "prediction" (text or null) and "reference" (text); for REC with '
    '"prediction", "box" [left, top, right, bottom] and "image_size" [width, height] in pixels.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answer, of a model that medbench did not run, beside its reference."""

    where: str  # File and line or row, for messages.
    prediction: str | None  # What the model said; None if it failed, which is the state `error`.
    reference: str  # The right answer as text; for REC the name of the object, or empty.
    box: Box | None = None  # The right box in pixels, for REC; otherwise None.
    image_size: tuple[int, int] | None = None  # Width and height in pixels of the image that `box` refers to.
    answer_type: str = ""  # `OPEN` or `CLOSED` for VQA, otherwise empty.
    group: str = ""  # What ties predictions together (the image, the patient); a prediction of its own by default.
    choices: Mapping[str, str] = field(default_factory=dict)  # By key (`A`, `B`, ...) where the question showed some.
    predicted_box: Box | None = None  # The model's box in pixels, where the format stores boxes that were read already.


def _text_of_number(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a text or a finite number is expected")
    return str(value) if isinstance(value, int | float) else value


def _texts_by_key(value: object) -> object:
    # pydantic would name the key in its message, and a key is the file's text.
    if value is not None and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
        raise ValueError("an object of texts by key is expected")
    return value or {}


def _upright(edges: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = edges
    if left > right or top > bottom:
        raise ValueError("the order of the edges is left, top, right, bottom")
    return edges


# A text (a number is taken as its text), and what a model said: null where it failed, or NaN, which pandas writes.
Text = Annotated[str, BeforeValidator(_text_of_number)]
_NO_NAN = BeforeValidator(lambda said: None if said != "" and empty_for_missing(said) == "" else said)
Answer = Annotated[Text | None, _NO_NAN]
# Whether a question is open; empty where nobody says.
_UPPER = BeforeValidator(lambda value: value.strip().upper() if isinstance(value, str) else value or "")
AnswerType = Annotated[Literal["OPEN", "CLOSED", ""], _UPPER]
# Left, top, right, bottom; of a right box in this order, a model's may be upside down.
Edges = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
RightEdges = Annotated[Edges, AfterValidator(_upright)]
# numpy and pandas write sizes as 640.0.
_WHOLE = BeforeValidator(lambda side: int(side) if isinstance(side, float) and side.is_integer() else side)
_Length = Annotated[int, _WHOLE, Field(gt=0)]


class _Row(NativeRow):
    prediction: Answer
    reference: Text
    answer_type: AnswerType = ""
    group: Text | None = None
    sample_id: Text | None = None
    choices: Annotated[dict[str, str], BeforeValidator(_texts_by_key)] = Field(default_factory=dict)


class _BoxRow(_Row):
    reference: Annotated[Text, BeforeValidator(empty_for_missing)] = ""
    box: RightEdges
    image_size: tuple[_Length, _Length]


def read_json_lines(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the predictions of a file; raises DataError that names a broken line and its field, never a value."""
    return _predictions(parse_lines(path, _row_of(spec), _FORM))


def predictions_of(rows: Iterable[Mapping[str, Any]], spec: TaskSpec) -> Iterator[Prediction]:
    """Yield predictions that are objects already, with the fields of a line; raises like `read_json_lines`.

    NaN in an optional field, which is how pandas leaves one out, is left out; numbers of numpy are numbers.
    """
    adapter = _row_of(spec)

    def parsed() -> Iterator[tuple[str, _Row]]:
        for number, row in enumerate(rows):
            where = f"prediction {number}"
            try:
                filled = {name for name, one in row.items() if not (isinstance(one, float) and math.isnan(one))}
                given = {name: one for name, one in row.items() if name == "prediction" or name in filled}
                line = json.dumps(given, default=lambda value: value.tolist()).encode()
            except (AttributeError, TypeError, ValueError) as error:
                raise DataError(f"{where} is no object of plain values: {error}.", _FORM) from error
            with _expected(_FORM):
                yield where, parse_json(adapter, line, where)

    return _predictions(parsed())


def _row_of(spec: TaskSpec) -> TypeAdapter[_Row]:
    return TypeAdapter(_BoxRow if spec.kind == "rec" else _Row)


def _predictions(rows: Iterable[tuple[str, _Row]]) -> Iterator[Prediction]:
    seen: dict[str, str] = {}
    for where, row in rows:
        if row.sample_id is not None and seen.setdefault(row.sample_id, where) != where:
            raise DataError(f"{where} has the sample_id of {seen[row.sample_id]}.", "Keep one of the two lines.")
        if row.choices and row.reference not in row.choices:
            way_out = "Give the key of the right choice as the reference, or leave out the choices."
            raise DataError(f"{where}, field reference: it is no key of the field choices.", way_out)
        box, size = (Box(*row.box), row.image_size) if isinstance(row, _BoxRow) else (None, None)
        yield Prediction(
            where=where, prediction=row.prediction, reference=row.reference, box=box, image_size=size,
            answer_type=row.answer_type, group=row.group or "", choices=row.choices,
        )  # fmt: skip


def parse_lines(path: Path, adapter: TypeAdapter[T], form: str) -> Iterator[tuple[str, T]]:
    """Yield place and row of every line that is not blank; DataError where one has not the `form` that is expected."""
    for number, line in enumerate(read_text_bytes(path).splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            with _expected(form):
                row = parse_json(adapter, line, where)
            yield where, row


def parse_list(path: Path, row_type: type[T], form: str) -> Iterator[tuple[str, T]]:
    """Yield place and row of every entry of a JSON list, counted from 0; DataError if the file has another form."""
    with _expected(form):
        rows: list[T] = parse_json(TypeAdapter(list[row_type]), read_text_bytes(path), str(path))  # type: ignore[valid-type]
    yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows))


@contextmanager
def _expected(form: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(error.problem, form) from error
