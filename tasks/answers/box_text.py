"""Which box an answer tells, in whatever notation; what its numbers mean is for `box_space` to say.

A box is told by four numbers that belong together (in brackets, as two points, each in angle brackets), by the names
of its edges or corners, or by four bare numbers and no others. The size of the image beside it is none. One answer
tells one box:

- of several the first one counts, since lists of findings begin with what was asked for;
- unless the answer takes it back (`no, wait`, `corrected`, `final answer`): then the first one behind that;
- two with `or` between them are no answer, and what is denied (`not at [...]`) or an example is no box.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medbench.tasks.answers import box_tokens
from medbench.tasks.answers.box_tokens import HIGH, LOW, TO, Item, Name, Numbers, Unit, box_of, names_in
from medbench.tasks.answers.wording import exactly, word_lists, word_set

NumberOrder = Literal["space", "points", "xyxy", "yxyx", "xywh", "cxcywh"]

_IMAGE, _BEFORE_A_SIZE = word_set("image_words"), word_set("words_before_a_size")
_LINKS, _FROM = word_set("link_words"), word_set("from_words")
_ORDERS: Mapping[str, NumberOrder] = word_lists()["number_orders"]
_RANGES: Mapping[str, tuple[str, str]] = {"x": ("left", "right"), "y": ("top", "bottom")}
_ACROSS, _SIZES = frozenset({"left", "right"}), frozenset({"width", "height"})
_FOUR, _TWO, _REACH = 4, 2, 160


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBox:
    """Four numbers that an answer tells as a box, as they stand, from `start` to `end` of the plain text."""

    numbers: Numbers
    # `space` is that of the model's space, `points` two corners each written as in it, any other what the answer says.
    order: NumberOrder
    unit: Unit  # What the answer gives to all of them; `?` if it gives several.
    start: int
    end: int


def find_box(text: str, *, y_first: bool = False) -> FoundBox | None:
    """Return the box that an answer tells, None if none or open; points have y first if `y_first` says so."""
    plain = box_tokens.plain_text(text)
    return _chosen(_BoxFinder(box_tokens.items_of(plain), y_first=y_first).boxes(), plain)


class _BoxFinder:
    def __init__(self, items: Sequence[Item], *, y_first: bool) -> None:
        self._items = items
        self._y_first = y_first
        self._boxes: list[FoundBox] = []
        # Edges told by name, with the numbers that told them, until they make a box.
        self._edges: dict[str, float] = {}
        self._tellers: list[Item] = []
        # Names whose numbers are still to come, and the corner or centre that a plain `x` or `y` belongs to.
        self._names: list[Name] = []
        self._corner: Name | None = None
        # Four names without numbers of their own, and numbers without names.
        self._legends: set[tuple[str, ...]] = set()
        self._runs: list[list[Item]] = []
        # Whether what follows is of the image, and is its size.
        self._image: Literal["", "named", "sized"] = ""
        self._between = self._loosely = self._more_than_bare = False
        # What makes names unreliable: one edge told twice, sizes told twice, a centre whose x and y go unnamed.
        self._contradicted = self._sizes_twice = self._sizes_apart = self._loose_centre = False

    def boxes(self) -> list[FoundBox]:
        """Return all boxes in the order in which they begin."""
        takers = {"four": self._four, "point": self._point, "size": self._point, "name": self._name, "mark": self._mark}
        place = 0
        while place < len(self._items):
            item = self._items[place]
            if item.kind == "number":
                place = self._numbers(place)
            else:
                takers.get(item.kind, self._word)(item)
                place += 1
        self._forget_names()
        self._close()
        found = self._boxes if self._boxes or self._more_than_bare else self._bare()
        return sorted(self._ordered(found), key=lambda box: box.start)

    def _ordered(self, boxes: Sequence[FoundBox]) -> Iterator[FoundBox]:
        """Yield the boxes, with the order of their numbers where the answer tells one: `(xywh)`, `(x1, y1, x2, y2)`."""
        orders = {_ORDERS[item.text] for item in self._items if item.text in _ORDERS}
        told = orders | self._legends
        for box in boxes:
            if box.order == "xyxy":
                if not self._contradicted:
                    yield box
            elif self._legends and len(told) == 1:
                [edges] = self._legends
                if (numbers := _by_names(edges, box.numbers)) is not None:
                    yield replace(box, numbers=numbers, order="xyxy")
            elif len(told) < _TWO:
                yield replace(box, order=next(iter(orders), box.order))

    def _four(self, item: Item) -> None:
        edges = self._pending()
        if len(edges) >= _FOUR:
            if (numbers := _by_names(edges[-_FOUR:], item.numbers)) is not None:
                self._boxes.append(_told(numbers, "xyxy", [item]))
        elif not {"cx", "width"} & set(edges):
            order: NumberOrder = "points" if item.text == "to" else "space"
            # `(x, y)` before two points may tell another order than that of the space.
            if edges == (["x", "y"] if self._y_first else ["y", "x"]):
                order = "xyxy" if self._y_first else "yxyx"
            self._boxes.append(_told(item.numbers, order, [item]))
        self._names, self._corner = [], None
        self._more_than_bare = True

    def _point(self, item: Item) -> None:
        edges = self._pending()
        of_a_box = item.kind == "point" or (edges[-_TWO:] == ["width", "height"] and len(item.numbers) == _TWO)
        if self._image or not of_a_box:
            self._image = ""
            return
        self._more_than_bare = True
        if len(edges) == 1 and edges[0] in _RANGES:
            self._tell(_RANGES[edges[0]], [item])
        # `top and left corner (1, 2)` does not say that y stands first.
        elif len(edges) >= _TWO and not (self._loosely and edges[-1] in _ACROSS and not self._names[-1].is_pair):
            self._tell(edges[-_TWO:], [item])
        self._names, self._loosely = [], False

    def _numbers(self, place: int) -> int:
        """Take the bare numbers that follow each other from a place on, and return the place behind them."""
        run, end, look = [self._items[place]], place + 1, place + 1
        while look < len(self._items) and (self._items[look].kind == "number" or self._runs_on(self._items[look].text)):
            if self._items[look].kind == "number":
                run.append(self._items[look])
                end = look + 1
            look += 1
        edges = self._pending()
        if self._image:
            # `image 3` is a number of an image, no size.
            self._image = "sized" if self._image == "sized" else ""
            return end
        if not edges:
            self._runs.append(run)
            return end
        self._more_than_bare = True
        if len(run) == 1 and edges[-1] in _RANGES and self._ranges_on(place, end):
            self._tell(_RANGES[edges[-1]], [run[0], self._items[end + 1]])
            end += 2
        elif len(run) == 1 and not self._names[-1].is_pair:
            self._tell(edges[-1:], run)
        elif len(run) == 1 and len(self._names) == _TWO and (meant := self._names[0].of(self._names[1])).plain:
            # `x of the top left corner: 100`
            self._tell(meant.edges(y_first=False), run)
        elif len(run) in {_TWO, _FOUR} and len(edges) >= len(run):
            self._tell(edges[-len(run) :], run)
        else:
            # `from 0 to 1000` tells no corner.
            self._corner = None
        self._names = []
        return end

    def _runs_on(self, text: str) -> bool:
        if text == "and":
            return not self._names and not self._between
        return text in {",", ";", "|"} or (text == "\n" and len(self._names) != 1)

    def _ranges_on(self, place: int, end: int) -> bool:
        """Return whether a number goes on as a range: `x from 100 to 300`, `x between 100 and 300`."""
        following = self._items[end : end + 2]
        if len(following) < _TWO or following[1].kind != "number":
            return False
        return following[0].text in TO or (following[0].text == "and" and self._items[place - 1].text in _FROM)

    def _name(self, item: Item) -> None:
        for name in names_in(item.text):
            edges = name.edges(y_first=False)
            of_size = set(edges) <= _SIZES
            if self._image and of_size:
                self._image = "sized"
                continue
            self._image = ""
            # An axis that is told for the first time begins anew: the y of `x=1 to x=3 and y=2 to y=4`.
            low = {"x": "left", "y": "top"}.get("".join(edges))
            if self._corner == HIGH and low and self._edges and not {low, *edges} & set(self._edges):
                self._corner = None
            meant = name.of(self._corner)
            if name.is_pair and not of_size:
                self._corner = name
            elif meant is name and edges[0] not in _RANGES:
                self._corner = name.corner
            self._names.append(meant)

    def _mark(self, item: Item) -> None:
        text = item.text
        if text in "{." and self._edges and set(self._edges) <= _SIZES:
            self._sizes_apart = True
        if text in ".}":
            self._forget_names()
            self._corner, self._image = None, ""
        if text in ")]":
            self._note_legend()
        if text == "," and self._image == "named":
            self._image = ""
        if text == "}" and not self._names:
            self._close()

    def _word(self, item: Item) -> None:
        text = item.text
        self._more_than_bare = self._more_than_bare or item.kind == "numbers"
        if text in _IMAGE:
            self._forget_names()
            self._image = "named"
            return
        self._image = self._image if text in _BEFORE_A_SIZE else ""
        if text in _FROM:
            self._between = text == "between"
            self._names, self._corner = (self._names, self._corner) if self._names else ([LOW], LOW)
        elif text in TO or (text == "and" and self._between):
            if not self._names and (self._corner == LOW or {"left", "top", "x", "y"} & set(self._edges)):
                self._names, self._corner = [HIGH], HIGH
        elif text not in _LINKS and text != "and" and item.kind != "tag":
            self._forget_names()
            self._corner = None
        self._loosely = bool(self._names)

    def _pending(self) -> list[str]:
        return [edge for name in self._names for edge in name.edges(y_first=self._y_first)]

    def _forget_names(self) -> None:
        self._note_legend()
        self._loosely = False
        self._loose_centre = self._loose_centre or "cx" in self._pending()
        self._names = []

    def _note_legend(self) -> None:
        """Keep four names of numbers that stand elsewhere: `[1, 2, 3, 4] (x1, y1, x2, y2)`."""
        edges = self._pending()
        if len(edges) == _FOUR and not self._loosely:
            self._legends.add(tuple(edges))

    def _tell(self, edges: Sequence[str], tellers: Sequence[Item]) -> None:
        """Take numbers for edges; a second box begins where an edge of the first is told anew."""
        self._loose_centre = self._loose_centre or ("cx" in self._pending() and not {"cx", "cy"} & set(edges))
        numbers = [number for item in tellers for number in item.numbers]
        for edge, number in zip(edges, numbers, strict=True):
            if self._edges.get(edge, number) != number:
                self._begin_anew(edge)
            self._edges[edge] = number
        self._tellers += tellers

    def _begin_anew(self, edge: str) -> None:
        sizes_first = edge in _SIZES and next(iter(self._edges)) in _SIZES
        if sizes_first and self._sizes_apart and not self._sizes_twice:
            # Sizes in a sentence of their own, or around an object with others, are those of the image.
            self._edges = {name: number for name, number in self._edges.items() if name not in _SIZES}
            self._sizes_twice = True
            return
        if sizes_first or self._sizes_twice or not self._close():
            self._contradicted = True
        self._edges, self._tellers = {}, []

    def _close(self) -> bool:
        if self._loose_centre and {"x", "y"} & set(self._edges):
            return False
        # Sizes in a sentence of their own may be those of the image.
        apart = self._sizes_apart and not self._sizes_twice
        numbers = box_of({edge: self._edges[edge] for edge in self._edges if not (apart and edge in _SIZES)})
        if numbers is None:
            return False
        self._boxes.append(_told(numbers, "xyxy", self._tellers))
        self._edges, self._tellers = {}, []
        self._sizes_twice = self._sizes_apart = False
        return True

    def _bare(self) -> list[FoundBox]:
        run = self._runs[0] if len(self._runs) == 1 else []
        numbers = [item.numbers[0] for item in run]
        # `1. 100 200 300` is an item of a list, `5, 6, 7, 8` counts something.
        counted = [number - numbers[0] for number in numbers] == [0, 1, 2, 3]
        if len(run) != _FOUR or counted or any(item.text.endswith(".") for item in run):
            return []
        return [_told(numbers, "space", run)]


def _by_names(edges: Sequence[str], numbers: Sequence[float]) -> Numbers | None:
    return box_of(dict(zip(edges, numbers, strict=True))) if len(set(edges)) == _FOUR else None


def _told(numbers: Sequence[float], order: NumberOrder, tellers: Sequence[Item]) -> FoundBox:
    first, second, third, fourth = numbers
    four, unit = (first, second, third, fourth), box_tokens.common_unit(tellers)
    return FoundBox(numbers=four, order=order, unit=unit, start=tellers[0].start, end=tellers[-1].end)


def _chosen(boxes: Sequence[FoundBox], plain: str) -> FoundBox | None:
    """Return the box that the answer stands by; the head of this module says which."""
    ends = [0, *(box.end for box in boxes)]
    told = [(box, plain[max(end, box.start - _REACH) : box.start]) for end, box in zip(ends[:-1], boxes, strict=True)]
    told = [(box, before) for box, before in told if not exactly("box_denied").search(before)]
    denied_behind = exactly("box_denied_behind")
    told = [(box, before) for box, before in told if not denied_behind.match(plain[box.end : box.end + _REACH])]
    retracted = [place for place, (_, before) in enumerate(told) if place and exactly("box_retracted").search(before)]
    told = told[retracted[-1] if retracted else 0 :]
    if not told or exactly("box_taken_back").search(plain, told[-1][0].end):
        return None
    chosen, before = told[0]
    if any(exactly("box_or").match(between) and box.numbers != chosen.numbers for box, between in told[1:]):
        return None
    # `in percent: [10, 20, 30, 40]`
    said = None if chosen.unit else exactly("box_unit_said").search(before)
    return chosen if said is None else replace(chosen, unit="%" if said[1].startswith("percent") else "px")
