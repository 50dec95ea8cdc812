"""Files of text that some editor saved: byte order marks, UTF-16, half characters, and tables of any spreadsheet.

UTF-8 is read, and UTF-16 and UTF-32 where they can be told: by their mark, or by the zeros between plain letters. What
is none of them is refused with its line: a guess at an old code page would make other letters of it without a word.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from medbench.tasks.foundation.errors import DataError

# The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
_UNMARKED = ((re.compile(rb"[^\0]\0[^\0]\0"), "utf-16-le"), (re.compile(rb"\0[^\0]\0[^\0]"), "utf-16-be"))
_SNIFFED = 4
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_DELIMITERS = ",;\t"
_SAID_DELIMITER = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
# By itself the module refuses 131,073 characters, which an answer that loops has. More than this no C long holds.
csv.field_size_limit(2**31 - 1)


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
