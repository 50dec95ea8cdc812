"""Answers that come as a stream of events though none was asked for, put together to what one answer says."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medbench.adapters.openai.contents import REASONING_FIELDS
from medbench.adapters.openai.reading import message_of
from medbench.adapters.remote import TryAgainError

# Event streams end lines in any of three ways (HTML standard, section 9.2.6).
_LINE_ENDS = re.compile("\r\n|\n|\r")
_FIELDS = ("data:", "event:", "id:", "retry:", ":")
_END = "[DONE]"
_GROWING = ("content", "refusal", *REASONING_FIELDS)
_CALLS = ("tool_calls", "function_call")
_LASTING = ("model", "system_fingerprint", "usage")


def is_stream(content: bytes, headers: Mapping[str, str]) -> bool:
    """Return whether a body is a stream of events, by what the server calls it or by how it begins."""
    if headers.get("content-type", "").lower().startswith("text/event-stream"):
        return True
    return content[:200].decode("utf-8", "replace").lstrip("\ufeff\r\n\t ").startswith(_FIELDS)


def assembled(content: bytes) -> Any:  # noqa: ANN401 - a server may say anything
    """Return the one document that a stream's events make up; an error among them is the document.

    Raises:
        TryAgainError: If the stream was cut off, or an event is not JSON.
    """
    whole = _Whole()
    for data in _events(content):
        if data.strip() == _END:
            whole.ended = True
            break
        chunk = _parsed(data)
        if _is_failure(chunk):
            return {name: value for name, value in chunk.items() if name != "choices"}
        whole.add(chunk)
    if not whole.ended:
        raise TryAgainError("cut off", "The server's stream of events ended before the answer did.")
    return whole.document()


def _events(content: bytes) -> Iterator[str]:
    """Yield the data of each event; one that the stream's end cut off is kept, since servers forget the empty line."""
    data: list[str] = []
    for line in [*_LINE_ENDS.split(content.decode("utf-8", "replace").removeprefix("\ufeff")), ""]:
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def _parsed(data: str) -> Any:  # noqa: ANN401 - a server may say anything
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TryAgainError("malformed", "An event of the server's stream is not JSON, or was cut off.") from error


def _is_failure(chunk: object) -> bool:
    """Return whether an event says what went wrong; one that says nothing only keeps the connection open."""
    if not isinstance(chunk, dict):
        return False
    return bool(chunk.get("error")) or (not isinstance(chunk.get("choices"), list) and bool(message_of(chunk, str)))


class _Whole:
    """The first choice of a stream, as it grows."""

    def __init__(self) -> None:
        self.ended = False
        self._pieces: dict[str, list[Any]] = {}
        self._choice: dict[str, Any] = {}
        self._lasting: dict[str, Any] = {}

    def add(self, chunk: object) -> None:
        """Add what a chunk says."""
        if not isinstance(chunk, dict):
            return
        self._lasting |= {name: chunk[name] for name in _LASTING if chunk.get(name)}
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._grow(choice)

    def _grow(self, choice: Mapping[str, Any]) -> None:
        for name in ("finish_reason", "stop_reason", "error"):
            if choice.get(name):
                self._choice[name] = choice[name]
        self.ended = self.ended or bool(choice.get("finish_reason"))
        message = choice.get("message")
        if isinstance(message, dict):
            # A whole message in one event is the answer so far, not more of it.
            self._pieces = {}
        grown = message if isinstance(message, dict) else choice.get("delta")
        delta: Mapping[str, Any] = grown if isinstance(grown, dict) else {}
        for name in (*_GROWING, *_CALLS):
            if delta.get(name):
                self._pieces.setdefault(name, []).append(delta[name])

    def document(self) -> dict[str, Any]:
        """Return what one answer would have said."""
        message = {name: _joined(pieces) for name, pieces in self._pieces.items()}
        return {**self._lasting, "choices": [{**self._choice, "message": {"content": None, **message}}]}


def _joined(pieces: list[Any]) -> Any:  # noqa: ANN401 - texts, or parts of whatever kind
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    return [part for piece in pieces for part in (piece if isinstance(piece, list) else [piece])]
