"""What the edges of a box are called, and the box that told edges make.

A name is any way of writing one: `x_min`, `xMin`, `min x`, `x1`, `left`, `bbox_left`, `top-left x`, `width`. Some name
two numbers at once: a corner, a centre, a size.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medbench.tasks.answers.wording import word_lists

Numbers = tuple[float, float, float, float]

_SENSES: Mapping[str, str] = word_lists()["edge_senses"]
_NUMBERED = {f"{axis}{gap}{digit}": f"{axis} {digit}" for axis in "xy" for gap in ("", "_") for digit in "012"}
_NUMBERED |= {
    f"{word}{gap}{place}": sense
    for word in ("point", "corner")
    for gap in ("", " ", "_")
    for place, sense in (("1", "first"), ("2", "second"))
}
_SENSES_OF: Mapping[str, frozenset[str]] = {
    word: frozenset(senses.split()) for senses, words in _SENSES.items() for word in words.split()
} | {word: frozenset(senses.split()) for word, senses in _NUMBERED.items()}
_LETTERS: Mapping[str, str] = word_lists()["edge_letters"]
_WORDS = [re.escape(word) for word in sorted(_SENSES_OF, key=len, reverse=True)]
_LONGEST_FIRST = "|".join(_WORDS)
_NAMING = "|".join(word for word in _WORDS if _SENSES_OF.get(word) != frozenset())
NAME = (
    rf"(?<![a-z0-9])(?!(?:try|why)\b)(?:{_NAMING})(?:[ _/-]?(?:{_LONGEST_FIRST})){{0,5}}(?![a-z0-9])"
    rf"|(?<![a-z0-9])[{''.join(_LETTERS)}](?=[\"']?\ ?[=:,)\]]|\ (?:is|at|of|about)\ -?\d|\ \d)"
)
"""What a name looks like in lower case, its words side by side or joined by `_`, `-` or `/`."""
_WORD = re.compile(_LONGEST_FIRST)

_ACROSS: Mapping[str, str] = word_lists()["edges_across"]
_DOWN: Mapping[str, str] = word_lists()["edges_down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """The edges that a name means, one of each direction at most, or empty: `left`, `x1`, `cx`, `width`.

    `corner` is the one that one edge was told of, as in `top left x`: a plain `y` behind it is of the same corner. A
    name is `plain` if it was an `x` or `y` that a corner near it gave its meaning.
    """

    across: str = ""
    down: str = ""
    corner: "Name | None" = None
    plain: bool = False

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


LOW = Name(across="left", down="top")
HIGH = Name(across="right", down="bottom")
SIZE = Name(across="width", down="height")


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
    pairs = (LOW, {"low", "left", "top"}), (HIGH, {"high", "right", "bottom"}), (SIZE, {"width", "height"})
    return corner or next((name for name, meant in pairs if sides == meant), None)


def _edge(edges: Mapping[str, str], senses: frozenset[str], axis: str) -> str:
    """Return the edge of one axis that senses agree on; the axis itself where there are none."""
    found = {edges.get(sense, "") for sense in senses}
    return axis if not found else found.pop() if len(found) == 1 else ""


def box_of(told: Mapping[str, float]) -> Numbers | None:
    """Return the corners (left, top, right, bottom) that told edges make.

    None if some are missing, or if they contradict each other: two numbers for one edge, a left edge right of the
    right one, a size below zero. Where both corners are told, sizes beside them are not looked at: they may be those of
    the image.
    """
    for low, high in (("left", "right"), ("top", "bottom")):
        if low in told and high in told and told[low] > told[high]:
            return None
    across = _ends(told, "x", "left", "right", "width")
    down = _ends(told, "y", "top", "bottom", "height")
    if across is None or down is None or not all(map(math.isfinite, (*across, *down))):
        return None
    return across[0], down[0], across[1], down[1]


def _ends(told: Mapping[str, float], axis: str, low: str, high: str, size: str) -> tuple[float, float] | None:
    zero, one, two = (f"{axis}{digit}" for digit in "012")
    # `x0, x1` are left and right, `x1, x2` too.
    if zero in told and two in told:
        return None
    starts, ends = ((low, axis, zero), (high, one)) if zero in told else ((low, axis, one), (high, two))
    lows, highs = ({told[name] for name in names if name in told} for names in (starts, ends))
    if len(lows) > 1 or len(highs) > 1:
        return None
    if lows and highs:
        return lows.pop(), highs.pop()
    length = told.get(size, -1.0)
    if length < 0:
        return None
    return _from_size(lows, highs, told.get(f"c{axis}"), length)


def _from_size(lows: set[float], highs: set[float], middle: float | None, length: float) -> tuple[float, float] | None:
    for low in lows:
        return low, low + length
    for high in highs:
        return high - length, high
    return None if middle is None else (middle - length / 2, middle + length / 2)
