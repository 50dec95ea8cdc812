"""Files that are whole or absent, paths that stay inside, JSON lines that survive a kill, texts that an editor saved.

UTF-8 is read, and UTF-16 and UTF-32 where they can be told: by their mark, or by the zeros between plain letters. What
is none of them is refused with its line: a guess at an old code page would make other letters of it without a word.
"""

import codecs
import csv
import hashlib
import io
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from medbench.tasks.foundation.errors import DataError, RunError, UsageError

JsonObject = dict[str, Any]
_SAMPLED_BYTES = 1 << 20
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
_UNMARKED = ((re.compile(rb"[^\0]\0[^\0]\0"), "utf-16-le"), (re.compile(rb"\0[^\0]\0[^\0]"), "utf-16-be"))
_SNIFFED = 4
_DEEPEST, _MOST_ALIASES = 64, 32
_LONGEST_NAME, _LONGEST_PATH = 255, 2000
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_DELIMITERS = ",;\t"
_SAID_DELIMITER = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
# By itself the module refuses 131,073 characters, which an answer that loops has. More than this no C long holds.
csv.field_size_limit(2**31 - 1)


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Write a text, or its pieces as they come, so that a reader sees the old file or the new one, never a part.

    RunError if that cannot be done.
    """
    with replaced_when_whole(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines([text] if isinstance(text, str) else text)


@contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Yield a name to write to; what is written becomes `path`, and outlives a power cut, if nothing went wrong.

    What a killed writer left under that name is written over. RunError if the file cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(_place_beside(path))
            yield partial
            _sync(partial)
            partial.replace(path)
        except (OSError, UnicodeEncodeError) as error:
            hint = "Choose a folder that you may write to, or free some space, and run the same command again."
            raise RunError(f"Cannot write {path}: {getattr(error, 'strerror', None) or error}.", hint) from error
        with suppress(OSError):
            # The names in a folder outlive a power cut, too, where the system can do that.
            _sync(path.parent)


@contextmanager
def _place_beside(path: Path) -> Iterator[Path]:
    """Yield a name for what becomes a file: the same for all writers, or another while a living one has that."""
    common = path.with_name(f".{path.name}.partial")
    handle = os.open(common, os.O_RDWR | os.O_CREAT, 0o666)
    other = path.with_name(f".{path.name}.{threading.get_native_id()}.partial")
    partial = common if _is_free(handle, common) else other
    try:
        yield partial
    except BaseException:
        with suppress(OSError):
            # On a full disk what was begun would hold the room that is missing.
            partial.unlink()
        raise
    finally:
        os.close(handle)


def _is_free(handle: int, name: Path) -> bool:
    """Take an open file for this writer and return True, or return False if a living one has it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have made it the file meanwhile.
        return os.path.samestat(os.fstat(handle), name.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except (ImportError, OSError):
        # Where nothing can be locked, a second writer of the same file goes unnoticed.
        return True


def _sync(path: Path) -> None:
    """Let a file, or the names in a folder, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the records as JSON lines, one per record, each ended by a newline."""
    return (f"{canonical_json(record)}\n" for record in records)


def json_value(text: str | bytes) -> Any:  # noqa: ANN401 - a document may hold anything; callers validate it
    """Return what JSON says; ValueError if it is none, is nested too deep, or holds a number of thousands of digits."""
    try:
        return json.loads(text)
    except RecursionError:
        problem = "it is nested too deep"
    raise ValueError(problem)


def json_events(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield what JSON says, event by event; ValueError if it is none, is nested too deep, or has such a number."""
    import ijson

    depth = 0
    try:
        for event, value in ijson.basic_parse(stream, use_float=True):
            depth += event.startswith("start_") - event.startswith("end_")
            if depth > _DEEPEST:
                raise ValueError("it is nested too deep")
            yield event, value
    except (ijson.JSONError, ArithmeticError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_json(path: Path) -> Any:  # noqa: ANN401 - as above
    """Read one JSON document; DataError if the file is missing or no UTF-8, or with the line of what is no JSON."""
    try:
        return json_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.", "Check the folder that was given.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def read_json_object(path: Path) -> JsonObject:
    """Read a JSON document that is an object; raises like `read_json`, also if it is something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a JSON {type(value).__name__}, not an object.", "Put back the file as it was.")
    return value


def read_json_lines(path: Path) -> Iterator[JsonObject]:
    """Yield the objects of a JSON-lines file; raises like `read_numbered_json_lines`."""
    return (value for _, value in read_numbered_json_lines(path))


@contextmanager
def readable(path: Path, hint: str = "Check the folder that was given.") -> Iterator[None]:
    """Make a DataError, with a hint, of what the system says where a file cannot be read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", hint) from error


def read_numbered_json_lines(path: Path, *, torn_tail: str = "refuse") -> Iterator[tuple[int, JsonObject]]:
    """Yield line number and object of each line that is not blank; raises DataError with the line of what is no object.

    `torn_tail="drop"` ignores one unfinished last line, which is what a killed writer leaves.
    """
    with readable(path), path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if torn_tail == "drop" and not line.endswith(b"\n"):
                return
            if line.strip():
                yield number, _parse_line(path, number, line)


def _fast_json(line: bytes) -> Any:  # noqa: ANN401 - as above
    # A command that reads no such lines starts without it.
    from pydantic_core import from_json

    try:
        return from_json(line)
    except ValueError:
        # Whatever this parser refuses, the slower one judges, and says where and why.
        return json_value(line)


def _parse_line(path: Path, number: int, line: bytes) -> JsonObject:
    try:
        value = _fast_json(line)
    except ValueError as error:
        hint = "Restore the line from a backup, or delete it so that its sample is made again."
        raise DataError(f"{path}, line {number} is not JSON: {error}.", hint) from error
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
        if max(map(len, os.fsencode(relative).split(b"/"))) > _LONGEST_NAME or len(relative) > _LONGEST_PATH:
            problem = "it is too long"
    except UnicodeEncodeError as error:
        problem = str(error)
    if problem:
        raise DataError(f"{relative!r} is no path: {problem}.", "Correct the name in the data.")
    return folder / path


def fingerprint(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, as 64 hex digits; NaN and infinity count as null."""
    try:
        text = canonical_json(value)
    except ValueError:
        text = canonical_json(finite(value))
    # What others wrote may hold half characters, too.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


Stamp = tuple[int, ...]


def stamp_of(path: Path) -> Stamp:
    """Return numbers that change when a file is written to, or another takes its place; OSError if there is none."""
    said = path.stat()
    return said.st_size, said.st_mtime_ns, said.st_ctime_ns, said.st_dev, said.st_ino


_sampled: ContextVar[dict[Path, Stamp] | None] = ContextVar("sampled", default=None)


@contextmanager
def noting_sampled() -> Iterator[dict[Path, Stamp]]:
    """Yield the files, with their stamps, of which a hash is made meanwhile that does not know all of their bytes."""
    found: dict[Path, Stamp] = {}
    before = _sampled.set(found)
    try:
        yield found
    finally:
        _sampled.reset(before)


def note_sampled(path: Path) -> None:
    """Note a file whose hash is about to be made of samples."""
    if (noted := _sampled.get()) is not None:
        noted[path.absolute()] = stamp_of(path)


def sampled_sha256(path: Path) -> str:
    """Return a SHA-256 of a file's size and of its beginning, middle and end, a MiB each; of a small one, all."""
    size = path.stat().st_size
    if size > _SAMPLED_BYTES:
        note_sampled(path)
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
        _refuse_growth(yaml.parse(text, loader), where)
        value = loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}.", "Correct it.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where} holds a {type(value).__name__}, not a table of settings.", "Correct it.")
    return value


def _refuse_growth(events: Iterable[Any], where: str) -> None:
    """Refuse, by a UsageError, YAML that nests too deep, or whose aliases make much of little: no settings need it."""
    depth = aliases = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        aliases += name == "AliasEvent"
        if depth > _DEEPEST or aliases > _MOST_ALIASES:
            what = f"is nested deeper than {_DEEPEST}" if depth > _DEEPEST else f"has more than {_MOST_ALIASES} aliases"
            raise UsageError(f"{where} {what}.", "Write it out, or make it smaller.")


def encoding_of(data: bytes) -> tuple[str, int]:
    """Return the encoding that the first bytes of a text show, and the length of its mark."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding, len(mark)
    return next((encoding for pattern, encoding in _UNMARKED if pattern.match(data[:_SNIFFED])), "utf-8"), 0


def decoded(data: bytes, where: str) -> str:
    """Return the text of a whole file without its mark; DataError with the path `where` and a line if it is no text."""
    encoding, start = encoding_of(data)
    try:
        return data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[start : start + error.start].decode(encoding, "replace").count("\n") + 1
        name, byte = encoding.upper(), data[start + error.start]
        raise DataError(
            f"{where}, line {line} is not {name} text: byte 0x{byte:02x} ({error.reason}).",
            "Save the file as UTF-8 (a spreadsheet calls it `CSV UTF-8`); from an old code page: "
            "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
        ) from error


def utf8(data: bytes, where: str) -> bytes:
    """Return the text of a file as UTF-8 without a mark; raises like `decoded`."""
    return decoded(data, where).encode("utf-8", "replace")


def whole_characters(json_text: bytes) -> bytes:
    r"""Return a JSON text in which half a character, such as `\ud83d` alone, is the replacement character U+FFFD.

    A model that is stopped inside an emoji writes such halves; no file can hold them as text.
    """
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found.group(1) else found.group(), json_text)


def encodable(text: str) -> str:
    """Return `text` with everything replaced that UTF-8 cannot hold (lone surrogates)."""
    return text.encode(errors="replace").decode()


def table_rows(data: bytes, where: str, fits: Callable[[Sequence[str]], bool]) -> Iterator[tuple[int, list[str]]]:
    """Yield line and cells of every row of a table that is not blank, the header among them.

    Commas, semicolons or tabs are between the cells, whichever makes a first row that `fits` (commas if none does), or
    what a first line `sep=;` says. Raises DataError if it is no table or no text.
    """
    text = decoded(data, where)
    said = _SAID_DELIMITER.match(text)
    body = text[said.end() :] if said else text
    try:
        delimiter = said.group(1) if said else _delimiter(body, fits)
        yield from ((line + bool(said), row) for line, row in _rows(body, delimiter))
    except csv.Error as error:
        raise DataError(f"{where} is not a readable CSV file: {error}.", "Save or download it again.") from error


def named_rows(
    data: bytes, where: str, columns: Sequence[str], way_out: str
) -> Iterator[tuple[int, dict[str, str], Sequence[str]]]:
    """Yield line, cells by the name of their column (empty where a row ends early), and cells beyond the last column.

    Raises DataError if it is no table or no text, or one of `columns` is missing; `way_out` is the hint then.
    """
    rows = table_rows(data, where, lambda row: set(columns) <= set(row))
    _, header = next(rows, (0, []))
    absent = [column for column in columns if column not in header]
    if absent:
        raise DataError(f"{where} has no column {absent[0]!r}.", way_out)
    for number, row in rows:
        yield number, dict(zip(header, (*row, *[""] * len(header)), strict=False)), row[len(header) :]


def _delimiter(text: str, fits: Callable[[Sequence[str]], bool]) -> str:
    for delimiter in _DELIMITERS:
        with suppress(csv.Error):
            if fits(next(_rows(text, delimiter), (0, []))[1]):
                return delimiter
    return _DELIMITERS[0]


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return ((reader.line_num, row) for row in reader if row)
