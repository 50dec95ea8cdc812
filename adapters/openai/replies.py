"""What a server's answer means. Everything in it is hostile: its shape, its texts and its numbers."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.base import StopReason
from adapters.openai.options import Prices
from adapters.remote import Reply, Scaled, Served, ServedGeneration, TryAgainError, Usage

_ENDED: Mapping[str, StopReason] = {"stop": "eos", "length": "length", "eos": "eos", "eos_token": "eos"}
_FILTERED = frozenset({"content_filter", "safety", "refusal", "recitation", "blocklist", "prohibited_content"})
_BROKEN_OFF = frozenset({"abort", "error", "cancelled"})
_SURROGATES = re.compile("[\ud800-\udfff]")
_FAILURES = range(400, 600)
_MOST_TOKENS = 10**12
_NAME_LENGTH = 200
_SHORT = 300


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


def parse_json(content: bytes) -> Any:  # noqa: ANN401 - a server may say anything
    """Return a server's JSON.

    Raises:
        TryAgainError: If it is none; a body that was cut off is not.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TryAgainError("malformed", "The server's answer is not JSON, or was cut off.") from error


def status_within(document: object) -> int | None:
    """Return the status of a failure that a gateway reports inside of a success, or None."""
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and code in _FAILURES else None


def read_reply(document: object, scaled: Sequence[Scaled], reading: Reading) -> Reply:
    """Return what the JSON of a successful answer says.

    Raises:
        TryAgainError: If it is not an answer.
    """
    if not isinstance(document, dict):
        raise TryAgainError("malformed", "The server's answer is no JSON object.")
    if document.get("error") and not document.get("choices"):
        said = message_of(document, reading.clean) or "it says nothing more"
        raise TryAgainError("server error", f"The server answers with an error: {said}")
    usage = _usage(document, reading)
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise TryAgainError("malformed", "The server's answer has no list of choices.")
    if not choices:
        return Reply(error="The server gave no answer: the list of choices is empty.", usage=usage)
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise TryAgainError("malformed", "The server's answer has no message.")
    served = Served(
        model=reading.words(document.get("model"))[:_NAME_LENGTH],
        finish_reason=reading.words(choice.get("finish_reason"))[:_NAME_LENGTH],
        scaled=tuple(scaled),
    )
    return _reply(choice, served, usage, reading)


def _reply(choice: Mapping[str, Any], served: Served, usage: Usage, reading: Reading) -> Reply:
    message, reason = choice["message"], served.finish_reason
    if reason.lower() in _FILTERED:
        return Reply(error=f"The server's content filter held the answer back (finish_reason {reason!r}).", usage=usage)
    if reason.lower() in _BROKEN_OFF or not reason:
        raise TryAgainError("server error", f"The server broke the answer off (finish_reason {reason!r}).")
    text = _text_of(message.get("content"), reading)
    if text is None:
        return Reply(error=_why_nothing(message, reason, reading), usage=usage)
    if reason not in _ENDED:
        return Reply(error=f"The server ended the answer for a reason of its own ({reason!r}).", usage=usage)
    cut, kept = _cut(text, reading.stop)
    # vLLM names the text that ended an answer; a number is an end token.
    stopped = cut or (_ENDED[reason] == "eos" and isinstance(choice.get("stop_reason"), str))
    generation = ServedGeneration(
        text=kept, stop="stop" if stopped else _ENDED[reason], prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens, served=served,
    )  # fmt: skip
    return Reply(generation=generation, usage=usage)


def _why_nothing(message: Mapping[str, Any], reason: str, reading: Reading) -> str:
    refusal = reading.words(message.get("refusal"))
    if refusal:
        return f"The model refused to answer: {_short(refusal)}"
    if message.get("tool_calls") or message.get("function_call"):
        return "The model called a tool instead of answering."
    if reason == "length":
        return (
            "The model wrote no answer within the limit of tokens (finish_reason 'length'): thoughts count as well. "
            "Raise --model-arg max_tokens."
        )
    return f"The server gave no text: the content is null (finish_reason {reason!r})."


def _text_of(content: object, reading: Reading) -> str | None:
    """Return the text of a message, also where it comes in parts; None if it has none."""
    if isinstance(content, str):
        return reading.words(content)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        return reading.words("".join(texts)) if texts else None
    if content is None:
        return None
    raise TryAgainError("malformed", "The content of the server's message is no text.")


def _cut(text: str, stops: Sequence[str]) -> tuple[bool, str]:
    """Return whether a stop text was found, and what stands before the first."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (True, text[: min(places)]) if places else (False, text)


def _usage(document: Mapping[str, Any], reading: Reading) -> Usage:
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    counted = Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        fingerprint=reading.words(document.get("system_fingerprint"))[:_NAME_LENGTH],
    )
    return counted if reading.prices is None else replace(counted, cost=reading.prices.of(counted))


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def message_of(document: object, clean: Callable[[str], str]) -> str:
    """Return what a server's error says, on one line of bounded length, in whichever of the usual places it stands."""
    found: Any = document
    for _ in range(3):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict):
            names = ("error", "message", "detail", "msg")
            found = next((found[name] for name in names if found.get(name)), found.get("code", ""))
    return _short(clean(_SURROGATES.sub("\ufffd", str(found)))) if isinstance(found, str | int) else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}..."
