"""Bytes and foreign values become typed records, or an error that names the file, the place and the field."""

import marshal
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import readable, utf8, whole_characters

T = TypeVar("T")
_MOST_SHARED = 1 << 12


def empty_for_missing(value: object) -> object:
    """Return an empty text for null and NaN, and everything else as it is."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


MaybeText = Annotated[str, BeforeValidator(empty_for_missing)]
"""A text that a row may lack: null and NaN, which pandas writes for it, are empty."""


class NativeRow(BaseModel):
    """A row of somebody else's file: the named fields must have their types, further fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def read_once() -> WrapValidator:
    """Return a validator that reads equal values once, and gives the same object for all of them.

    Most samples of a task have one of a few scores, and the labels of many others: without it they would take several
    times the room, and the time.
    """
    found: dict[bytes, Any] = {}

    def read(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - what it validates
        try:
            key = marshal.dumps(value)
        except ValueError:
            return validate(value)
        if (known := found.get(key)) is None:
            if len(found) >= _MOST_SHARED:
                found.clear()
            known = found[key] = validate(value)
        return known

    return WrapValidator(read)


_adapters: dict[object, TypeAdapter[Any]] = {}


def _adapter(kind: type[T] | TypeAdapter[T]) -> TypeAdapter[T]:
    if isinstance(kind, TypeAdapter):
        return kind
    return _adapters.get(kind) or _adapters.setdefault(kind, TypeAdapter(kind))


def parse_json(kind: type[T] | TypeAdapter[T], data: bytes, where: str) -> T:
    """Parse and validate one JSON document; half a character in it becomes the replacement character.

    Raises DataError if it is not JSON or has another shape; the values themselves stay out of the message, since they
    may be texts of patients.
    """
    try:
        return _adapter(kind).validate_json(data)
    except ValidationError as error:
        whole = whole_characters(data)
        if whole != data:
            return parse_json(kind, whole, where)
        raise _data_error(where, error) from None


def parse_value(kind: type[T] | TypeAdapter[T], value: object, where: str) -> T:
    """Validate a value that is already in memory; raises like `parse_json`."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise _data_error(where, error) from None


def parse_json_file(kind: type[T] | TypeAdapter[T], path: Path) -> T:
    """Parse and validate a JSON file; raises like `parse_json`, also if the file cannot be read."""
    return parse_json(kind, read_text_bytes(path), str(path))


def read_text_bytes(path: Path) -> bytes:
    """Read a file of text as UTF-8 without a mark in front, whichever way it was saved.

    Raises DataError if it is missing, cannot be read or is no text (`medbench.tasks.foundation.files`).
    """
    return utf8(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Read a whole file; a DataError if it is missing or cannot be read."""
    with readable(path):
        return path.read_bytes()


def _data_error(where: str, error: ValidationError) -> DataError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    others = error.error_count() - 1
    more = f" ({others} more of this kind in it)" if others else ""
    return DataError(
        f"{where}{f', field {place}' if place else ''}: {first['msg']}{more}.",
        "The file is not in the expected form; restore it from its source.",
    )
