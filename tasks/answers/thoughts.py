"""What a model thinks before it answers, taken out in one place before an answer of any kind is read.

Models mark their thoughts in many ways: in tags (`<think>`, `<thinking>`, `<reasoning>`, `[THINK]`, `◁think▷`), in
channels (gpt-oss, Gemma 4), between tokens of their own (MedGemma, Command A), under headings (HuatuoGPT-o1). Often the
chat template writes the beginning, so that only the end is in the answer. A thought that never ends is one that was cut
off: what stands in it is no answer, however much it looks like one.

Behind the thoughts, an answer may be marked (`<answer>...</answer>`, `\\boxed{...}`); then it is what is marked. Tokens
that end a turn end the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medbench.tasks.answers.wording import pattern, word_lists

SIGNATURE = "answer=final"
"""Part of a number's signature: thoughts, marks of the answer and end tokens were taken out as this module does."""

# Each way of marking has a beginning and an end; text between them is a thought. A heading begins one at the very start
# of a text only, and ends only what a heading began: reports have headings too.
_MARK = pattern("{thought_mark}", re.IGNORECASE | re.MULTILINE)
_ANSWER_BEGINS = pattern(r"<(?:{answer_tags})>|\[answer\]")
_ANSWER_ENDS = pattern(r"(?:</(?:{answer_tags})>|\[/answer\])\Z")

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.IGNORECASE)
# The same where special tokens were left out of the text: the names of the channels run into it.
_BARE_CHANNEL = re.compile(r"\A\s*(?:assistant\s*)?analysis(?=[A-Z\"'(*\d])")
_BARE_ENDS = "assistantfinal"

_MARKED = pattern("{answer_mark}", re.IGNORECASE | re.DOTALL)
# Marks side by side (`\boxed{A} or \boxed{B}`) are one answer that names several.
_BETWEEN = re.compile(r"[\s,;/&$.]*(?:and|or)?[\s,;/&$.]*", re.IGNORECASE)
_NESTED = 3
_HOLDERS = ("tag", "bracket", "token", "boxed")
_ANSWER_PREFIX = re.compile(r"\A\s*<\|(?:start_response|response_start)\|>\s*", re.IGNORECASE)

_TURN_BEGINS = pattern(r"\A(?:\s*(?:{turn_begins}))+")
_TURN_ENDS = pattern("{turn_ends}")

MARKS: tuple[str, ...] = tuple(word_lists()["marks"].split())
"""Tokens that set thoughts or answers apart. Where a tokenizer calls them special, they must stay in a model's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtAndAnswer:
    """A model's answer without thoughts, marks and end tokens, what it thought, and whether a thought was cut off.

    The answer is empty if it never came to one, the thought if there was none, or none in the open.
    """

    answer: str
    thought: str = ""
    unfinished: bool = False


def split_thought(text: str) -> ThoughtAndAnswer:
    """Return the answer and the thought in a model's raw text; pure, and linear in its length."""
    said = _split(text)[0]
    if said.unfinished:
        return said
    return ThoughtAndAnswer(answer=_marked(_turn(said.answer)), thought=said.thought)


def final_answer(text: str) -> str:
    """Return the answer in a model's raw text; what is one already stays as it is, but for blanks around it."""
    return split_thought(text).answer


def thought_end(text: str) -> int:
    """Return how many characters of a raw text pass until its last thought is over; all of them if it never is."""
    said, end = _split(text)
    if said.unfinished:
        return len(text)
    return end if said.thought else 0


def _split(text: str) -> tuple[ThoughtAndAnswer, int]:
    """Return what a text thinks and answers, and where its last thought is over."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        return _of_channels(text, channels), channels[-1].end()
    begun = _BARE_CHANNEL.match(text)
    if begun is None:
        return _by_marks(text)
    thought, ended, answer = text[begun.end() :].rpartition(_BARE_ENDS)
    if not ended:
        return ThoughtAndAnswer(answer="", thought=answer.strip(), unfinished=True), len(text)
    return ThoughtAndAnswer(answer=answer, thought=thought.strip()), len(text) - len(answer)


def _of_channels(text: str, channels: Sequence[re.Match[str]]) -> ThoughtAndAnswer:
    """Take the channels of gpt-oss apart."""
    ends = [*(match.start() for match in channels[1:]), len(text)]
    parts = [(match[1].lower(), text[match.end() : end]) for match, end in zip(channels, ends, strict=True)]
    thoughts = "\n".join(_until_turn_ends(part) for name, part in parts if name != "final").strip()
    finals = [part for name, part in parts if name == "final"]
    return ThoughtAndAnswer(answer=finals[-1] if finals else "", thought=thoughts, unfinished=not finals)


def _by_marks(text: str) -> tuple[ThoughtAndAnswer, int]:
    """Take out what stands between marks; an end without a beginning ends what the chat template began."""
    kept: list[str] = []
    thoughts: list[str] = []
    place, open_mark = 0, ""
    for mark in _MARK.finditer(text):
        kind = mark.lastgroup or ""
        if kind.startswith("begin") and not open_mark:
            kept.append(text[place : mark.start()])
            place, open_mark = mark.end(), kind
        elif kind == "end" or (kind == "end_heading" and open_mark == "begin_heading"):
            if not open_mark:
                # Everything before was thought, also what stood between thoughts.
                thoughts += kept
                kept = []
            thoughts.append(text[place : mark.start()])
            place, open_mark = mark.end(), ""
    forgotten = _answer_at_the_end(text, place) if open_mark else None
    if forgotten is not None:
        # The end was forgotten, but the answer is marked as such, and nothing follows.
        thoughts.append(text[place:forgotten])
        place, open_mark = forgotten, ""
    (thoughts if open_mark else kept).append(text[place:])
    thought = "\n".join(filter(None, map(str.strip, thoughts)))
    return ThoughtAndAnswer(
        answer="" if open_mark else "".join(kept).strip(), thought=thought, unfinished=bool(open_mark)
    ), place


def _answer_at_the_end(text: str, place: int) -> int | None:
    begins = [match.start() for match in _ANSWER_BEGINS.finditer(text, place)]
    ending = _TURN_ENDS.sub("", text[begins[-1] :]).rstrip() if begins else ""
    return begins[-1] if _ANSWER_ENDS.search(ending) else None


def _turn(text: str) -> str:
    """Return what stands in the model's own turn."""
    return _until_turn_ends(_ANSWER_PREFIX.sub("", _TURN_BEGINS.sub("", text))).strip()


def _until_turn_ends(text: str) -> str:
    place = 0
    for match in _TURN_ENDS.finditer(text):
        if text[place : match.start()].strip():
            return text[place : match.start()]
        place = match.end()
    return text[place:]


def _marked(text: str, depth: int = _NESTED) -> str:
    """Return what an answer marks as its answer, the last time it does; the whole text if it marks nothing.

    Marks inside marks are opened as many times as `depth` says: an answer in a tag may be boxed as well.
    """
    marks = list(_MARKED.finditer(text)) if depth else []
    if not marks:
        return text.strip()
    first = len(marks) - 1
    while first and _BETWEEN.fullmatch(text, marks[first - 1].end(), marks[first].start()):
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
