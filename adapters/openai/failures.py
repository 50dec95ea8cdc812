"""What a failed request means: ask again, leave this sample, or stop the run, and what can be done about it."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from medbench.adapters.openai.reading import Reading, json_or_none
from medbench.adapters.openai.requests import ChatRequest
from medbench.adapters.remote import RetryableError, Trouble
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError

if TYPE_CHECKING:
    import httpx2

KEPT = "What was answered is on disk; the same command continues."
UNKNOWN = 200
"""The status of a failure inside of a success that says nothing of its kind: whether it passes is not known."""
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
    named = _named(status) if within is None else "with an error inside of a success"
    problem = f"{server} answers {named}{f': {said}' if said else ''}"
    if status not in {*_TROUBLES, 401, 402, 403} and (_cannot_see(said, request) or _TOO_LONG.search(said)):
        return SampleError(problem, hint_for(said, request))
    if _code(document) in _OUT_OF_CREDIT:
        return RunError(problem, f"{_HOPELESS[402]} {KEPT}")
    if within == HTTPStatus.NOT_FOUND:
        # Read out of the words alone: surely of this question, most likely of all.
        return SampleError(problem, _HOPELESS[404])
    if status == UNKNOWN:
        return RetryableError("server error", problem, most=_DOUBTFUL_ATTEMPTS)
    if status in _TROUBLES or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in {501, *_HOPELESS}):
        return RetryableError(_TROUBLES.get(status, "server error"), problem, retry_after(response.headers))
    return _final(status, problem, said, request)


def _final(status: int, problem: str, said: str, request: ChatRequest) -> MedbenchError:
    if status in _HOPELESS:
        return RunError(problem, f"{_HOPELESS[status]} {KEPT}")
    if status < HTTPStatus.BAD_REQUEST:
        return RunError(problem, "The base URL leads elsewhere: give the one that answers itself.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return SampleError(problem, "The pictures are too large for the server: --model-arg max_pixels=N.")
    return SampleError(problem, hint_for(said, request))


def _named(status: int) -> str:
    try:
        return f"HTTP {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return f"HTTP {status}"


def _code(document: object) -> object:
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return None
    return next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), None)


def words_of(response: "httpx2.Response", reading: Reading, document: object = None) -> str:
    """Return a server's words, on one line of bounded length: those of its JSON, of its plain text, or of its title."""
    document = json_or_none(response.content) if document is None else document
    return reading.message(document) or reading.message(_plain_text(response))


def _plain_text(response: "httpx2.Response") -> str:
    """Return a body that is plain text, or the title of a page: the rest of it says no more than the status does."""
    page = page_in(response)
    if page:
        return unescape(_title(page))
    is_text = response.headers.get("content-type", "").startswith("text/plain")
    return response.content.decode("utf-8", "replace") if is_text else ""


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


# Web pages in the place of answers

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
        return SampleError(problem, hint)
    return RetryableError("malformed", f"{problem} {hint}", most=_DOUBTFUL_ATTEMPTS)


def _title(page: str) -> str:
    found = _TITLE.search(page)
    return found.group(1) if found else ""


# Failures that are reported inside of a success

_CODE_FIELDS = ("code", "status", "status_code", "statusCode", "error_code", "type")
# What errors are called, in the words of OpenAI's, Google's, Anthropic's and FastChat's protocols.
_STATUS_NAMES: Mapping[str, int] = {
    **dict.fromkeys(("invalid_api_key", "authentication_error", "unauthorized", "unauthenticated"), 401),
    **dict.fromkeys(("insufficient_quota", "billing_hard_limit_reached", "account_deactivated", "billing_error"), 402),
    **dict.fromkeys(("permission_error", "permission_denied", "forbidden"), 403),
    **dict.fromkeys(("model_not_found", "not_found_error", "notfounderror", "not_found", "model_not_exist"), 404),
    **dict.fromkeys(("invalid_request_error", "badrequesterror", "bad_request", "invalid_argument", "valueerror",
                     "context_length_exceeded", "exceed_context_size_error", "invalid_parameter"), 400),
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "too_many_requests", "resource_exhausted"), 429),
    **dict.fromkeys(("server_error", "internal_error", "internal_server_error", "internalservererror"), 500),
    **dict.fromkeys(("overloaded_error", "overloaded", "service_unavailable", "unavailable", "engine_overloaded"), 503),
    **dict.fromkeys(("timeout", "timeout_error", "deadline_exceeded"), 504),
}  # fmt: skip
_PASSES = re.compile(
    r"over\s?load|busy|try again|retry|time[d ]?\s?out|temporar|unavailable|capacity|rate limit|too many requests"
    r"|out of memory|connection|upstream|is loading|internal (?:server )?error|interrupted",
    re.IGNORECASE,
)
_LASTS = re.compile(
    r"(?:model|deployment|engine|adapter)\b.{0,200}(?:not (?:loaded|found|available|served|supported)|n[o']t exist"
    r"|unknown|is no such)|(?:no such|unknown|invalid|unsupported) model|\A(?:page |route |path )?not found\.?\Z",
    re.IGNORECASE | re.DOTALL,
)
_WRONG_KEY = re.compile(
    r"(?:invalid|incorrect|missing|wrong|expired) (?:api )?(?:key|token)|unauthori[sz]ed", re.IGNORECASE
)
_SHORT_NUMBER = re.compile(r"[0-9]{1,6}")


def status_within(document: object) -> int | None:
    """Return the status of a failure that is reported inside of a success, or None if it is none.

    `UNKNOWN` if there is a failure and nothing says of what kind it is.
    """
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    # An error may stand beside choices of which none is an answer.
    bare = isinstance(error, dict) and type(error.get("code")) is int and _is_failure(error["code"])
    if document.get("choices") and not bare:
        return None
    said = Reading().message(document)
    if not said and document.get("success") is not False:
        return None
    if _LASTS.search(said) and not _PASSES.search(said):
        return 404
    if _WRONG_KEY.search(said):
        return 401
    return next(_statuses(document), 503 if _PASSES.search(said) else UNKNOWN)


def _statuses(document: Mapping[str, Any]) -> Iterator[int]:
    """Yield what the codes in an error say, the innermost first."""
    error = next((document[name] for name in ("error", "detail", "base_resp") if document.get(name)), None)
    places = [place for place in (error, document) if isinstance(place, dict)]
    found = (_status(place[name]) for place in places for name in _CODE_FIELDS if name in place)
    yield from (status for status in found if status is not None)


def _status(code: object) -> int | None:
    if isinstance(code, str) and not _SHORT_NUMBER.fullmatch(code.strip()):
        return _STATUS_NAMES.get(code.strip().lower())
    if isinstance(code, bool) or not isinstance(code, int | str):
        return None
    number = int(code)
    if _is_failure(number):
        return number
    # FastChat's five digits: 40303 is a prompt that is too long, so 403xx tells of one question, not of the key.
    longer = 400 if number // 100 == HTTPStatus.FORBIDDEN else number // 100
    return longer if _is_failure(longer) else None


def _is_failure(status: int) -> bool:
    return status in range(400, 600)


# What servers say when they refuse a question, and what can be done about it

# A model that sees nothing, in the words of vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, OpenAI, and of servers whose
# messages hold text alone.
_SEES_NOTHING = re.compile(
    r"""not\s+(?:a\s+)?(?:multi-?modal|vision)|(?:does|do|did|can)\s?(?:not|n'?t)\s+(?:currently\s+|yet\s+)?(?:support|accept|take|handle|allow|understand|see)\b
           .{0,60}(?:images?\b|image_url|vision|visual|multi-?modal|pictures?\b)
       |(?:images?\b|image_url|vision|multi-?modal|pictures?\b)(?:(?!size|resolution|format|dimension|pixel|large).){0,60}
           (?:not\s+(?:supported|enabled|allowed|available)|unsupported|isn'?t\s+supported|only\s+supported\s+by)
       |at\s+most\s+0\s+image|unknown\s+(?:variant|(?:content\s+|part\s+)?type)\W+image|(?:invalid|unsupported)\s+content\s+type\W.{0,20}image
       |missing\s+data\s+required\s+for\s+image|mmproj|support\s+image\s+input|only\s+(?:supports?\s+)?'?text'?\s+(?:content|inputs?|parts?)
       |text-only\s+model|unexpected\s+item\s+type\s+in\s+content|content\W+must\s+be\s+a\s+string""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)  # fmt: skip
_TOO_MANY = re.compile(r"at\s+most\s+[1-9]\d*\s+(?:image|picture)|too\s+many\s+(?:images|pictures)", re.IGNORECASE)
_PICTURE_TOO_LARGE = re.compile(
    r"(?:image|picture|payload|request|body)\b.{0,60}(?:too\s+large|too\s+big|exceeds?\b.{0,40}(?:\bMi?B\b|bytes|pixels|size))",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LONG = re.compile(
    r"""maximum\s+(?:context|model|sequence|input)\s+length|context[_\s](?:length|size|window)|max_model_len|max_seq_len
       |(?:prompt|inputs?(?:_ids)?|messages?)\b.{0,60}(?:too\s+long|longer\s+than|exceeds?\b)|too\s+many\s+tokens
       |inputs?\W+must\s+have\s+less
       |tokens?.{0,20}\+.{0,30}max_(?:new_|completion_)?tokens|reduce\s+(?:the\s+)?(?:length|your\s+prompt)
       |max_(?:completion_)?tokens\W+must\s+be\s+(?:at\s+least|greater)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_NOT_TAKEN = re.compile(
    r"""(?:un|not\s|n'?t\s|no\s+longer\s)support|unrecogni[sz]ed|unexpected|unknown|extra\s+(?:inputs|fields)|not\s+permitted
       |not\s+allowed|deprecated|invalid|must\s+be|only\s.{0,40}(?:default|support)|cannot\s+be|instead""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_TOO_MUCH = re.compile(
    r"too\s+(?:large|high|big)|at\s+most|maximum|less\s+than|<=?|exceed|greater\s+than", re.IGNORECASE
)
_STREAMS_ONLY = re.compile(
    r"only\s+supports?\s+(?:the\s+)?stream|stream\w*\s+(?:mode\s+)?(?:is\s+)?(?:required|must)|must\s+(?:be\s+)?(?:set\s+)?stream"
    r"|enable\s+the\s+stream|non-?stream\w*\b.{0,60}not\s+(?:supported|allowed)|requires?\s+stream", re.IGNORECASE,
)  # fmt: skip
_NO_SYSTEM = re.compile(r"system\s+(?:role|message|prompt)|roles\s+must\s+alternate", re.IGNORECASE)
_FILTERED = re.compile(
    r"content[_ ]?(?:filter|policy|management|moderation)|responsible\s?ai"
    r"|data_?inspection_?failed|inappropriate\s+content|prohibited[_ ]content|moderation[_ ]blocked|\bflagged\b"
    r"|safety\s+(?:system|filter|settings)",
    re.IGNORECASE,
)


def is_filtered(said: str) -> bool:
    """Return whether a server says that its filter let a question not through."""
    return _FILTERED.search(said) is not None


def only_streams(said: str) -> bool:
    """Return whether a server says that it answers in streams alone."""
    return _STREAMS_ONLY.search(said) is not None


def _cannot_see(said: str, request: ChatRequest) -> bool:
    """Return whether a server says that its model takes no images."""
    return bool(request.images and _SEES_NOTHING.search(said) and not _TOO_MANY.search(said))


def hint_for(said: str, request: ChatRequest) -> str:
    """Return what can be done about a refusal, or nothing where nothing is known."""
    images, too_long = request.images, bool(_TOO_LONG.search(said))
    smaller = f", send {images} picture{'s' * (images != 1)} smaller with --model-arg max_pixels=N" if images else ""
    ways = {
        "The model, or the way it is served, takes no pictures: choose tasks without any (--tasks pubmedqa,medqa; "
        "`medbench tasks` lists all), or serve a model that sees.": _cannot_see(said, request),
        "The server takes fewer pictures for one question: with vLLM, serve with --limit-mm-per-prompt image=N.": images
        and _TOO_MANY.search(said),
        "The pictures are too large for the server: --model-arg max_pixels=N sends smaller ones.": (
            images and _PICTURE_TOO_LARGE.search(said) and not too_long
        ),
        f"The question and an answer of {request.limit:,} tokens do not fit into the model: allow shorter answers "
        f"with --max-new-tokens N{smaller}, or serve the model with a longer context.": too_long,
        f"An answer of {request.limit:,} tokens was asked for: allow shorter ones with --max-new-tokens N.": (
            request.limit and request.length_field in said and _TOO_MUCH.search(said)
        ),
        "The server only streams, which is understood: --model-arg "
        """extra_body='{"stream": true, "stream_options": {"include_usage": true}}'""": only_streams(said),
    }
    return next((hint for hint, applies in ways.items() if applies), "") or _about_fields(said, request)


_WAYS_OUT: Mapping[str, str] = {
    "max_completion_tokens": "The server takes `max_tokens`: --model-arg profile=vllm",
    "max_tokens": "The server takes `max_completion_tokens`: --model-arg profile=openai",
    "temperature": "Send none: --model-arg temperature=unset",
    "top_p": "Leave out --model-arg top_p.",
    "seed": "Send none: --model-arg send_seed=no",
    "stop": "Leave out --model-arg stop, or let answers be cut here: --model-arg profile=transformers",
    "stream": """Leave it out: --model-arg extra_body='{"stream": null}'""",
    "system": "Leave out --model-arg system.",
}


def _about_fields(said: str, request: ChatRequest) -> str:
    """Return how not to send a field that a server does not take, if it names one that is sent."""
    if request.has_system and _NO_SYSTEM.search(said):
        return _WAYS_OUT["system"]
    if not _NOT_TAKEN.search(said):
        return ""
    named = [name for name in sorted(request.user_fields) if _names(said, name)]
    if named:
        return f"Leave {', '.join(named)} out of --model-arg extra_body."
    first = (request.length_field, *(name for name in _WAYS_OUT if "tokens" not in name))
    return next((_WAYS_OUT[name] for name in first if _names(said, name)), "")


def _names(said: str, name: str) -> bool:
    # `stop`, `seed` and `system` are words as well: they count where they are quoted, or begin what is said.
    plain = name not in {"stop", "seed", "system", "stream"}
    around = (r"(?<!\w)", r"(?!\w)") if plain else (r"(?:\A|['\"`])", r"['\"`:]")
    return re.search(f"{around[0]}{re.escape(name)}{around[1]}", said) is not None
