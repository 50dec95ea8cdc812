"""Thoughts before answers, taken out in one place before an answer of any kind is read; marks and labels of answers.

Models mark their thoughts in many ways: in tags (`<think>`, `<thinking>`, `<reasoning>`, `[THINK]`, `◁think▷`), in
channels (gpt-oss, Gemma 4), between tokens of their own (MedGemma, Command A), under headings (HuatuoGPT-o1). Often
the chat template writes the beginning, so that only the end is in the answer. A thought that never ends is one that was
cut off: what stands in it is no answer, however much it looks like one.

Behind the thoughts, an answer may be marked (`<answer>...</answer>`, `\\boxed{...}`); then it is what is marked. Tokens
that end a turn end the answer. It may also be the value of a field of JSON that is called an answer, read also where it
is cut off or not quite JSON, or follow a label, which is no part of it, no more than markup is. Words of a sentence
are: `The answer is liver` stays as it is, and so does a label in the midst of a text, behind which a model may go on
with a question of its own. Only `Final answer:` at the beginning of a line says that the answer comes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medbench.tasks.answers.texts import plain_characters, plain_text
from medbench.tasks.answers.wording import phrase, word_lists

SIGNATURE = "answer=final"
"""Part of a number's signature: thoughts, marks of the answer and end tokens were taken out as this module does."""
MARKS: tuple[str, ...] = tuple(word_lists()["marks"].split())
"""Tokens that set thoughts or answers apart. Where a tokenizer calls them special, they must stay in a model's text."""
# Channels where special tokens were left out of the text: their names run into it.
_BARE_CHANNEL, _BARE_ENDS = re.compile(r"\A\s*(?:assistant\s*)?analysis(?=[A-Z\"'(*\d])"), "assistantfinal"
_NESTED, _MOST_LABELS, _HOLDERS = 3, 3, ("tag", "bracket", "token", "boxed")
_VALUE = re.compile(r"""\s*(?:"((?:[^"\\]|\\.){0,2000})"|'((?:[^'\\]|\\.){0,2000})'|([^,}\n]{0,400}))""")
_Object = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtAndAnswer:
    """A model's answer without thoughts, marks and end tokens, what it thought, and whether a thought was cut off."""

    answer: str  # Empty if it never came to one.
    thought: str = ""  # Empty if there was none, or none in the open.
    unfinished: bool = False
    end: int = field(default=0, compare=False)  # Where in the raw text its last mark of a thought is over.


def split_thought(text: str) -> ThoughtAndAnswer:
    """Return the answer and the thought in a model's raw text; pure, and linear in its length."""
    if channels := list(phrase("thought_channel").finditer(text)):
        said = _of_channels(text, channels)
    elif begun := _BARE_CHANNEL.match(text):
        thought, ended, answer = text[begun.end() :].rpartition(_BARE_ENDS)
        if not ended:
            return ThoughtAndAnswer(answer="", thought=answer.strip(), unfinished=True)
        said = ThoughtAndAnswer(answer=answer, thought=thought.strip(), end=len(text) - len(answer))
    else:
        said = _by_marks(text)
    if said.unfinished:
        return said
    turn = _until_turn_ends(phrase("answer_prefix").sub("", phrase("thought_turn_begins").sub("", said.answer)))
    return replace(said, answer=_marked(turn.strip()))


def final_answer(text: str) -> str:
    """Return the answer in a model's raw text; what is one already stays as it is, but for blanks around it."""
    return split_thought(text).answer


def thought_end(text: str) -> int:
    """Return how many characters of a raw text pass until its last thought is over; all of them if it never is."""
    said = split_thought(text)
    return len(text) if said.unfinished else said.end if said.thought else 0


def _of_channels(text: str, channels: Sequence[re.Match[str]]) -> ThoughtAndAnswer:
    ends = [*(match.start() for match in channels[1:]), len(text)]
    parts = [(match[1].lower(), text[match.end() : end]) for match, end in zip(channels, ends, strict=True)]
    thoughts = "\n".join(_until_turn_ends(part) for name, part in parts if name != "final").strip()
    final, end = dict(parts).get("final"), channels[-1].end()
    return ThoughtAndAnswer(answer=final or "", thought=thoughts, unfinished=final is None, end=end)


def _by_marks(text: str) -> ThoughtAndAnswer:
    """Take out what stands between marks; an end without a beginning ends what the chat template began."""
    kept: list[str] = []
    thoughts: list[str] = []
    place, open_mark = 0, ""
    for mark in phrase("thought_mark").finditer(text):
        kind = mark.lastgroup or ""
        if kind.startswith("begin") and not open_mark:
            kept.append(text[place : mark.start()])
            place, open_mark = mark.end(), kind
        elif kind == "end" or (kind == "end_heading" and open_mark == "begin_heading"):
            if not open_mark:
                # Everything before was thought, also what stood between thoughts.
                thoughts, kept = thoughts + kept, []
            thoughts.append(text[place : mark.start()])
            place, open_mark = mark.end(), ""
    forgotten = _answer_at_the_end(text, place) if open_mark else None
    if forgotten is not None:
        # The end was forgotten, but the answer is marked as such, and nothing follows.
        thoughts.append(text[place:forgotten])
        place, open_mark = forgotten, ""
    (thoughts if open_mark else kept).append(text[place:])
    thought, answer = "\n".join(filter(None, map(str.strip, thoughts))), "" if open_mark else "".join(kept).strip()
    return ThoughtAndAnswer(answer=answer, thought=thought, unfinished=bool(open_mark), end=place)


def _answer_at_the_end(text: str, place: int) -> int | None:
    begins = [match.start() for match in phrase("thought_answer_begins").finditer(text, place)]
    ending = phrase("turn_ends").sub("", text[begins[-1] :]).rstrip() if begins else ""
    return begins[-1] if phrase("thought_answer_ends").search(ending) else None


def _until_turn_ends(text: str) -> str:
    place = 0
    for match in phrase("turn_ends").finditer(text):
        if text[place : match.start()].strip():
            return text[place : match.start()]
        place = match.end()
    return text[place:]


def _marked(text: str, depth: int = _NESTED) -> str:
    """Return what a text marks as its answer, the last time, or else itself; one in a tag may be boxed too."""
    marks = list(phrase("answer_mark").finditer(text)) if depth else []
    if not marks:
        return text.strip()
    first = len(marks) - 1
    while first and phrase("between_marks").fullmatch(text, marks[first - 1].end(), marks[first].start()):
        first -= 1
    parts: list[str] = []
    end = marks[first].start()
    for mark in marks[first:]:
        inside = _marked(next(mark[name] for name in _HOLDERS if mark[name] is not None), depth - 1)
        if not parts or inside != parts[-1]:
            between = text[end : mark.start()].strip(" \n\t$") or "or"
            parts += [between, inside] if parts else [inside]
        end = mark.end()
    return " ".join(parts).strip() or text


def answer_itself(text: str) -> str:
    """Return an answer without markup and labels; of one that ends with a `Final answer:`, what stands behind it."""
    values, beside = answer_fields(text) or ([], "")
    if len(set(values)) == 1 and values[0] and not plain_text(beside):
        return plain_text(values[0])
    plain = plain_text(text)
    for match in phrase("thought_final").finditer(plain):
        plain = match.string[match.end() :]
    for _ in range(_MOST_LABELS):
        plain = phrase("field_label").sub("", plain)
    return plain.strip()


def answer_fields(text: str) -> tuple[list[str], str] | None:
    """Return the values (empty of no single one) of JSON fields called an answer, and the rest; None if none is."""
    if "{" not in text:
        return None
    start, end = text.find("{"), text.rfind("}") + 1
    document = _document(text[start:end]) or _document(plain_characters(text[start:end]))
    if document is not None:
        values = _named(document)
        return (values, f"{text[:start]}\n{text[end:]}") if values else None
    text = plain_characters(text)
    found = [_value_behind(text, match.end()) for match in phrase("field_named").finditer(text)]
    return (found, "") if found else None


def _document(text: str) -> _Object | None:
    """Return an object of JSON as its pairs, also those of the same name; one that only wraps another is that."""
    try:
        # Arrays become lists, so that a tuple is an object.
        document = json.loads(text, strict=False, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, tuple):
        return None
    nested = [value for _, value in document if isinstance(value, tuple)]
    return nested[0] if len(nested) == 1 and not _named(document) else document


def _named(document: _Object) -> list[str]:
    return [_single(value) for key, value in document if phrase("thought_is_name").fullmatch(key)]


def _single(value: object) -> str:
    if isinstance(value, list | tuple):
        inner = [_single(one) for one in value] if isinstance(value, list) else _named(value)
        return inner[0] if len(inner) == 1 else ""
    return str(value).strip() if isinstance(value, str | int) else ""


def _value_behind(text: str, place: int) -> str:
    match = _VALUE.match(text, place)
    value = (match[match.lastindex] if match and match.lastindex else "").strip()
    return "" if value.startswith(("[", "{")) and not value.endswith(("]", "}")) else value.strip("[]{}\"' ")
