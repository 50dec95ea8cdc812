"""What a failed request means: ask again, leave this sample, or stop the run."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from adapters.openai.address import Address
from adapters.openai.replies import Reading, message_of
from adapters.remote import Trouble, TryAgainError
from tasks.foundation.errors import MedbenchError, RunError, SampleError

_TROUBLES: Mapping[int, Trouble] = {
    408: "timeout", 409: "server error", 425: "server error", 429: "rate limit",
    503: "overloaded", 504: "timeout", 529: "overloaded",
}  # fmt: skip
_HOPELESS: Mapping[int, str] = {
    401: "Check the key: --model-arg key_env=NAME names the environment variable that holds it.",
    402: "The account behind the key has no credit left.",
    403: "The key may not use this model, or the server serves nobody from here.",
    404: "Check the model's name and the base URL, which usually ends with /v1.",
    405: "Check the base URL, which usually ends with /v1.",
}
# OpenAI answers 429 both to haste and to an empty account; the latter does not pass.
_OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "account_deactivated"})
# What a server says of a field that it does not take, and how not to send it.
_HINTS: Mapping[str, str] = {
    "temperature": "Send none: --model-arg temperature=unset",
    "max_completion_tokens": "Choose another --model-arg profile=...",
    "max_tokens": "Choose --model-arg profile=openai.",
    "seed": "Send none: --model-arg send_seed=no",
}
_NOT_IMPLEMENTED = 501
_SERVER_ERRORS = 500
_CLIENT_ERRORS = 400
_KEPT = "What was answered is on disk; the same command continues."


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A server's answer that is no success.

    Attributes:
        status: HTTP status.
        headers: By name in small letters.
        content: The body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


def failure_of(refusal: Refusal, address: Address, reading: Reading, now: datetime | None = None) -> Exception:
    """Return the error that a server's answer means.

    TryAgainError for 408, 409, 425, 429 and all 5xx but 501; RunError for 401 to 405 and for redirections, which every
    other request would meet as well; SampleError for the rest: this question is refused.

    Args:
        refusal: The answer.
        address: Who gave it.
        reading: How its words are read.
        now: The time, for dates in `Retry-After` if the server does not tell its own.
    """
    document = _json(refusal.content)
    said = message_of(document, reading.clean) or message_of(_plain_text(refusal), reading.clean)
    status = refusal.status
    problem = f"{address.server} answers {_named(status)}{f': {said}' if said else ''}"
    if status in _TROUBLES or (status >= _SERVER_ERRORS and status != _NOT_IMPLEMENTED):
        if _code(document) in _OUT_OF_CREDIT:
            return RunError(problem, f"{_HOPELESS[402]} {_KEPT}")
        return TryAgainError(_TROUBLES.get(status, "server error"), problem, retry_after(refusal.headers, now))
    return _final(status, problem)


def _final(status: int, problem: str) -> MedbenchError:
    if status in _HOPELESS:
        return RunError(problem, f"{_HOPELESS[status]} {_KEPT}")
    if status < _CLIENT_ERRORS:
        return RunError(problem, "The base URL leads elsewhere: give the one that answers itself.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return SampleError(problem, "The pictures are too large for the server: --model-arg max_pixels=N.")
    return SampleError(problem, next((hint for field, hint in _HINTS.items() if field in problem), ""))


def _named(status: int) -> str:
    try:
        return f"HTTP {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return f"HTTP {status}"


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _plain_text(refusal: Refusal) -> str:
    """Return a body that is plain text; a page of HTML says nothing that the status does not."""
    kind = refusal.headers.get("content-type", "")
    return refusal.content.decode("utf-8", "replace") if kind.startswith("text/plain") else ""


def _code(document: object) -> object:
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return None
    return next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), None)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that a server asks to wait, or None where it says nothing that can be understood.

    `Retry-After` may be seconds or a date (RFC 9110, section 10.2.3); a date is held against the server's own `Date`,
    since clocks differ. `Retry-After-Ms` is OpenAI's finer form.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        seconds = _number(text)
        if seconds is not None:
            return max(0.0, seconds * unit)
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    since = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - since).total_seconds())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
