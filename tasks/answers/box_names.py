"""What the edges of a box are called, and the box that told edges make.

A name is any way of writing one: `x_min`, `xMin`, `min x`, `x1`, `left`, `bbox_left`, `top-left x`, `width`. Some name
two numbers at once: a corner, a centre, a size.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Numbers = tuple[float, float, float, float]

_SENSES: Mapping[str, str] = {
    "x": "x horizontal horizontally column columns col cols",
    "y": "y vertical vertically row rows",
    "low": "min minimum lo start starts starting begin begins",
    "high": "max maximum hi end ends ending",
    "left": "left 左 links gauche izquierda izquierdo",
    "right": "right 右 rechts droit droite derecha derecho",
    "top": "top upper 上 oben supérieur superior",
    "bottom": "bottom lower 下 unten inférieur inferior",
    "left top": "tl lt ul nw 左上 左上角",
    "right top": "tr rt ur ne 右上 右上角",
    "left bottom": "bl lb ll sw 左下 左下角",
    "right bottom": "br rb lr se 右下 右下角",
    "x left": "xl x_l",
    "x right": "xr x_r",
    "y top": "yt y_t",
    "y bottom": "yb y_b",
    "mid": "center centre centered centred mid middle 中心 中心点",
    "x mid": "cx xc c_x x_c",
    "y mid": "cy yc c_y y_c",
    "width": "width 宽 宽度 breite largeur ancho",
    "height": "height 高 高度 höhe hauteur alto",
    "width height": "size dimensions dimension wh",
    "first": "first p1",
    "second": "second p2",
    "": "edge side border boundary bound limit coordinate coordinates coord coords corner point vertex position pos "
    "value axis 坐标",
}
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
_FILLERS = frozenset(word for word, senses in _SENSES_OF.items() if not senses)
_LETTERS: Mapping[str, str] = {"l": "left", "t": "top", "r": "right", "b": "bottom", "w": "width", "h": "height"}
_WORDS = [re.escape(word) for word in sorted(_SENSES_OF, key=len, reverse=True)]
_LONGEST_FIRST = "|".join(_WORDS)
_NAMING = "|".join(word for word in _WORDS if word not in _FILLERS)
NAME = (
    rf"(?<![a-z0-9])(?!(?:try|why)\b)(?:{_NAMING})(?:[ _/-]?(?:{_LONGEST_FIRST})){{0,5}}(?![a-z0-9])"
    rf"|(?<![a-z0-9])[{''.join(_LETTERS)}](?=[\"']?\ ?[=:,)\]]|\ (?:is|at|of|about)\ -?\d|\ \d)"
)
"""What a name looks like in lower case, its words side by side or joined by `_`, `-` or `/`."""
_WORD = re.compile(_LONGEST_FIRST)
_ORDERED_BY_NAME = (("left", "right"), ("top", "bottom"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """The edges that a name means, one of each direction at most.

    Attributes:
        across: `left`, `right`, `x`, `x0`, `x1`, `x2`, `cx`, `width`, or empty.
        down: `top`, `bottom`, `y`, `y0`, `y1`, `y2`, `cy`, `height`, or empty.
        corner: The corner that one edge was told of, as in `top left x`: a plain `y` behind it is of the same corner.
        plain: Whether it was a plain `x` or `y`, which a corner near it gave its meaning.
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

_ACROSS: Mapping[frozenset[str], str] = {
    frozenset(senses.split()): edge
    for senses, edge in {
        "": "x", "left": "left", "low": "left", "low left": "left", "right": "right", "high": "right",
        "high right": "right", "mid": "cx", "0": "x0", "1": "x1", "2": "x2", "width height": "width", "width": "width",
        "first": "x1", "second": "x2",
    }.items()
}  # fmt: skip
_DOWN: Mapping[frozenset[str], str] = {
    frozenset(senses.split()): edge
    for senses, edge in {
        "": "y", "top": "top", "low": "top", "low top": "top", "bottom": "bottom", "high": "bottom",
        "high bottom": "bottom", "mid": "cy", "0": "y0", "1": "y1", "2": "y2", "width height": "height",
        "height": "height", "first": "y1", "second": "y2",
    }.items()
}  # fmt: skip
_WITHOUT_AXIS: Mapping[frozenset[str], Name] = {
    frozenset(senses.split()): name
    for senses, name in {
        "left": Name(across="left"), "right": Name(across="right"), "top": Name(down="top"),
        "bottom": Name(down="bottom"), "width": Name(across="width"), "height": Name(down="height"),
        "left top": LOW, "right bottom": HIGH, "right top": Name(across="right", down="top"),
        "left bottom": Name(across="left", down="bottom"), "low": LOW, "high": HIGH, "low left top": LOW,
        "high right bottom": HIGH, "mid": Name(across="cx", down="cy"), "width height": SIZE,
        "first": Name(across="x1", down="y1"), "second": Name(across="x2", down="y2"),
    }.items()
}  # fmt: skip
_CORNERS = {
    frozenset({across, down}): Name(across=across, down=down)
    for across in ("left", "right")
    for down in ("top", "bottom")
}


def names_in(phrase: str) -> tuple[Name, ...]:
    """Return the one name that a phrase is, or where it is none its words' names one by one: `left top right bottom`.

    Args:
        phrase: What matches `NAME`.
    """
    words = [_LETTERS[phrase]] if phrase in _LETTERS else _WORD.findall(phrase)
    whole = _name(words)
    return (whole,) if whole else tuple(name for word in words if (name := _name([word])))


def _name(words: Sequence[str]) -> Name | None:
    senses = frozenset(sense for word in words for sense in _SENSES_OF[word])
    if {"x", "y"} <= senses:
        return None
    corner = _CORNERS.get(senses - {"x", "y"})
    if "x" in senses:
        across = _ACROSS.get(senses - {"x", "top", "bottom"})
        return Name(across=across, corner=corner) if across else None
    if "y" in senses:
        down = _DOWN.get(senses - {"y", "left", "right"})
        return Name(down=down, corner=corner) if down else None
    return _WITHOUT_AXIS.get(senses)


def box_of(told: Mapping[str, float]) -> Numbers | None:
    """Return the corners (left, top, right, bottom) that told edges make.

    None if some are missing, or if they contradict each other: two numbers for one edge, a left edge right of the
    right one, a size below zero. Where both corners are told, sizes beside them are not looked at: they may be those of
    the image.
    """
    if any(low in told and high in told and told[low] > told[high] for low, high in _ORDERED_BY_NAME):
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
    return _from_size(lows, highs, told.get(f"c{axis}"), told.get(size))


def _from_size(
    lows: set[float], highs: set[float], middle: float | None, length: float | None
) -> tuple[float, float] | None:
    if length is None or length < 0:
        return None
    if lows:
        start = lows.pop()
        return start, start + length
    if highs:
        end = highs.pop()
        return end - length, end
    return None if middle is None else (middle - length / 2, middle + length / 2)
