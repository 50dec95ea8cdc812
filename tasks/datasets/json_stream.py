"""One large JSON object, entry by entry, without ever holding the whole file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.text import encoding_of

_CHUNK_CHARACTERS = 2**20
# An entry that is still incomplete after this much text is not data but damage.
_LONGEST_ENTRY = 2**24
_BLANK = re.compile(r"[ \t\r\n]*")


def stream_object(path: Path) -> Iterator[tuple[str, object]]:
    """Yield key and value of every entry of the JSON object in `path`.

    Raises:
        DataError: If the file is missing or is not one JSON object; the message has the place in characters.
    """
    try:
        with _opened(path) as stream:
            yield from _Scanner(path, stream).entries()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Download the file again.") from error


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as stream:
        encoding, mark = encoding_of(stream.read(4))
    text = path.open(encoding=encoding)
    # Every mark is one character, which no part of the object can be.
    text.read(1 if mark else 0)
    return text


class _Scanner:
    """A window over the text that grows until the next token is whole."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self._path = path
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._dropped = 0
        self._ended = False

    def entries(self) -> Iterator[tuple[str, object]]:
        self._expect("{")
        if self._mark() == "}":
            self._finish()
            return
        while True:
            key = self._value()
            if not isinstance(key, str):
                raise self._broken("a key is not a text")
            self._expect(":")
            yield key, self._value()
            if self._mark() == "}":
                self._finish()
                return
            self._expect(",")

    def _finish(self) -> None:
        self._at += 1
        if self._mark():
            raise self._broken("there is text after the object")

    def _mark(self) -> str:
        """Return the next character that is not blank, or nothing at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def _expect(self, mark: str) -> None:
        if self._mark() != mark:
            raise self._broken(f"{mark!r} is missing")
        self._at += 1

    def _value(self) -> object:
        self._mark()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > _LONGEST_ENTRY or not self._grow():
                    raise self._broken(error.msg) from error
                continue
            except RecursionError as error:
                raise self._broken("values are nested too deep") from error
            # A number that ends where the window ends may go on behind it.
            if end < len(self._text) or not self._grow():
                self._at = end
                return value

    def _grow(self) -> bool:
        if self._ended:
            return False
        more = self._stream.read(_CHUNK_CHARACTERS)
        if not more:
            self._ended = True
            return False
        self._dropped += self._at
        self._text = self._text[self._at :] + more
        self._at = 0
        return True

    def _broken(self, what: str) -> DataError:
        place = self._dropped + self._at
        return DataError(
            f"{self._path} is not one JSON object: {what} near character {place}.", "Download the file again."
        )
