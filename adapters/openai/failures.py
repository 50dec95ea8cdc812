"""What a failed request means: ask again, leave this sample, or stop the run."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from http import HTTPStatus

from medbench.adapters.openai.address import Address
from medbench.adapters.openai.hints import Asked, cannot_see, hint_for, too_long
from medbench.adapters.openai.reading import Reading, json_or_none, message_of
from medbench.adapters.openai.within import UNKNOWN
from medbench.adapters.remote import Trouble, TryAgainError
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError

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
    407: "A proxy asks for a name and a password: HTTPS_PROXY may hold them, NO_PROXY goes around the proxy.",
    410: "The server no longer serves this model: check its name.",
    511: "The network asks for a sign-in first: open any page in a browser of this machine.",
}
# OpenAI answers 429 both to haste and to an empty account; the latter does not pass.
_OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "account_deactivated"})
# What nothing says of its kind may pass; asked so often, it would have.
_DOUBTFUL_ATTEMPTS = 3
_NOT_IMPLEMENTED = 501
_SERVER_ERRORS = 500
_CLIENT_ERRORS = 400
KEPT = "What was answered is on disk; the same command continues."
_PAGE = re.compile(r"<!doctype html|<html|<head[\s>]|<body[\s>]", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_SIGN_IN = re.compile(r"sign[\s-]?in|log[\s-]?in|log[\s-]?on|type=.?password|captive|single sign", re.IGNORECASE)
_TAGS = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_LOOKED_AT = 20_000


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

    @property
    def page(self) -> str:
        """The beginning of the body, if it is a page of HTML; empty otherwise."""
        text = self.content[:_LOOKED_AT].decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
        is_html = "html" in self.headers.get("content-type", "").lower() and text.startswith("<")
        return text if is_html or _PAGE.match(text) else ""


def failure_of(
    refusal: Refusal, address: Address, reading: Reading, now: datetime | None = None, *,
    asked: Asked | None = None, document: object = None, within: bool = False,
) -> Exception:  # fmt: skip
    """Return the error that a server's answer means.

    TryAgainError for 408, 409, 425, 429 and all 5xx but 501 and 511; RunError for what every other request would meet
    as well (401 to 405, 407, 410, 511, redirections); SampleError for the rest: this question is refused. So it is,
    with whatever status, where the words say that the model sees no pictures, or that the question is too long for it.

    Args:
        refusal: The answer.
        address: Who gave it.
        reading: How its words are read.
        now: The time, for dates in `Retry-After` if the server does not tell its own.
        asked: What was asked.
        document: The JSON of the answer, if it was read already.
        within: Whether it is reported inside of a success; the status is then what it stands for.
    """
    document = json_or_none(refusal.content) if document is None else document
    asked = asked or Asked()
    said = words_of(refusal, reading, document)
    problem = f"{address.server} answers {_named(refusal.status, within=within)}{f': {said}' if said else ''}"
    if refusal.status not in {*_TROUBLES, 401, 402, 403} and (cannot_see(said, asked) or too_long(said)):
        return SampleError(problem, hint_for(said, asked))
    if _code(document) in _OUT_OF_CREDIT:
        return RunError(problem, f"{_HOPELESS[402]} {KEPT}")
    if within and refusal.status == HTTPStatus.NOT_FOUND:
        # Read out of the words alone: surely of this question, most likely of all.
        return SampleError(problem, _HOPELESS[refusal.status])
    return _again(refusal, problem, now) or _final(refusal.status, problem, said, asked)


def words_of(refusal: Refusal, reading: Reading, document: object = None) -> str:
    """Return a server's words, on one line of bounded length: those of its JSON, of its plain text, or of its title."""
    document = json_or_none(refusal.content) if document is None else document
    return message_of(document, reading.clean) or message_of(_plain_text(refusal), reading.clean)


def _again(refusal: Refusal, problem: str, now: datetime | None) -> TryAgainError | None:
    status = refusal.status
    if status == UNKNOWN:
        return TryAgainError("server error", problem, most=_DOUBTFUL_ATTEMPTS)
    passes = status in _TROUBLES or (status >= _SERVER_ERRORS and status not in {_NOT_IMPLEMENTED, *_HOPELESS})
    wait = retry_after(refusal.headers, now)
    return TryAgainError(_TROUBLES.get(status, "server error"), problem, wait) if passes else None


def _final(status: int, problem: str, said: str, asked: Asked) -> MedbenchError:
    if status in _HOPELESS:
        return RunError(problem, f"{_HOPELESS[status]} {KEPT}")
    if status < _CLIENT_ERRORS:
        return RunError(problem, "The base URL leads elsewhere: give the one that answers itself.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return SampleError(problem, "The pictures are too large for the server: --model-arg max_pixels=N.")
    return SampleError(problem, hint_for(said, asked))


def page_instead(refusal: Refusal, address: Address, reading: Reading) -> Exception:
    """Return the error that a web page in place of an answer means: a sign-in does not go away by asking again."""
    page = refusal.page
    title = _title(page) or _TAGS.sub(" ", page)
    words = message_of(unescape(title), reading.clean)
    problem = f"{address.server} answers with a web page (HTML) in place of JSON{f': {words!r}' if words else ''}."
    hint = (
        "Something between here and the server answers in its place, a proxy or a sign-in page, or the base URL is "
        "that of a web site: it usually ends with /v1."
    )
    if _SIGN_IN.search(page):
        return SampleError(problem, hint)
    return TryAgainError("malformed", f"{problem} {hint}", most=_DOUBTFUL_ATTEMPTS)


def _title(page: str) -> str:
    found = _TITLE.search(page)
    return found.group(1) if found else ""


def _named(status: int, *, within: bool = False) -> str:
    if within:
        return "with an error inside of a success"
    try:
        return f"HTTP {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return f"HTTP {status}"


def _plain_text(refusal: Refusal) -> str:
    """Return a body that is plain text, or the title of a page: the rest of it says no more than the status does."""
    if refusal.page:
        return unescape(_title(refusal.page))
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
