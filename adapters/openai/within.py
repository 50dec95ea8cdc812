"""Failures that a server or a gateway reports inside of a success: which status they would have had."""

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from medbench.adapters.openai.reading import message_of

_FAILURES = range(400, 600)
_CODES = ("code", "status", "status_code", "statusCode", "error_code", "type")
# What errors are called, in the words of OpenAI's, Google's, Anthropic's and FastChat's protocols.
_NAMED: Mapping[str, int] = {
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
_PASSING = re.compile(
    r"over\s?load|busy|try again|retry|time[d ]?\s?out|temporar|unavailable|capacity|rate limit|too many requests"
    r"|out of memory|connection|upstream|is loading|internal (?:server )?error|interrupted",
    re.IGNORECASE,
)
_LASTING = re.compile(
    r"(?:model|deployment|engine|adapter)\b.{0,200}(?:not (?:loaded|found|available|served|supported)|n[o']t exist"
    r"|unknown|is no such)|(?:no such|unknown|invalid|unsupported) model|\A(?:page |route |path )?not found\.?\Z",
    re.IGNORECASE | re.DOTALL,
)
_KEYS = re.compile(r"(?:invalid|incorrect|missing|wrong|expired) (?:api )?(?:key|token)|unauthori[sz]ed", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,6}")
UNKNOWN = 200
"""Where a failure says nothing of its kind: whether it passes is not known."""


def status_within(document: object) -> int | None:
    """Return the status of a failure that is reported inside of a success, or None if it is none.

    `UNKNOWN` if there is a failure and nothing says of what kind it is.
    """
    if not isinstance(document, dict):
        return None
    if document.get("choices") and not _is_bare_failure(document):
        return None
    said = message_of(document, str)
    if not said and document.get("success") is not False:
        return None
    if _LASTING.search(said) and not _PASSING.search(said):
        return 404
    if _KEYS.search(said):
        return 401
    return next(_statuses(document), 503 if _PASSING.search(said) else UNKNOWN)


def _is_bare_failure(document: Mapping[str, Any]) -> bool:
    """Return whether an error stands beside choices of which none is an answer."""
    error = document.get("error")
    return isinstance(error, dict) and type(error.get("code")) is int and error["code"] in _FAILURES


def _statuses(document: Mapping[str, Any]) -> Iterator[int]:
    """Yield what the codes in an error say, the innermost first."""
    error = next((document[name] for name in ("error", "detail", "base_resp") if document.get(name)), None)
    places = [place for place in (error, document) if isinstance(place, dict)]
    found = (_status(place[name]) for place in places for name in _CODES if name in place)
    yield from (status for status in found if status is not None)


def _status(code: object) -> int | None:
    if isinstance(code, str) and not _NUMBER.fullmatch(code.strip()):
        return _NAMED.get(code.strip().lower())
    if isinstance(code, bool) or not isinstance(code, int | str):
        return None
    number = int(code)
    if number in _FAILURES:
        return number
    # FastChat's five digits: 40303 is a prompt that is too long, so 403xx tells of one question, not of the key.
    longer = number // 100
    return (HTTPStatus.BAD_REQUEST if longer == HTTPStatus.FORBIDDEN else longer) if longer in _FAILURES else None
