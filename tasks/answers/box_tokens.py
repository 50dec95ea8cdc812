"""An answer about a box cut into what matters: numbers, groups of numbers, names of edges, other words.

Typography goes first: full-width brackets, the minus and the dashes, markdown, LaTeX, camel case. A name is any way of
writing one: `x_min`, `xMin`, `min x`, `x1`, `left`, `bbox_left`, `top-left x`, `width`. Some name two numbers at once:
a corner, a centre, a size.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medbench.tasks.answers.wording import exactly, substituted, word_lists

Kind = Literal["number", "point", "four", "numbers", "size", "name", "word", "mark", "tag"]
Unit = Literal["", "%", "px", "?"]
Numbers = tuple[float, float, float, float]
_NUMBERED = {f"{axis}{gap}{digit}": f"{axis} {digit}" for axis in "xy" for gap in ("", "_") for digit in "012"} | {
    f"{word}{gap}{place}": sense
    for word in ("point", "corner")
    for gap in ("", " ", "_")
    for place, sense in (("1", "first"), ("2", "second"))
}
_SENSES_OF: Mapping[str, frozenset[str]] = {
    word: frozenset(senses.split()) for senses, words in word_lists()["edge_senses"].items() for word in words.split()
} | {word: frozenset(senses.split()) for word, senses in _NUMBERED.items()}
_LETTERS: Mapping[str, str] = word_lists()["edge_letters"]
_ACROSS: Mapping[str, str] = word_lists()["edges_across"]
_DOWN: Mapping[str, str] = word_lists()["edges_down"]
_WORDS = [re.escape(word) for word in sorted(_SENSES_OF, key=len, reverse=True)]
_LONGEST_FIRST = "|".join(_WORDS)
_NAMING = "|".join(word for word in _WORDS if _SENSES_OF.get(word) != frozenset())
_WORD = re.compile(_LONGEST_FIRST)
NAME = (
    rf"(?<![a-z0-9])(?!(?:try|why)\b)(?:{_NAMING})(?:[ _/-]?(?:{_LONGEST_FIRST})){{0,5}}(?![a-z0-9])"
    rf"|(?<![a-z0-9])[{''.join(_LETTERS)}](?=[\"']?\ ?[=:,)\]]|\ (?:is|at|of|about)\ -?\d|\ \d)"
)
"""What a name looks like in lower case, its words side by side or joined by `_`, `-` or `/`."""
# Full-width letters and marks, then what else stands for a plain mark.
_MARKS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_MARKS |= {ord(mark): plain for plain, marks in word_lists()["box_characters"].items() for mark in marks}
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
_KINDS: dict[str | None, Kind] = {
    "tag": "tag", "location": "tag", "size": "size", "number": "number", "name": "name", "mark": "mark",
}  # fmt: skip
TO = frozenset({"to", "until", "through", "bis", "hasta", "到", "至"})
_CORNERS_REACH = 120
_FOUR, _TWO = 4, 2

# What belongs together is found in the shape of a text, a sign for each piece: `0` a number, `L` a location, `T` any
# other tag, `S` a size, `n` a name, `w` a word, `t` a `to`, `&` an `and`, `P` a point, `F` another group. Marks are
# themselves. Brackets hold two numbers at least, quotes four.
_SIGNS = {"number": "0", "size": "S", "name": "n", "point": "P", "four": "F", "numbers": "F"}
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
    `size` is `512x512`. The text of a `four` that was made of two points is the word between them.
    """

    kind: Kind
    text: str
    start: int
    end: int
    numbers: tuple[float, ...] = ()
    unit: Unit = ""  # `?` where the numbers have several, or one that no box is counted in.

    @property
    def sign(self) -> str:
        """What stands for it in the shape of a text."""
        if self.kind == "tag":
            return "L" if self.numbers else "T"
        if self.kind == "mark":
            return self.text
        return "t" if self.text in TO else "&" if self.text == "and" else _SIGNS.get(self.kind, "w")


def plain_text(text: str) -> str:
    """Return an answer in lower case and plain typography, words of camel case apart, blanks single."""
    text = substituted(text.translate(_MARKS), "box_markup").lower()
    return substituted("\n".join(line for raw in text.splitlines() if (line := " ".join(raw.split()))), "box_ranges")


def items_of(text: str) -> list[Item]:
    """Return the pieces of a plain text in order, numbers in brackets put together, and points side by side."""
    items = _replaced([_token(match) for match in _TOKEN.finditer(text)], _GROUP, _grouped, text)
    # `512 pixels wide` is the side of something.
    following = [*(item.text for item in items[1:]), ""]
    sided = zip(items, following, strict=False)
    items = [item for item, text in sided if item.kind != "number" or text not in {"wide", "high", "tall"}]
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
    # `<12><34>` is half a box, no point.
    kinds: dict[int, Kind] = {_FOUR: "four"} if angles else {_FOUR: "four", _TWO: "point"}
    unit, end = common_unit(numbers), items[-1].end
    if not unit and (beside := exactly("box_unit_beside").match(text, end)):
        # `[10, 20, 30, 40] %`
        unit = "%" if beside["percent"] else "px"
    kind, values = kinds.get(len(numbers), "numbers"), tuple(item.numbers[0] for item in numbers)
    return Item(kind=kind, text="", start=items[0].start, end=end, numbers=values, unit=unit)


def common_unit(items: Sequence[Item]) -> Unit:
    """Return the unit of all numbers, `?` if some have another one or none."""
    units = {item.unit for item in items}
    return units.pop() if len(units) == 1 else "?"


def _box_of_points(items: Sequence[Item], text: str, _: bool) -> Item:
    """Return points that stand side by side as one: two of them are a box, three are none."""
    points, words = [item for item in items if item.kind == "point"], {item.sign for item in items} & {"t", "&"}
    start, numbers = points[0].start, tuple(number for point in points for number in point.numbers)
    # `lesions at (1, 2) and (3, 4)` is no box, `between (1, 2) and (3, 4)` is one.
    told = "&" not in words or exactly("box_corners").search(text, max(0, start - _CORNERS_REACH), start)
    return Item(
        kind="four" if len(numbers) == _FOUR and told else "numbers", text="to" if words else "", start=start,
        end=points[-1].end, numbers=numbers, unit=common_unit(points),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """The edges that a name means, one of each direction at most, or empty: `left`, `x1`, `cx`, `width`."""

    across: str = ""
    down: str = ""
    corner: "Name | None" = None  # That one edge was told of, as in `top left x`: a plain `y` behind it is of it too.
    plain: bool = False  # Whether it was an `x` or `y` that a corner near it gave its meaning.

    @property
    def is_pair(self) -> bool:
        """Whether two numbers carry the name: a corner, a centre, a size."""
        return bool(self.across and self.down)

    def edges(self, *, y_first: bool) -> tuple[str, ...]:
        """Return the one or two edges in the order in which their numbers stand."""
        both = (self.down, self.across) if y_first else (self.across, self.down)
        return tuple(edge for edge in both if edge)

    def of(self, corner: "Name | None") -> "Name":
        """Return the name as meant within a corner or centre: the x of `top left` is `left`."""
        if corner is None or not (self.plain or (self.across, self.down) in {("x", ""), ("", "y")}):
            return self
        return Name(across=corner.across, plain=True) if self.across else Name(down=corner.down, plain=True)


LOW, HIGH = Name(across="left", down="top"), Name(across="right", down="bottom")
SIZE = Name(across="width", down="height")
_PAIRS = ((LOW, {"low", "left", "top"}), (HIGH, {"high", "right", "bottom"}), (SIZE, {"width", "height"}))


def names_in(phrase: str) -> tuple[Name, ...]:
    """Return the name that a phrase is, or where it is none its words' names one by one: `left top right bottom`."""
    words = [_LETTERS[phrase]] if phrase in _LETTERS else _WORD.findall(phrase)
    whole = _name(words)
    return (whole,) if whole else tuple(name for word in words if (name := _name([word])))


def _name(words: Sequence[str]) -> Name | None:
    senses = frozenset(sense for word in words for sense in _SENSES_OF[word])
    sides = senses - {"x", "y"}
    if {"x", "y"} <= senses:
        return None
    sides_across, sides_down = sides & {"left", "right"}, sides & {"top", "bottom"}
    is_corner = len(sides_across) == len(sides_down) == 1 and sides == sides_across | sides_down
    corner = Name(across=min(sides_across), down=min(sides_down)) if is_corner else None
    if "x" in senses:
        across = _edge(_ACROSS, sides - {"top", "bottom"}, "x")
        return Name(across=across, corner=corner) if across else None
    if "y" in senses:
        down = _edge(_DOWN, sides - {"left", "right"}, "y")
        return Name(down=down, corner=corner) if down else None
    if len(sides) == 1:
        [sense] = sides
        return Name(across=_ACROSS.get(sense, ""), down=_DOWN.get(sense, ""))
    return corner or next((name for name, meant in _PAIRS if sides == meant), None)


def _edge(edges: Mapping[str, str], senses: frozenset[str], axis: str) -> str:
    """Return the edge of one axis that senses agree on; the axis itself where there are none."""
    found = {edges.get(sense, "") for sense in senses} or {axis}
    return found.pop() if len(found) == 1 else ""


def box_of(told: Mapping[str, float]) -> Numbers | None:
    """Return the corners (left, top, right, bottom) that told edges make.

    None if some are missing, or contradict each other: two numbers for one edge, a left edge right of the right one, a
    size below zero. Where both corners are told, sizes beside them may be those of the image.
    """
    for low, high in (("left", "right"), ("top", "bottom")):
        if low in told and high in told and told[low] > told[high]:
            return None
    across, down = _ends(told, "x", "left", "right", "width"), _ends(told, "y", "top", "bottom", "height")
    if across is None or down is None or not all(map(math.isfinite, (*across, *down))):
        return None
    return across[0], down[0], across[1], down[1]


def _ends(told: Mapping[str, float], axis: str, low: str, high: str, size: str) -> tuple[float, float] | None:
    zero, one, two = (f"{axis}{digit}" for digit in "012")
    # `x0, x1` are left and right, `x1, x2` too.
    starts, ends = ((low, axis, zero), (high, one)) if zero in told else ((low, axis, one), (high, two))
    lows, highs = ({told[name] for name in names if name in told} for names in (starts, ends))
    if (zero in told and two in told) or len(lows) > 1 or len(highs) > 1:
        return None
    if lows and highs:
        return lows.pop(), highs.pop()
    length, middle = told.get(size, -1.0), told.get(f"c{axis}")
    if length < 0:
        return None
    for start in lows:
        return start, start + length
    for end in highs:
        return end - length, end
    return None if middle is None else (middle - length / 2, middle + length / 2)
