"""What a server's answer means. Everything in it is hostile; what is no answer raises RetryableError."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medbench.adapters.openai.requests import ChatRequest
from medbench.adapters.remote import Reply, RetryableError, Served, ServedGeneration, Usage, Withheld
from medbench.tasks.foundation.files import json_value, read_yaml_table

# No answer of a benchmark is thought over for longer; what a server invents must not fill the disk.
MOST_REASONING = 1_000_000
_MOST_TOKENS = 10**12
_LONGEST_NAME = 200
_LONGEST_MESSAGE = 300
_LOOKED_AT = 4096
_DEEPEST_MESSAGE = 4
_DEEPEST_THOUGHT = 5
_SURROGATES = re.compile("[\ud800-\udfff]")
_NAMES = read_yaml_table(Path(__file__).with_suffix(".yaml"))
TELLING: Sequence[str] = _NAMES["telling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How replies are read: texts that end them, what their tokens cost, and what takes secrets out of a text."""

    stop: tuple[str, ...] = ()
    cost_of: Callable[[Usage], float | None] = lambda _: None
    clean: Callable[[str], str] = str

    def words(self, value: object) -> str:
        """Return a text of the server that can be written to a file, or nothing if it is no text."""
        return self.clean(_SURROGATES.sub("\ufffd", value)) if isinstance(value, str) else ""

    def name(self, value: object) -> str:
        """Return a short text of the server: a name, a mark, a reason."""
        return self.words(value)[:_LONGEST_NAME]

    def message(self, document: object) -> str:
        """Return what a server's error says, on one line of bounded length, wherever of the usual places it stands."""
        found: Any = document
        for _ in range(_DEEPEST_MESSAGE):
            if isinstance(found, list) and found:
                found = found[0]
            if isinstance(found, dict):
                fields = {str(name).lower(): value for name, value in found.items()}
                said = (fields[name] for name in _NAMES["message"] if fields.get(name) and fields[name] is not True)
                found = next(said, fields.get("code", ""))
        is_said = isinstance(found, str | int) and not isinstance(found, bool)
        return _short(self.words(str(found))) if is_said else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."


def parse_json(content: bytes, reading: Reading) -> Any:  # noqa: ANN401 - a server may say anything
    """Return a server's JSON, or RetryableError if it is none; a body that was cut off is not."""
    try:
        return json_value(content)
    except ValueError as error:
        begins = content[:_LOOKED_AT].decode("utf-8", "replace").strip()
        # What begins as JSON was cut off, and its beginning explains nothing.
        words = "" if not begins or begins[0] in '{["' else f": {_short(reading.clean(begins))!r}"
        raise RetryableError("malformed", f"The server's answer is not JSON, or was cut off{words}.") from error


Ending = Literal["eos", "stop", "length", "filtered", "broken off", "tool", "unsaid"]
"""What a reason means. `filtered`: a filter, or the model itself, held the answer back. `broken off`: the server
failed. `unsaid`: there is no reason, or one that nobody knows."""
_ENDINGS: Mapping[Ending, str] = _NAMES["endings"]


def ending_of(reason: str) -> Ending:
    """Return what a reason means, however it is spelt: `max_tokens_reached`, `content_filter: HATE`, `End Turn`...

    An answer is not thrown away for a word that nobody knows: the word stays in its record, and the count of tokens
    decides whether the answer was cut off, as it does where there is no reason.
    """
    plain = re.sub(r"[\s\-]+", "_", reason.strip().lower())
    plain = plain.removeprefix("finishreason.").removeprefix("finish_reason_")
    return next((ending for ending, pattern in _ENDINGS.items() if re.search(pattern, plain)), "unsaid")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A server's message taken apart: the answer, thoughts filed apart from it, words of a refusal, calls of tools."""

    text: str
    reasoning: str
    refusal: str
    calls: bool


def _read_message(message: Mapping[str, Any], reading: Reading) -> _Message:
    content = message.get("content")
    if content is not None and not isinstance(content, str | list | dict):
        raise RetryableError("malformed", "The content of the server's message is no text.")
    parts = content if isinstance(content, list) else [] if content is None else [content]
    filed = next((found for name in _NAMES["reasoning"] if (found := _words_in(message.get(name))).strip()), "")
    thoughts = reading.words(filed or "".join(_words_in(part) for part in parts if _is_thought(part)))
    refusals = [mapping(part).get("refusal") for part in parts]
    return _Message(
        text=reading.words("".join(map(_text_of, parts))),
        reasoning=thoughts if len(thoughts) <= MOST_REASONING else f"{thoughts[:MOST_REASONING]}...",
        refusal=reading.words(_words_in(message.get("refusal")) or "".join(map(_words_in, refusals))),
        calls=bool(message.get("tool_calls") or message.get("function_call")),
    )


def _is_thought(part: object) -> bool:
    kind, marked = mapping(part).get("type"), mapping(part).get("thought") is True
    return marked or (isinstance(kind, str) and kind.partition(".")[0] in _NAMES["thought parts"])


def _text_of(part: object) -> str:
    if isinstance(part, str):
        return part
    text = None if _is_thought(part) else mapping(part).get("text")
    # Some file a text as an object of its own: {"text": {"value": ...}}.
    text = mapping(text).get("value", text)
    return text if isinstance(text, str) else ""


def _words_in(value: object, depth: int = _DEEPEST_THOUGHT) -> str:
    """Return the words in a field of thoughts: a text, a part with a text, or a list of parts, of parts..."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "".join(_words_in(part, depth - 1) for part in value)
    if isinstance(value, dict) and depth:
        return next((words for name in _NAMES["words"] if (words := _words_in(value.get(name), depth - 1))), "")
    return ""


def read_reply(document: object, request: ChatRequest, reading: Reading) -> Reply:
    """Return what the JSON of a successful answer says."""
    if not isinstance(document, dict):
        raise RetryableError("malformed", "The server's answer is no JSON object.")
    usage = _read_usage(document, reading)
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise RetryableError("malformed", "The server's answer has no list of choices.")
    if not choices:
        return Reply(error="The server gave no answer: the list of choices is empty.", kind="malformed", usage=usage)
    choice = mapping(choices[0])
    reason = reading.name(choice.get("finish_reason"))
    if ending_of(reason) == "broken off":
        said = reading.message(choice.get("error")) or f"finish_reason {reason!r}"
        raise RetryableError("server error", f"The server broke the answer off: {said}")
    # A filter may leave no message at all.
    message = choice.get("message") or ({} if ending_of(reason) == "filtered" else None)
    if not isinstance(message, dict):
        raise RetryableError("malformed", "The server's answer has no message.")
    served = Served(model=reading.name(document.get("model")), finish_reason=reason, scaled=request.scaled)
    # vLLM names the text that ended an answer; a number is an end token.
    named_stop = isinstance(choice.get("stop_reason"), str)
    return _reply(_read_message(message, reading), served, usage, request, reading, named_stop=named_stop)


def withheld_reply(request: ChatRequest) -> Reply:
    """Return the reply of a service that let nobody answer a question: its filter stopped it before the model."""
    served = Served(model="", finish_reason="content_filter", scaled=request.scaled, withheld="content filter")
    return Reply(generation=ServedGeneration(text="", served=served))


def _reply(
    message: _Message, served: Served, usage: Usage, request: ChatRequest, reading: Reading, *, named_stop: bool
) -> Reply:
    ending, silent = ending_of(served.finish_reason), not message.text.strip()
    if ending == "unsaid":
        if silent and not (message.reasoning or message.refusal or message.calls):
            raise RetryableError("malformed", "The server's answer has neither a text nor a reason for its end.")
        ending = "length" if 0 < request.limit <= usage.output_tokens else "eos"
    # What stands in the place of an answer; the model and its service decided so, and no machine failed.
    withheld: Withheld = ""
    if message.refusal and (silent or ending == "filtered"):
        withheld = "refusal"
    elif ending == "filtered":
        withheld = "content filter"
    elif silent and (message.calls or ending == "tool"):
        withheld = "tool call"
    if silent and not withheld and message.reasoning and ending != "length":
        problem = _NAMES["misfiled"].format(length=len(message.reasoning))
        return Reply(error=problem, kind="malformed", usage=usage)
    text = message.refusal if silent and withheld == "refusal" else message.text
    found = [place for stop in reading.stop if (place := text.find(stop)) >= 0]
    stopped = bool(found) or ending == "stop" or (ending == "eos" and named_stop)
    generation = ServedGeneration(
        text=text[: min(found)] if found else text,
        stop="stop" if stopped else "length" if ending == "length" else "eos",
        prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens, thought_tokens=usage.thought_tokens,
        reasoning=message.reasoning, served=replace(served, withheld=withheld),
    )  # fmt: skip
    return Reply(generation=generation, usage=usage)


def _read_usage(document: Mapping[str, Any], reading: Reading) -> Usage:
    usage = mapping(document.get("usage"))
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    details = mapping(usage.get("completion_tokens_details"))
    thought = _count(details.get("reasoning_tokens")) or _count(usage.get("reasoning_tokens"))
    if thought and _count(usage.get("total_tokens")) == read + written + thought:
        # Some count thoughts beside what was written, not as part of it.
        written += thought
    counted = Usage(
        prompt_tokens=read, output_tokens=written, thought_tokens=min(thought, written),
        cached_tokens=_count(mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
        fingerprint=reading.name(document.get("system_fingerprint")),
    )  # fmt: skip
    return replace(counted, cost=reading.cost_of(counted))


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


_STREAM_FIELDS = ("data:", "event:", "id:", "retry:", ":")
# Event streams end lines in any of three ways (HTML standard, section 9.2.6).
_LINE_ENDS = re.compile("\r\n|\n|\r")
_GROWING = ("content", "refusal", *_NAMES["reasoning"], "tool_calls", "function_call")


def is_stream(content: bytes, content_type: str = "") -> bool:
    """Return whether a body is a stream of events, by what the server calls it or by how it begins."""
    begins = content[:200].decode("utf-8", "replace").lstrip("\ufeff\r\n\t ")
    return content_type.lower().startswith("text/event-stream") or begins.startswith(_STREAM_FIELDS)


def assembled(content: bytes) -> Any:  # noqa: ANN401 - a server may say anything
    """Return the one document that a stream's events make up; an error among them is the document."""
    pieces, first, lasting = dict[str, list[Any]](), dict[str, Any](), dict[str, Any]()
    for data in _events(content):
        if data.strip() == "[DONE]":
            break
        try:
            chunk = json_value(data)
        except ValueError as error:
            raise RetryableError("malformed", "An event of the server's stream is not JSON, or was cut off.") from error
        if not isinstance(chunk, dict):
            continue
        # An event that says nothing only keeps the connection open.
        choices = chunk.get("choices")
        if chunk.get("error") or not (isinstance(choices, list) or not Reading().message(chunk)):
            return {name: value for name, value in chunk.items() if name != "choices"}
        lasting |= _said(chunk, "model", "system_fingerprint", "usage")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                first |= _said(choice, "finish_reason", "stop_reason", "error")
                message = choice.get("message")
                # A whole message in one event is the answer so far, not more of it.
                pieces = {} if isinstance(message, dict) else pieces
                grown = mapping(message if isinstance(message, dict) else choice.get("delta"))
                for name, piece in _said(grown, *_GROWING).items():
                    pieces.setdefault(name, []).append(piece)
    else:
        if "finish_reason" not in first:
            raise RetryableError("cut off", "The server's stream of events ended before the answer did.")
    whole = {name: _joined(some) for name, some in pieces.items()}
    return {**lasting, "choices": [{**first, "message": {"content": None, **whole}}]}


def _said(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: document[name] for name in names if document.get(name)}


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


def _joined(pieces: list[Any]) -> Any:  # noqa: ANN401 - texts, or parts of whatever kind
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    return [part for piece in pieces for part in (piece if isinstance(piece, list) else [piece])]
