"""Files that are whole or absent, paths that stay inside their folder, and JSON lines that survive a kill."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.errors import DataError, RunError, UsageError

JsonObject = dict[str, Any]
_SAMPLED_BYTES = 1 << 20


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part; RunError if that cannot be done."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Choose a folder that you may write to, or free some space, and run the same command again.",
        ) from error


def canonical_json(value: object, *, indent: int | None = None) -> str:
    """Return `value` as JSON with sorted keys: the same value gives the same bytes."""
    separators = None if indent else (",", ":")
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent, separators=separators, allow_nan=False)


def finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a document with None in place of every number that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the records as JSON lines, one per record, each ended by a newline."""
    return "".join(f"{canonical_json(record)}\n" for record in records)


def read_json(path: Path) -> Any:  # noqa: ANN401 - a document may hold anything; callers validate it
    """Read one JSON document; DataError if the file is missing or no UTF-8, or with the line of what is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.", "Check the folder that was given.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def read_json_lines(path: Path) -> Iterator[JsonObject]:
    """Yield the objects of a JSON-lines file; raises like `read_numbered_json_lines`."""
    return (value for _, value in read_numbered_json_lines(path))


def read_numbered_json_lines(path: Path, *, torn_tail: str = "refuse") -> Iterator[tuple[int, JsonObject]]:
    """Yield line number and object of each line that is not blank; raises DataError with the line of what is no object.

    `torn_tail="drop"` ignores one unfinished last line, which is what a killed writer leaves.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if torn_tail == "drop" and not line.endswith(b"\n"):
                    return
                if line.strip():
                    yield number, _parse_line(path, number, line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the folder that was given.") from error


def _parse_line(path: Path, number: int, line: bytes) -> JsonObject:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number} is not JSON: {error}.",
            "Restore the line from a backup, or delete it so that its sample is made again.",
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number} is a JSON {type(value).__name__}, not an object.")
    return value


def inside(folder: Path, relative: str) -> Path:
    """Return `folder / relative`, refusing a text that leads out of the folder.

    The text comes from data, so it may neither be absolute nor have a part `..`, not even where it would come back,
    since behind a symbolic link it would not. The links are the user's: images may lie on another disk. Raises
    DataError if `relative` is absolute, has a part `..`, or is no path at all.
    """
    path, problem = Path(relative), "it has a NUL character" if "\0" in relative else ""
    if path.anchor or ".." in path.parts:
        raise DataError(f"The path {relative!r} leads out of {folder}.", "Data may only name files in its own folder.")
    try:
        os.fsencode(relative)
    except UnicodeEncodeError as error:
        problem = str(error)
    if problem:
        raise DataError(f"{relative!r} is no path: {problem}.", "Correct the name in the data.")
    return folder / path


def fingerprint(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sampled_sha256(path: Path) -> str:
    """Return a SHA-256 of a file's size and of its beginning, middle and end, a MiB each; of a small one, all."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in sorted({0, max(0, size // 2 - _SAMPLED_BYTES // 2), max(0, size - _SAMPLED_BYTES)}):
            stream.seek(start)
            digest.update(stream.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def read_yaml_table(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a table; raises UsageError if it cannot be read, or is something else."""
    try:
        return parse_yaml_table(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Check the path that was given.") from error


def parse_yaml_table(text: str, where: str) -> dict[str, Any]:
    """Parse YAML text whose top level is a table; raises UsageError with the name `where` if it is something else."""
    import yaml

    # The safe loader in C is forty times as fast; not every build of PyYAML has it.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}.", "Correct it.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where} holds a {type(value).__name__}, not a table of settings.", "Correct it.")
    return value
