"""An answer about a box cut into what matters: numbers, groups of numbers, names of edges, other words.

Typography goes first: full-width brackets, the minus and the dashes, markdown, LaTeX, camel case.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medbench.tasks.answers.box_names import NAME

Kind = Literal["number", "point", "four", "numbers", "size", "name", "word", "mark", "tag"]
Unit = Literal["", "%", "px", "?"]

ORDERS = ("xyxy", "ltrb", "yxyx", "tlbr", "xywh", "ltwh", "cxcywh")
"""Words for the order of four numbers."""

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_MARKS = {
    **_FULL_WIDTH,
    **str.maketrans(
        "\u3010\u3011\u3014\u3015\u3008\u3009\u300a\u300b\u3001\u060c\u061b\u066b\u2212\u2010\u2011\u02d7\u00d7\u2715\u2217",
        "[][]<><>,,;.----xx*",
    ),
    **str.maketrans("\u2080\u2081\u2082", "012"),
    **str.maketrans("\u201c\u201d\u201e\u201f\u2018\u2019\u201a", '""""\'\'\''),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad")),
}
_LATEX = re.compile(r"\\(?:left|right|big[lr]?|text\w*|math\w*|boxed|quad|qquad)(?![a-z])|\\[,;! ]", re.IGNORECASE)
_TIMES = re.compile(r"(?<=\d) ?(?:\*|\\times|\bby\b) ?(?=\d)")
_MARKUP = re.compile(r"[*`#$\\]|(?<!\w)_+|_+(?!\w)")
_SUBSCRIPT = re.compile(r"_?\{ ?(\w+) ?\}(?= ?[=:,)])")
_LIST_MARK = re.compile(r"^(?:\d{1,2}[.)]|[-+•]) (?=[^\d\s])", re.MULTILINE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_RANGE = re.compile(r"(?<=[\d%]) ?(?:\.{2,3}|\u2026|[~\u2013\u2014\u2192]|->) ?(?=[\d.])|(?<=[\d%])(?:-| - )(?=[\d.])")
_BETWEEN_POINTS = re.compile(r"(?<=[)\]>]) ?(?:-|\u2013|\u2014|\u2192|->|~|\.{2,3}|\u2026) ?(?=[(\[<])")
_ABOUT = re.compile(r"[~≈]")

_NUMBER = r"-?(?:\d+(?:\.\d+|\.(?=[,;\])}]|\ -?\d))?|\.\d+)(?:e[-+]?\d+)?"
_LENGTH = r"\d+(?:\.\d+)?(?:\ ?(?:px|pixels?))?"
_UNIT = r"%|‰|percent\b|per\ cent\b|px\b|pixels?\b"
_TOKEN = re.compile(
    rf"""(?P<tag></?\|?[a-z_][a-z_ ]*\|?>)
       |(?P<location><loc_?(?P<place>\d+(?:\.\d+)?)>)
       |(?P<size>(?<![a-z\d_.]){_LENGTH}(?:(?:x|\ x\ ){_LENGTH})+(?![a-z\d_]|\.\d|\ ?[=:]|\ y))
       |(?P<number>(?<![a-z\d_.])(?P<value>{_NUMBER})(?:\ ?(?P<unit>{_UNIT}))?(?![a-z\d_]|\.\d))
       |(?P<order>(?<![a-z0-9])(?:{"|".join(ORDERS)})(?![a-z0-9]))
       |(?P<name>{NAME})
       |(?P<junk>[a-z]*\d[a-z\d_.]*)
       |(?P<word>[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+(?:'[a-z]+)?)
       |(?P<mark>\S|\n)""",
    re.VERBOSE,
)
_UNITS: dict[str, Unit] = {"%": "%", "percent": "%", "per cent": "%", "px": "px", "pixel": "px", "pixels": "px"}
_CLOSERS = {"[": "])}", "(": ")]}", "{": "])}", "<": ">", '"': '"', "'": "'"}
_SEPARATORS = frozenset(",;|\n\"'")
_JOINTS = frozenset(",;()[]{}\n\"'")
TO = frozenset({"to", "until", "through", "bis", "hasta", "到", "至"})
_SPEAKS_OF_CORNERS = re.compile(r"\b(?:from|between|corners?|box(?:es)?|bound\w*|rectang\w*|spans?|points?)\b")
_PERCENT_WORDS = frozenset({"percent", "percentage", "percentages", "%"})
_PIXEL_WORDS = frozenset({"pixel", "pixels", "px"})
_BESIDE_A_UNIT = frozenset({"in", "as", "of", "coordinates", "values", "(", ")", ":", "\n"})
_UNIT_REACH = 3
_SIDES = frozenset({"wide", "high", "tall"})
_FOUR, _TWO = 4, 2
_QUOTES = frozenset("\"'")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_CORNERS_REACH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A piece of an answer.

    Attributes:
        kind: `four` and `point` are four and two numbers that belong together, `numbers` a group of another length,
            `size` is `512x512`.
        text: As it stands; of a `four` that was made of two points the word between them.
        start: Where it begins in the plain text.
        end: Where it ends.
        numbers: Its numbers.
        unit: Their unit where one is told; `?` if they have several, or one that no box is counted in.
    """

    kind: Kind
    text: str
    start: int
    end: int
    numbers: tuple[float, ...] = ()
    unit: Unit = ""


def plain_text(text: str) -> str:
    """Return an answer in lower case and plain typography, words of camel case apart, blanks single."""
    text = _LATEX.sub(" ", _TIMES.sub("x", text.translate(_MARKS)))
    text = _CAMEL.sub("_", _SUBSCRIPT.sub(r"_\1", _MARKUP.sub("", text))).lower()
    text = "\n".join(line for raw in text.splitlines() if (line := " ".join(raw.split())))
    text = _LIST_MARK.sub("", text)
    text = _BETWEEN_POINTS.sub(" to ", _RANGE.sub(" to ", text))
    return _ABOUT.sub(" ", text)


def items_of(text: str) -> list[Item]:
    """Return the pieces of a plain text in order, numbers in brackets put together."""
    return _joined(_grouped(_tokens(text)), text)


def _tokens(text: str) -> list[Item]:
    return [_token(match) for match in _TOKEN.finditer(text)]


def _token(match: re.Match[str]) -> Item:
    kind = match.lastgroup
    token = Item(kind="word", text=match.group(), start=match.start(), end=match.end())
    if kind == "number":
        unit = _UNITS.get(match["unit"], "?") if match["unit"] else ""
        return replace(token, kind="number", numbers=(float(match["value"]),), unit=unit)
    if kind == "location":
        return replace(token, kind="tag", numbers=(float(match["place"]),))
    if kind == "size":
        return replace(token, kind="size", numbers=tuple(map(float, _DIGITS.findall(token.text))))
    if kind == "tag" and re.fullmatch(NAME, token.text.strip("<>")):
        return replace(token, kind="name", text=token.text.strip("<>"))
    kinds: dict[str | None, Kind] = {"tag": "tag", "name": "name", "mark": "mark"}
    return replace(token, kind=kinds.get(kind, "word"))


def _grouped(tokens: Sequence[Item]) -> list[Item]:
    """Put together the numbers in one pair of brackets, or each in angle brackets of its own."""
    items: list[Item] = []
    place = 0
    while place < len(tokens):
        found = _angles(tokens, place) or _bracketed(tokens, place)
        if found is None:
            items.append(tokens[place])
            place += 1
        else:
            group, place = found
            items.append(_with_unit_beside(group, tokens, place))
    return [item for place, item in enumerate(items) if not _is_side_length(items, place)]


def _is_side_length(items: Sequence[Item], place: int) -> bool:
    """Return whether a number says how wide or high something is: `512 pixels wide`."""
    following = items[place + 1] if place + 1 < len(items) else None
    return items[place].kind == "number" and following is not None and following.text in _SIDES


def _bracketed(tokens: Sequence[Item], place: int) -> tuple[Item, int] | None:
    opening = tokens[place]
    if opening.kind not in {"mark", "tag"} or (opening.kind == "mark" and opening.text not in _CLOSERS):
        return None
    numbers: list[Item] = []
    end = place + 1
    while end < len(tokens) and (tokens[end].kind == "number" or tokens[end].text in _SEPARATORS - {opening.text}):
        numbers += [tokens[end]] if tokens[end].kind == "number" else []
        end += 1
    if end == len(tokens) or len(numbers) < (_FOUR if opening.text in _QUOTES else _TWO):
        return None
    closing = tokens[end]
    closed = closing.kind == "tag" if opening.kind == "tag" else closing.text in _CLOSERS[opening.text]
    return (_group(numbers, opening.start, closing.end), end + 1) if closed else None


def _angles(tokens: Sequence[Item], place: int) -> tuple[Item, int] | None:
    numbers: list[Item] = []
    end = start = place
    while start < len(tokens):
        if tokens[start].kind == "tag" and tokens[start].numbers:
            numbers.append(tokens[start])
            end = start + 1
        elif [token.text for token in tokens[start : start + 3 : 2]] == ["<", ">"] and tokens[start + 1].numbers:
            numbers.append(tokens[start + 1])
            end = start + 3
        else:
            break
        start = end + (end < len(tokens) and tokens[end].text == ",")
    if not numbers:
        return None
    group = _group(numbers, tokens[place].start, tokens[end - 1].end)
    # `<12><34>` is half a box, no point.
    return (group if group.kind == "four" else replace(group, kind="numbers")), end


def _group(numbers: Sequence[Item], start: int, end: int) -> Item:
    kinds: dict[int, Kind] = {_TWO: "point", _FOUR: "four"}
    return Item(
        kind=kinds.get(len(numbers), "numbers"), text="", start=start, end=end,
        numbers=tuple(number.numbers[0] for number in numbers), unit=common_unit(numbers),
    )  # fmt: skip


def common_unit(items: Sequence[Item]) -> Unit:
    """Return the unit of all numbers, `?` if some have another one or none."""
    units = {item.unit for item in items}
    return units.pop() if len(units) == 1 else "?"


def _with_unit_beside(group: Item, tokens: Sequence[Item], end: int) -> Item:
    """Return a group with the unit that stands right behind its bracket: `[10, 20, 30, 40] %`."""
    if group.unit:
        return group
    for token in tokens[end : end + _UNIT_REACH]:
        if token.text in _PERCENT_WORDS:
            return replace(group, unit="%")
        if token.text in _PIXEL_WORDS:
            return replace(group, unit="px")
        if token.text not in _BESIDE_A_UNIT:
            break
    return group


def _joined(items: Sequence[Item], text: str) -> list[Item]:
    """Put together points that stand side by side: two of them are a box, three are none."""
    joined: list[Item] = []
    place = 0
    while place < len(items):
        run, words, end = _run_of_points(items, place)
        joined.append(_box_of_points(run, words, text) if len(run) > 1 else items[place])
        place = end
    return joined


def _run_of_points(items: Sequence[Item], place: int) -> tuple[list[Item], set[str], int]:
    run, words, end = [items[place]], set[str](), place + 1
    if items[place].kind != "point":
        return run, words, end
    look = end
    while look < len(items):
        item = items[look]
        if item.kind == "point":
            run.append(item)
            end = look + 1
        elif item.text in TO or item.text == "and":
            words.add(item.text)
        elif item.kind != "mark" or item.text not in _JOINTS:
            break
        look += 1
    return run, words, end


def _box_of_points(run: Sequence[Item], words: set[str], text: str) -> Item:
    first, last = run[0], run[-1]
    numbers = tuple(number for point in run for number in point.numbers)
    # `lesions at (1, 2) and (3, 4)` is no box, `between (1, 2) and (3, 4)` is one.
    told = "and" not in words or _SPEAKS_OF_CORNERS.search(text, max(0, first.start - _CORNERS_REACH), first.start)
    return Item(
        kind="four" if len(numbers) == _FOUR and told else "numbers", text="to" if words else "", start=first.start,
        end=last.end, numbers=numbers, unit=common_unit(run),
    )  # fmt: skip
