"""What stands in a server's message: the answer, the thoughts that are filed apart from it, the words of a refusal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medbench.adapters.openai.reading import Reading
from medbench.adapters.remote import TryAgainError

# The same thoughts often stand under several of these names: the first that holds any is read, and no other.
REASONING_FIELDS = (
    "reasoning_content", "reasoning", "reasoning_text", "thinking", "thought", "reasoning_details", "thinking_blocks",
)  # fmt: skip
_THOUGHTS = frozenset({"thinking", "reasoning", "thought", "reasoning_content", "reasoning_text", "redacted_thinking"})
_WORDS = ("text", "thinking", "reasoning", "reasoning_content", "thought", "content", "summary")
_NESTED = 5
# No answer of a benchmark is thought over for longer; what a server invents must not fill the disk.
MOST_REASONING = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A server's message taken apart.

    Attributes:
        text: The answer, as it stands; empty if there is none.
        reasoning: Thoughts that are filed apart from it.
        refusal: The model's own words of refusal, where they are filed as such.
        calls: Whether it calls a tool.
    """

    text: str
    reasoning: str
    refusal: str
    calls: bool


def read_message(message: Mapping[str, Any], reading: Reading) -> Message:
    """Return what stands in a message, whether it is filed in fields or in parts of the content.

    Raises:
        TryAgainError: If its content is nothing that a message holds.
    """
    content = message.get("content")
    if content is not None and not isinstance(content, str | list | dict):
        raise TryAgainError("malformed", "The content of the server's message is no text.")
    parts = content if isinstance(content, list) else [] if content is None else [content]
    filed = next((found for name in REASONING_FIELDS if (found := _words_in(message.get(name))).strip()), "")
    thoughts = "".join(_words_in(part) for part in parts if _is_thought(part))
    refusals = [part.get("refusal") for part in parts if isinstance(part, dict)]
    return Message(
        text=reading.words("".join(_text_of(part) for part in parts)),
        reasoning=bounded(reading.words(filed or thoughts)),
        refusal=reading.words(_words_in(message.get("refusal")) or "".join(map(_words_in, refusals))),
        calls=bool(message.get("tool_calls") or message.get("function_call")),
    )


def bounded(reasoning: str) -> str:
    """Return thoughts, the end of endless ones left out."""
    return reasoning if len(reasoning) <= MOST_REASONING else f"{reasoning[:MOST_REASONING]}..."


def _is_thought(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return part.get("thought") is True or (isinstance(kind, str) and kind.partition(".")[0] in _THOUGHTS)


def _text_of(part: object) -> str:
    """Return what a part of the content adds to the answer."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or _is_thought(part):
        return ""
    text = part.get("text")
    # Some file a text as an object of its own: {"text": {"value": ...}}.
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


def _words_in(value: object, depth: int = _NESTED) -> str:
    """Return the words in a field of thoughts: a text, a part with a text, or a list of parts, of parts..."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "".join(_words_in(part, depth - 1) for part in value)
    if isinstance(value, dict) and depth:
        return next((words for name in _WORDS if (words := _words_in(value.get(name), depth - 1))), "")
    return ""
