"""How the tokens of a part of a prompt stand: their positions, and which of them read one another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from medbench.adapters.base import ImageSlot, TextSegment, tokens_of

Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Visual tokens that stand in frames, rows and columns.

    Attributes:
        first: The first of them in the part.
        sides: Frames, rows and columns.
    """

    first: int
    sides: Place

    @property
    def tokens(self) -> int:
        """How many."""
        frames, rows, columns = self.sides
        return frames * rows * columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is not simply one token after the other.

    Attributes:
        grids: Stretches with positions in three dimensions, in order.
        mutual: Stretches (start, end) whose tokens all read one another.
    """

    grids: tuple[Grid, ...] = ()
    mutual: tuple[tuple[int, int], ...] = ()

    @property
    def shift(self) -> int:
        """Positions minus tokens: how much nearer what follows stands."""
        return sum(max(grid.sides) - grid.tokens for grid in self.grids)

    def positions(self, start: int, length: int) -> list[Place]:
        """Return the position of every token, the first at `start`; a grid's next token follows its longest side."""
        places: list[Place] = []
        for grid in self.grids:
            start = _straight(places, start, grid.first - len(places))
            places += [
                (start + frame, start + row, start + column) for frame, row, column in product(*map(range, grid.sides))
            ]
            start += max(grid.sides)
        _straight(places, start, length - len(places))
        return places


PLAIN = Layout()


def _straight(places: list[Place], start: int, count: int) -> int:
    """Append positions that are equal in all dimensions; return the next."""
    places += [(start + step,) * 3 for step in range(count)]
    return start + count


def layout_of(segments: Sequence[TextSegment | ImageSlot], attention: Literal["causal", "images", "prompt"]) -> Layout:
    """Return the layout of a part under a model's attention."""
    spans = list(_spans(segments))
    grids = tuple(
        Grid(first=start, sides=slot.grid) for slot, start, _ in spans if isinstance(slot, ImageSlot) and slot.grid
    )
    if attention == "prompt":
        return Layout(grids=grids, mutual=((0, spans[-1][2]),))
    images = ((start, end) for slot, start, end in spans if isinstance(slot, ImageSlot) and slot.tokens)
    return Layout(grids=grids, mutual=tuple(images) if attention == "images" else ())


def _spans(segments: Sequence[TextSegment | ImageSlot]) -> Iterator[tuple[TextSegment | ImageSlot, int, int]]:
    end = 0
    for segment in segments:
        start, end = end, end + tokens_of(segment)
        yield segment, start, end


def text_config(decoder: Any) -> Any:  # noqa: ANN401 - any model of transformers
    """Return the configuration of the layers that write, which a model with vision holds inside its own."""
    return decoder.config.get_text_config(decoder=True)
