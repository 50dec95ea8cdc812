"""One prediction of somebody else, the fields that a row of it may have, and how rows become predictions."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, TypeAdapter

from medbench.adapters.base import StopReason
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import Box
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import MaybeText, NativeRow, empty_for_missing, parse_json, read_text_bytes

T = TypeVar("T")
FORM = (
    'Expected: a row for each answer with "prediction" (text, or null where the model failed) and "reference" (text); '
    'for REC with "box" [left, top, right, bottom] and "image_size" [width, height] in pixels.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of predictions of one task, and how it is to be read."""

    path: Path
    form: str = ""  # One of the formats; empty to see by the file itself.
    references: Path | None = None  # The right answers, where the file has none.
    columns: Mapping[str, str] = field(default_factory=dict)  # Names of its columns by ours.


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answer, of a model that medbench did not run."""

    where: str  # File and line or row, for messages.
    prediction: str | None  # What the model said; None if it failed, which is the state `error`.
    # The right answer as text; for REC the name of the object, or empty. None where the file has none.
    reference: str | None
    box: Box | None = None  # The right box in pixels, for REC; otherwise None.
    image_size: tuple[int, int] | None = None  # Width and height in pixels of the image that `box` refers to.
    answer_type: str = ""  # `OPEN` or `CLOSED` for VQA, otherwise empty.
    group: str = ""  # What ties predictions together (the image, the patient); a prediction of its own by default.
    choices: Mapping[str, str] = field(default_factory=dict)  # By key (`A`, `B`, ...) where the question showed some.
    predicted_box: Box | None = None  # The model's box in pixels, where the format stores boxes that were read already.
    # What tells which question it answers, as far as the file says: a name, the question or whole prompt, the image.
    sample_id: str = ""
    question: str = ""
    image: str = ""
    stop: StopReason = "eos"  # Why the answer ended.
    boxes_are_read: bool = False  # Whether `predicted_box` is all that counts of a box.


def _text_of_number(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a text or a finite number is expected")
    return str(value) if isinstance(value, int | float) else value


def _texts_by_key(value: object) -> object:
    # pydantic would name the key in its message, and a key is the file's text.
    if isinstance(value, list) and len(value) <= len(ascii_uppercase):
        value = dict(zip(ascii_uppercase, value, strict=False))
    if value is not None and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
        raise ValueError("an object of texts by key is expected")
    return value or {}


def _upright(edges: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = edges
    if left > right or top > bottom:
        raise ValueError("the order of the edges is left, top, right, bottom")
    return edges


def _text_of_box(value: object) -> object:
    return str(value) if isinstance(value, list) and all(type(edge) in {int, float} for edge in value) else value


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
    reference: Text | None = None
    answer_type: AnswerType = ""
    group: Text | None = None
    sample_id: Text | None = None
    question: Annotated[Text, BeforeValidator(empty_for_missing)] = ""
    image: MaybeText = ""
    choices: Annotated[dict[str, str], BeforeValidator(_texts_by_key)] = Field(default_factory=dict)


class _BoxRow(_Row):
    prediction: Annotated[Answer, BeforeValidator(_text_of_box)]
    reference: Annotated[Text, BeforeValidator(empty_for_missing)] = ""
    box: RightEdges | None = None
    image_size: tuple[_Length, _Length] | None = None


FIELDS = tuple(_BoxRow.model_fields)
"""What a row may say, by our names."""


def predictions_of(rows: Iterable[tuple[str, Mapping[str, Any]]], spec: TaskSpec) -> Iterator[Prediction]:
    """Yield predictions of rows, each with its place, that have `FIELDS`; others are ignored.

    NaN in an optional field, which is how pandas leaves one out, is left out; numbers of numpy are numbers. Raises
    DataError that names a broken row and its field, never a value.
    """
    adapter: TypeAdapter[_Row] = TypeAdapter(_BoxRow if spec.kind == "rec" else _Row)
    seen: dict[str, str] = {}
    for where, given in rows:
        row = _parsed(adapter, where, given)
        if row.sample_id and seen.setdefault(row.sample_id, where) != where:
            raise DataError(f"{where} has the sample_id of {seen[row.sample_id]}.", "Keep one of the two rows.")
        box = row.box if isinstance(row, _BoxRow) else None
        yield Prediction(
            where=where, prediction=row.prediction, reference=_key_of(row.reference, row.choices, where),
            box=None if box is None else Box(*box), image_size=row.image_size if isinstance(row, _BoxRow) else None,
            answer_type=row.answer_type, group=row.group or "", choices=row.choices, sample_id=row.sample_id or "",
            question=row.question, image=row.image,
        )  # fmt: skip


def _parsed(adapter: TypeAdapter[_Row], where: str, row: Mapping[str, Any]) -> _Row:
    try:
        filled = {name for name, one in row.items() if not (isinstance(one, float) and math.isnan(one))}
        given = {name: one for name, one in row.items() if name == "prediction" or name in filled}
        line = json.dumps(given, default=lambda value: value.tolist()).encode()
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where} is no object of plain values: {error}.", FORM) from error
    with expected(FORM):
        return parse_json(adapter, line, where)


def _key_of(reference: str | None, choices: Mapping[str, str], where: str) -> str | None:
    """Return a reference, where there are choices as the key of the one that it names or spells out."""
    if not choices or reference is None or reference in choices:
        return reference
    found = [key for key, text in choices.items() if text.strip() == reference.strip()]
    if len(found) != 1:
        way_out = "Give the key of the right choice as the reference, or leave out the choices."
        raise DataError(f"{where}, field reference: it is no key of the field choices.", way_out)
    return found[0]


def parse_lines(path: Path, adapter: TypeAdapter[T], form: str) -> Iterator[tuple[str, T]]:
    """Yield place and row of every line that is not blank; DataError where one has not the `form` that is expected."""
    for number, line in enumerate(read_text_bytes(path).splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            with expected(form):
                row = parse_json(adapter, line, where)
            yield where, row


def parse_list(path: Path, row_type: type[T], form: str) -> Iterator[tuple[str, T]]:
    """Yield place and row of every entry of a JSON list, counted from 0; DataError if the file has another form."""
    with expected(form):
        rows: list[T] = parse_json(TypeAdapter(list[row_type]), read_text_bytes(path), str(path))  # type: ignore[valid-type]
    yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows))


@contextmanager
def expected(form: str) -> Iterator[None]:
    """Say of what cannot be read in which `form` it is expected."""
    try:
        yield
    except DataError as error:
        raise DataError(error.problem, form) from error
