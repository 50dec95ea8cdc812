"""What a server's answer means. Everything in it is hostile: its shape, its texts and its numbers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medbench.adapters.openai.contents import Message, read_message
from medbench.adapters.openai.endings import Ending, ending_of
from medbench.adapters.openai.reading import Reading, message_of, short
from medbench.adapters.remote import Reply, Scaled, Served, ServedGeneration, TryAgainError, Usage, Withheld

_MOST_TOKENS = 10**12
_LOOKED_AT = 4096
MISFILED = (
    "The server filed the whole answer as a thought: the content is empty, and all that was written stands in the "
    "reasoning, {length:,} characters.\n"
    "Its reasoning parser does not fit the model or the chat template. Serve the model without a reasoning parser (the "
    "thoughts are taken out here), or tell the template whether to think: "
    """--model-arg extra_body='{{"chat_template_kwargs": {{"enable_thinking": true}}}}'"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a reply answers.

    Attributes:
        scaled: Pictures that were made smaller.
        limit: Longest answer in tokens that was asked for; 0 where nothing was said.
    """

    scaled: tuple[Scaled, ...] = ()
    limit: int = 0


def parse_json(content: bytes, clean: Callable[[str], str] = str) -> Any:  # noqa: ANN401 - a server may say anything
    """Return a server's JSON.

    Raises:
        TryAgainError: If it is none; a body that was cut off is not.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        begins = content[:_LOOKED_AT].decode("utf-8", "replace").strip()
        # What begins as JSON was cut off, and its beginning explains nothing.
        words = "" if not begins or begins[0] in '{["' else f": {short(clean(begins))!r}"
        raise TryAgainError("malformed", f"The server's answer is not JSON, or was cut off{words}.") from error


def read_reply(document: object, sent: Sent, reading: Reading) -> Reply:
    """Return what the JSON of a successful answer says.

    Raises:
        TryAgainError: If it is not an answer.
    """
    if not isinstance(document, dict):
        raise TryAgainError("malformed", "The server's answer is no JSON object.")
    usage = _usage(document, reading)
    choices = document.get("choices")
    if not isinstance(choices, list):
        raise TryAgainError("malformed", "The server's answer has no list of choices.")
    if not choices:
        return Reply(error="The server gave no answer: the list of choices is empty.", usage=usage)
    choice = choices[0]
    if not isinstance(choice, dict):
        raise TryAgainError("malformed", "The server's answer has no message.")
    served = Served(
        model=reading.name(document.get("model")),
        finish_reason=reading.name(choice.get("finish_reason")),
        scaled=sent.scaled,
    )
    ending = ending_of(served.finish_reason)
    if ending == "broken off":
        said = message_of(choice.get("error"), reading.clean) or f"finish_reason {served.finish_reason!r}"
        raise TryAgainError("server error", f"The server broke the answer off: {said}")
    # A filter may leave no message at all.
    message = choice.get("message") or ({} if ending == "filtered" else None)
    if not isinstance(message, dict):
        raise TryAgainError("malformed", "The server's answer has no message.")
    return _reply({**choice, "message": message}, served, usage, sent, reading)


def withheld_reply(sent: Sent, usage: Usage | None = None) -> Reply:
    """Return the reply of a service that let nobody answer a question: its filter stopped it before the model."""
    served = Served(model="", finish_reason="content_filter", scaled=sent.scaled, withheld="content filter")
    return Reply(generation=ServedGeneration(text="", served=served), usage=usage or Usage())


def _reply(choice: Mapping[str, Any], served: Served, usage: Usage, sent: Sent, reading: Reading) -> Reply:
    message, ending = read_message(choice["message"], reading), ending_of(served.finish_reason)
    silent = not message.text.strip()
    if ending == "unsaid":
        if silent and not (message.reasoning or message.refusal or message.calls):
            raise TryAgainError("malformed", "The server's answer has neither a text nor a reason for its end.")
        ending = "length" if 0 < sent.limit <= usage.output_tokens else "eos"
    withheld = _withheld(message, ending, silent=silent)
    if silent and not withheld and message.reasoning and ending != "length":
        return Reply(error=MISFILED.format(length=len(message.reasoning)), usage=usage)
    text = message.refusal if silent and withheld == "refusal" else message.text
    cut, kept = _cut(text, reading.stop)
    # vLLM names the text that ended an answer; a number is an end token.
    stopped = cut or ending == "stop" or (ending == "eos" and isinstance(choice.get("stop_reason"), str))
    generation = ServedGeneration(
        text=kept, stop="stop" if stopped else "length" if ending == "length" else "eos",
        prompt_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens, thought_tokens=usage.thought_tokens,
        reasoning=message.reasoning, served=replace(served, withheld=withheld),
    )  # fmt: skip
    return Reply(generation=generation, usage=usage)


def _withheld(message: Message, ending: Ending, *, silent: bool) -> Withheld:
    """Return what stands in the place of an answer; the model and its service decided so, and no machine failed."""
    if ending == "filtered":
        return "refusal" if message.refusal else "content filter"
    if silent and message.refusal:
        return "refusal"
    return "tool call" if silent and (message.calls or ending == "tool") else ""


def _cut(text: str, stops: Sequence[str]) -> tuple[bool, str]:
    """Return whether a stop text was found, and what stands before the first."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (True, text[: min(places)]) if places else (False, text)


def _usage(document: Mapping[str, Any], reading: Reading) -> Usage:
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    thought = _detail(usage, "completion_tokens_details", "reasoning_tokens") or _count(usage.get("reasoning_tokens"))
    if thought and _count(usage.get("total_tokens")) == read + written + thought:
        # Some count thoughts beside what was written, not as part of it.
        written += thought
    counted = Usage(
        prompt_tokens=read, output_tokens=written, thought_tokens=min(thought, written),
        cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        fingerprint=reading.name(document.get("system_fingerprint")),
    )  # fmt: skip
    return counted if reading.prices is None else replace(counted, cost=reading.prices.of(counted))


def _detail(usage: Mapping[str, Any], details: str, name: str) -> int:
    found = usage.get(details)
    return _count(found.get(name)) if isinstance(found, dict) else 0


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0
