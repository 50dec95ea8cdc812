"""An answer about a box cut into what matters: numbers, groups of numbers, names of edges, other words.

Typography goes first: full-width brackets, the minus and the dashes, markdown, LaTeX, camel case.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from medbench.tasks.answers.box_names import NAME
from medbench.tasks.answers.wording import word_lists

Kind = Literal["number", "point", "four", "numbers", "size", "name", "word", "mark", "tag"]
Unit = Literal["", "%", "px", "?"]

# Full-width letters and marks, then what else stands for a plain mark.
_MARKS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_MARKS |= {ord(mark): plain for plain, marks in word_lists()["box_characters"].items() for mark in marks}
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
       |(?P<order>(?<![a-z0-9])(?:{"|".join(word_lists()["number_orders"])})(?![a-z0-9]))
       |(?P<name>{NAME})
       |(?P<junk>[a-z]*\d[a-z\d_.]*)
       |(?P<word>[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+(?:'[a-z]+)?)
       |(?P<mark>\S|\n)""",
    re.VERBOSE,
)
_UNITS: dict[str, Unit] = {"%": "%", "percent": "%", "per cent": "%", "px": "px", "pixel": "px", "pixels": "px"}
_KINDS: dict[str | None, Kind] = {"tag": "tag", "location": "tag", "size": "size", "number": "number", "name": "name"}
_KINDS["mark"] = "mark"
TO = frozenset({"to", "until", "through", "bis", "hasta", "到", "至"})
_SPEAKS_OF_CORNERS = re.compile(r"\b(?:from|between|corners?|box(?:es)?|bound\w*|rectang\w*|spans?|points?)\b")
_CORNERS_REACH = 120
_UNIT_BESIDE = re.compile(
    r"(?:\s*(?:(?:in|as|of|coordinates|values)(?![\w'])|[():\n])){0,2}\s*"
    r"(?:(?P<percent>(?:percent(?:ages?)?)(?![\w'])|%)|(?:pixels?|px)(?![\w']))"
)
_FOUR, _TWO = 4, 2

# What belongs together is found in the shape of a text, a sign for each piece: `0` a number, `L` a location, `T` any
# other tag, `S` a size, `n` a name, `w` a word, `t` a `to`, `&` an `and`, `P` a point, `F` another group. Marks are
# themselves. Brackets hold two numbers at least, quotes four.
_SEPARATED = r"(?:[,;|\n\"']*0){2,}[,;|\n\"']*"
_GROUP = re.compile(
    rf"""(?P<angles>(?:L|<[0LS]>)(?:,?(?:L|<[0LS]>))*)
       |\[{_SEPARATED}[\])}}] | \({_SEPARATED}[)\]}}] | {{{_SEPARATED}[\])}}] | <{_SEPARATED}> | T{_SEPARATED}[TL]
       |"(?:[,;|\n']*0){{4,}}[,;|\n']*" | '(?:[,;|\n"]*0){{4,}}[,;|\n"]*'""",
    re.VERBOSE,
)
_POINTS = re.compile(r"P(?:[,;()\[\]{}\n\"'t&]*P)+[,;()\[\]{}\n\"'t&]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A piece of an answer, from `start` to `end` of the plain text.

    The kinds `four` and `point` are four and two numbers that belong together, `numbers` a group of another length,
    `size` is `512x512`. The text of a `four` that was made of two points is the word between them. The unit is `?`
    where the numbers have several, or one that no box is counted in.
    """

    kind: Kind
    text: str
    start: int
    end: int
    numbers: tuple[float, ...] = ()
    unit: Unit = ""

    @property
    def sign(self) -> str:
        """What stands for it in the shape of a text."""
        signs = {"number": "0", "size": "S", "name": "n", "point": "P", "four": "F", "numbers": "F"}
        if self.kind == "tag":
            return "L" if self.numbers else "T"
        if self.kind == "mark":
            return self.text
        return "t" if self.text in TO else "&" if self.text == "and" else signs.get(self.kind, "w")


def plain_text(text: str) -> str:
    """Return an answer in lower case and plain typography, words of camel case apart, blanks single."""
    text = _LATEX.sub(" ", _TIMES.sub("x", text.translate(_MARKS)))
    text = _CAMEL.sub("_", _SUBSCRIPT.sub(r"_\1", _MARKUP.sub("", text))).lower()
    text = "\n".join(line for raw in text.splitlines() if (line := " ".join(raw.split())))
    text = _LIST_MARK.sub("", text)
    text = _BETWEEN_POINTS.sub(" to ", _RANGE.sub(" to ", text))
    return _ABOUT.sub(" ", text)


def items_of(text: str) -> list[Item]:
    """Return the pieces of a plain text in order, numbers in brackets put together, and points side by side."""
    items = _replaced([_token(match) for match in _TOKEN.finditer(text)], _GROUP, _grouped, text)
    # `512 pixels wide` is the side of something.
    items = [
        item
        for item, following in zip(items, [*items[1:], None], strict=False)
        if item.kind != "number" or following is None or following.text not in {"wide", "high", "tall"}
    ]
    return _replaced(items, _POINTS, _box_of_points, text)


def _token(match: re.Match[str]) -> Item:
    kind = _KINDS.get(match.lastgroup, "word")
    text, numbers = match.group(), tuple[float, ...]()
    unit: Unit = ""
    if match["number"]:
        numbers, unit = (float(match["value"]),), _UNITS.get(match["unit"], "?") if match["unit"] else ""
    elif match["location"]:
        numbers = (float(match["place"]),)
    elif match["size"]:
        numbers = tuple(map(float, re.findall(r"\d+(?:\.\d+)?", text)))
    elif match["tag"] and re.fullmatch(NAME, text.strip("<>")):
        kind, text = "name", text.strip("<>")
    return Item(kind=kind, text=text, start=match.start(), end=match.end(), numbers=numbers, unit=unit)


def _replaced(
    items: list[Item], pattern: re.Pattern[str], put_together: Callable[[Sequence[Item], str, bool], Item], text: str
) -> list[Item]:
    """Return items with those put together that a pattern finds in their shape."""
    found: list[Item] = []
    end = 0
    for match in pattern.finditer("".join(item.sign for item in items)):
        found += items[end : match.start()]
        found.append(put_together(items[match.start() : match.end()], text, match.lastgroup == "angles"))
        end = match.end()
    return found + items[end:]


def _grouped(items: Sequence[Item], text: str, angles: bool) -> Item:
    """Return the numbers in one pair of brackets, or each in angle brackets of its own."""
    numbers = [item for item in items if item.numbers] if angles else [item for item in items if item.kind == "number"]
    kinds: dict[int, Kind] = {_FOUR: "four"} if angles else {_FOUR: "four", _TWO: "point"}
    unit, end = common_unit(numbers), items[-1].end
    if not unit and (beside := _UNIT_BESIDE.match(text, end)):
        # `[10, 20, 30, 40] %`
        unit = "%" if beside["percent"] else "px"
    return Item(
        # `<12><34>` is half a box, no point.
        kind=kinds.get(len(numbers), "numbers"), text="", start=items[0].start, end=end,
        numbers=tuple(item.numbers[0] for item in numbers), unit=unit,
    )  # fmt: skip


def common_unit(items: Sequence[Item]) -> Unit:
    """Return the unit of all numbers, `?` if some have another one or none."""
    units = {item.unit for item in items}
    return units.pop() if len(units) == 1 else "?"


def _box_of_points(items: Sequence[Item], text: str, _: bool) -> Item:
    """Return points that stand side by side as one: two of them are a box, three are none."""
    points, words = [item for item in items if item.kind == "point"], {item.sign for item in items} & {"t", "&"}
    start, numbers = points[0].start, tuple(number for point in points for number in point.numbers)
    # `lesions at (1, 2) and (3, 4)` is no box, `between (1, 2) and (3, 4)` is one.
    told = "&" not in words or _SPEAKS_OF_CORNERS.search(text, max(0, start - _CORNERS_REACH), start)
    return Item(
        kind="four" if len(numbers) == _FOUR and told else "numbers", text="to" if words else "", start=start,
        end=points[-1].end, numbers=numbers, unit=common_unit(points),
    )  # fmt: skip
