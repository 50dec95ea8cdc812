"""What a failed request means: ask again, leave this sample, or stop the run, and what can be done about it."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING

from medbench.adapters.openai.entry import json_or_none
from medbench.adapters.openai.reading import Reading, mapping
from medbench.adapters.openai.requests import ChatRequest
from medbench.adapters.remote import RetryableError, RetryReason
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError
from medbench.tasks.foundation.files import read_yaml_table

if TYPE_CHECKING:
    import httpx2

KEPT = "What was answered is on disk; the same command continues."
UNKNOWN = 200
"""The status of a failure inside of a success that says nothing of its kind: whether it passes is not known."""
_TOLD = read_yaml_table(Path(__file__).with_suffix(".yaml"))
CERTIFICATE_HINT: str = _TOLD["certificate"]
_REASONS: Mapping[int, RetryReason] = _TOLD["retries"]
_HOPELESS: Mapping[int, str] = _TOLD["hopeless"]
_STATUS_NAMES = {name: status for status, names in _TOLD["names"].items() for name in names}
_OUT_OF_CREDIT: list[str] = _TOLD["out of credit"]
_FLAGS = re.IGNORECASE | re.VERBOSE | re.DOTALL
_SAYS = {meaning: re.compile(pattern, _FLAGS) for meaning, pattern in _TOLD["says"].items()}
# What nothing says of its kind may pass; asked so often, it would have.
_DOUBTFUL_ATTEMPTS = 3


def failure_of(
    response: "httpx2.Response", server: str, reading: Reading, request: ChatRequest, *,
    document: object = None, within: int | None = None,
) -> Exception:  # fmt: skip
    """Return the error that a server's answer means.

    RetryableError for 408, 409, 425, 429 and all 5xx but 501 and 511; RunError for what every other request would meet
    as well (401 to 405, 407, 410, 511, redirections); SampleError for the rest: this question is refused. So it is,
    with whatever status, where the words say that the model sees no images, or that the question is too long for it.

    `document` is the JSON of the answer, if it was read already; `within` is the status that a failure stands for that
    is reported inside of a success.
    """
    document = json_or_none(response.content) if document is None else document
    status = response.status_code if within is None else within
    said = words_of(response, reading, document)
    named = f"HTTP {status} ({responses[status]})" if status in responses else f"HTTP {status}"
    named = named if within is None else "with an error inside of a success"
    problem = f"{server} answers {named}{f': {said}' if said else ''}"
    if status not in {*_REASONS, 401, 402, 403} and (_cannot_see(said, request) or says("too long", said)):
        return SampleError(problem, hint_for(said, request), kind="refused")
    error = mapping(mapping(document).get("error"))
    if next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), "") in _OUT_OF_CREDIT:
        return RunError(problem, f"{_HOPELESS[402]} {KEPT}")
    if within == HTTPStatus.NOT_FOUND:
        # Read out of the words alone: surely of this question, most likely of all.
        return SampleError(problem, _HOPELESS[404], kind="refused")
    if status == UNKNOWN:
        return RetryableError("server error", problem, most=_DOUBTFUL_ATTEMPTS)
    if status in _REASONS or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in {501, *_HOPELESS}):
        return RetryableError(_REASONS.get(status, "server error"), problem, retry_after(response.headers))
    return _final(status, problem, said, request)


def _final(status: int, problem: str, said: str, request: ChatRequest) -> MedbenchError:
    if status in _HOPELESS:
        return RunError(problem, f"{_HOPELESS[status]} {KEPT}")
    if status < HTTPStatus.BAD_REQUEST:
        return RunError(problem, "The base URL leads elsewhere: give the one that answers itself.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        smaller = "The images are too large for the server: --model-arg max_pixels=N."
        return SampleError(problem, smaller, kind="refused")
    return SampleError(problem, hint_for(said, request), kind="refused")


def words_of(response: "httpx2.Response", reading: Reading, document: object = None) -> str:
    """Return a server's words, on one line of bounded length: those of its JSON, of its plain text, or of its title."""
    document = json_or_none(response.content) if document is None else document
    page, kind = page_in(response), response.headers.get("content-type", "")
    # Of a page the title: the rest of it says no more than the status does.
    text = response.content.decode("utf-8", "replace") if kind.startswith("text/plain") else ""
    return reading.message(document) or reading.message(unescape(_title(page)) if page else text)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that a server asks to wait, or None where it says nothing that can be understood.

    `Retry-After` may be seconds or a date (RFC 9110, section 10.2.3); a date is held against the server's own `Date`,
    since clocks differ, or against `now`. `Retry-After-Ms` is OpenAI's finer form.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, ""))
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds * unit)
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    since = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (until - since).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_PAGE = re.compile(r"<!doctype html|<html|<head[\s>]|<body[\s>]", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_SIGN_IN = re.compile(r"sign[\s-]?in|log[\s-]?in|log[\s-]?on|type=.?password|captive|single sign", re.IGNORECASE)
_TAGS = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_LOOKED_AT = 20_000


def page_in(response: "httpx2.Response") -> str:
    """Return the beginning of an answer that is a page of HTML; nothing of any other."""
    text = response.content[:_LOOKED_AT].decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    is_html = "html" in response.headers.get("content-type", "").lower() and text.startswith("<")
    return text if is_html or _PAGE.match(text) else ""


def page_instead(page: str, server: str, reading: Reading) -> Exception:
    """Return the error that a web page in place of an answer means: a sign-in does not go away by asking again."""
    words = reading.message(unescape(_title(page) or _TAGS.sub(" ", page)))
    problem = f"{server} answers with a web page (HTML) in place of JSON{f': {words!r}' if words else ''}."
    hint = (
        "Something between here and the server answers in its place, a proxy or a sign-in page, or the base URL is "
        "that of a web site: it usually ends with /v1."
    )
    if _SIGN_IN.search(page):
        return SampleError(problem, hint, kind="refused")
    return RetryableError("malformed", f"{problem} {hint}", most=_DOUBTFUL_ATTEMPTS)


def _title(page: str) -> str:
    found = _TITLE.search(page)
    return found.group(1) if found else ""


_CODE_FIELDS = ("code", "status", "status_code", "statusCode", "error_code", "type")
_FAILURES = range(400, 600)
_SHORT_NUMBER = re.compile(r"[0-9]{1,6}")


def status_within(document: object) -> int | None:
    """Return the status of a failure that is reported inside of a success, or None if it is none.

    `UNKNOWN` if there is a failure and nothing says of what kind it is.
    """
    if not isinstance(document, dict):
        return None
    # An error may stand beside choices of which none is an answer.
    code = mapping(document.get("error")).get("code")
    bare = type(code) is int and code in _FAILURES
    if document.get("choices") and not bare:
        return None
    said = Reading().message(document)
    if not said and document.get("success") is not False:
        return None
    if says("lasts", said) and not says("passes", said):
        return 404
    if says("wrong key", said):
        return 401
    # The innermost code says what it is.
    error = next((document[name] for name in ("error", "detail", "base_resp") if document.get(name)), None)
    places = [place for place in (error, document) if isinstance(place, dict)]
    found = (_status(place[name]) for place in places for name in _CODE_FIELDS if name in place)
    unsaid = 503 if says("passes", said) else UNKNOWN
    return next((status for status in found if status is not None), unsaid)


def _status(code: object) -> int | None:
    if isinstance(code, str) and not _SHORT_NUMBER.fullmatch(code.strip()):
        return _STATUS_NAMES.get(code.strip().lower())
    if isinstance(code, bool) or not isinstance(code, int | str):
        return None
    number = int(code)
    if number in _FAILURES:
        return number
    # FastChat's five digits: 40303 is a prompt that is too long, so 403xx tells of one question, not of the key.
    longer = 400 if number // 100 == HTTPStatus.FORBIDDEN else number // 100
    return longer if longer in _FAILURES else None


def says(meaning: str, said: str) -> bool:
    """Return whether a server's words mean one of what `says` lists in failures.yaml: `filtered`, `streams only`..."""
    return _SAYS[meaning].search(said) is not None


def _cannot_see(said: str, request: ChatRequest) -> bool:
    return bool(request.images) and says("sees nothing", said) and not says("too many images", said)


def hint_for(said: str, request: ChatRequest) -> str:
    """Return what can be done about a refusal, or nothing where nothing is known."""
    images, too_long = request.images, says("too long", said)
    smaller = f", send {images} image{'s' * (images != 1)} smaller with --model-arg max_pixels=N" if images else ""
    too_large = bool(images) and not too_long and says("image too large", said)
    too_much = bool(request.limit) and request.length_field in said and says("too much", said)
    applies = {
        "sees nothing": _cannot_see(said, request),
        "too many images": bool(images) and says("too many images", said),
        "image too large": too_large,
        "too long": too_long,
        "too much": too_much,
        "streams only": says("streams only", said),
    }
    found = next((_TOLD["hints"][why] for why, does in applies.items() if does), "")
    if found:
        return found.format(limit=request.limit, smaller=smaller)
    # How not to send a field that a server does not take, if it names one that is sent.
    ways_out: Mapping[str, str] = _TOLD["fields"]
    has_system = any(message["role"] == "system" for message in request.body["messages"])
    if has_system and says("no system", said):
        return ways_out["system"]
    if not says("not taken", said):
        return ""
    users = [name for name in sorted(request.user_fields) if _names(said, name)]
    first = (request.length_field, *(name for name in ways_out if "tokens" not in name))
    ours = next((ways_out[name] for name in first if _names(said, name)), "")
    return f"Leave {', '.join(users)} out of --model-arg extra_body." if users else ours


def _names(said: str, name: str) -> bool:
    # `stop`, `seed` and `system` are words as well: they count where they are quoted, or begin what is said.
    plain = name not in {"stop", "seed", "system", "stream"}
    around = (r"(?<!\w)", r"(?!\w)") if plain else (r"(?:\A|['\"`])", r"['\"`:]")
    return re.search(f"{around[0]}{re.escape(name)}{around[1]}", said) is not None
