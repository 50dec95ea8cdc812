"""A server's words as they may be written to files and shown: bounded, without secrets, always encodable."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medbench.adapters.openai.options import Prices

NAME_LENGTH = 200
_SURROGATES = re.compile("[\ud800-\udfff]")
_SHORT = 300
# Names under which servers and gateways file what went wrong, the most telling first.
_WORDS = (
    "error", "errors", "base_resp", "message", "detail", "details", "msg", "error_msg", "error_message", "status_msg",
    "reason", "title",
)  # fmt: skip
_NESTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How replies are read.

    Attributes:
        stop: Texts that end an answer, where the server was not told so.
        prices: Prices of tokens, or None.
        clean: Takes secrets out of a text.
    """

    stop: tuple[str, ...] = ()
    prices: Prices | None = None
    clean: Callable[[str], str] = str

    def words(self, value: object) -> str:
        """Return a text of the server that can be written to a file, or nothing if it is no text."""
        return self.clean(_SURROGATES.sub("\ufffd", value)) if isinstance(value, str) else ""

    def name(self, value: object) -> str:
        """Return a short text of the server: a name, a mark, a reason."""
        return self.words(value)[:NAME_LENGTH]


def json_or_none(content: bytes) -> Any:  # noqa: ANN401 - a server may say anything
    """Return a server's JSON, or None if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def message_of(document: object, clean: Callable[[str], str]) -> str:
    """Return what a server's error says, on one line of bounded length, in whichever of the usual places it stands."""
    found: Any = document
    for _ in range(_NESTED):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict):
            lowered = {str(name).lower(): value for name, value in found.items()}
            found = next((lowered[name] for name in _WORDS if _says(lowered.get(name))), lowered.get("code", ""))
    is_said = isinstance(found, str | int) and not isinstance(found, bool)
    return short(clean(_SURROGATES.sub("\ufffd", str(found)))) if is_said else ""


def _says(value: object) -> bool:
    return bool(value) and value is not True


def short(text: str) -> str:
    """Return a text on one line, cut where it gets long."""
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}..."
