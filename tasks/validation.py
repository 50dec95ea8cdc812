"""Bytes and foreign values become typed records, or an error that names the file, the place and the field."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tasks.foundation.errors import DataError

T = TypeVar("T")


class NativeRow(BaseModel):
    """A row of somebody else's file: the named fields must have their types, further fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def parse_json(adapter: TypeAdapter[T], data: bytes, where: str) -> T:
    """Parse and validate one JSON document.

    Args:
        adapter: The type that is expected.
        data: UTF-8 text.
        where: File (and line) for the message.

    Raises:
        DataError: If it is not JSON or has another shape; the values themselves stay out of the message,
            since they may be texts of patients.
    """
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise _data_error(where, error) from None


def parse_value(adapter: TypeAdapter[T], value: object, where: str) -> T:
    """Validate a value that is already in memory; raises like `parse_json`."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _data_error(where, error) from None


def parse_json_file(adapter: TypeAdapter[T], path: Path) -> T:
    """Parse and validate a JSON file; raises like `parse_json`, also if the file cannot be read."""
    return parse_json(adapter, read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder given.") from error


def _data_error(where: str, error: ValidationError) -> DataError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    others = error.error_count() - 1
    more = f" ({others} more of this kind in it)" if others else ""
    return DataError(
        f"{where}{f', field {place}' if place else ''}: {first['msg']}{more}.",
        "The file is not in the expected form; restore it from its source.",
    )
