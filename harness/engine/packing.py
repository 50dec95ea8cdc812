"""One forward pass, packed: which token belongs to which row, what it reads and where its keys go.

The tokens of a pass stand in one line, without padding: first the next token of every row that is being answered, then
prompts, then beginnings that prompts share. Every part has its own positions and reads only what it continues.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from medbench.harness.engine.layout import PLAIN, Layout, Place

CHUNK = 128
_SEGMENT = 16
# Not infinite: a query that may read nothing must get a weight of zero, not of NaN.
NEVER = -1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A shared beginning that has a slot.

    Attributes:
        slot: Among the beginnings.
        length: Its tokens.
        layout: How they stand.
    """

    slot: int
    length: int
    layout: Layout = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """New tokens of one row.

    Attributes:
        slot: Of the row.
        place: Of the first of them in the slot.
        length: How many.
        after: The beginning that the slot continues, if any.
        copies: Whether the slot holds a copy of that beginning, in the places before `place`.
        shift: Positions minus tokens of what the slot holds before it, without the beginning.
        layout: How the new tokens stand.
    """

    slot: int
    place: int
    length: int
    after: Held | None = None
    copies: bool = False
    shift: int = 0
    layout: Layout = PLAIN

    @property
    def position(self) -> int:
        """Of the first token in what the decoder reads."""
        if self.after is None:
            return self.place + self.shift
        return self.place + self.shift + self.after.layout.shift + (0 if self.copies else self.after.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where new keys and values of rows go, in one chunk of places.

    Attributes:
        chunk: Number of the chunk.
        tokens: Those of the pass that go there.
        slots: Slot of each [n].
        places: Place of each within the chunk [n].
        only: Which of them really do [n]; None for all.
    """

    chunk: int
    tokens: slice | torch.Tensor
    slots: torch.Tensor
    places: torch.Tensor
    only: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A beginning that slots get a copy of.

    Attributes:
        held: The beginning.
        slots: Where to [n].
    """

    held: Held
    slots: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What neighbouring rows that decode one token each read of one chunk: as far as the longest of them.

    Attributes:
        rows: Their slots, and their tokens in the pass.
        chunk: Number of the chunk.
        reach: Places of it that are read.
    """

    rows: slice
    chunk: int
    reach: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring prompts or beginnings of the same length.

    Attributes:
        tokens: Of all of them.
        length: Of each.
        whole: Whether they continue no beginning, so that nothing is joined to what they read.
        mutual: Stretches of each whose tokens read one another.
    """

    tokens: slice
    length: int
    whole: bool
    mutual: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tokens that continue the same beginning.

    Attributes:
        held: The beginning.
        sharers: Where they stand in `Pack.sharers`.
    """

    held: Held
    sharers: slice

    @property
    def size(self) -> int:
        """How many tokens."""
        return int(self.sharers.stop - self.sharers.start)


class Plan(ABC):
    """What a forward pass needs to know.

    Attributes:
        count: Tokens in all.
        positions: Position of each [1, N], or [3, 1, N] in three dimensions.
        row_of: Row or prompt of each token of these [n], which come before beginnings.
        read: Tokens whose logits are wanted, rows before prompts [R].
        targets: Where the keys of rows and prompts go.
        beginnings: New beginnings and their tokens.
        copies: Of beginnings, into slots.
        segments: Of the decoding rows.
        runs: Of prompts and beginnings.
        groups: By beginning.
        sharers: Tokens that continue a beginning, group by group [n].
    """

    count: int
    positions: torch.Tensor
    row_of: torch.Tensor
    read: torch.Tensor
    targets: tuple[Target, ...]
    beginnings: tuple[tuple[Held, slice], ...] = ()
    copies: tuple[Copy, ...] = ()
    segments: tuple[Segment, ...]
    runs: tuple[Run, ...] = ()
    groups: tuple[Group, ...] = ()
    sharers: torch.Tensor

    @abstractmethod
    def mask(self, of: Segment | Run | Group, window: int | None) -> torch.Tensor | None:
        """Return what may be read, as a mask that is added; None for everything. Layers that read alike share it."""


class Pack(Plan):
    """The plan of a forward pass over any rows, prompts and beginnings.

    Args:
        steps: The next token of each row; row by row, in the order of their slots.
        prompts: Whole prompts, or what follows their beginnings; in slots behind those of `steps`.
        beginnings: What prompts share and nobody has computed yet.
        device: Of the decoder.
    """

    def __init__(
        self, steps: Sequence[Part], prompts: Sequence[Part], beginnings: Sequence[Held], device: torch.device
    ) -> None:
        shared = [Part(slot=held.slot, place=0, length=held.length, layout=held.layout) for held in beginnings]
        parts = [*steps, *prompts]
        spans = list(_spans([*parts, *shared]))
        self._device = device
        self._places = self._long([part.place for part in steps])
        self.count = spans[-1][1]
        self.positions = self._positions([*parts, *shared])
        self.row_of = self._long([row for row, part in enumerate(parts) for _ in range(part.length)])
        self.read = self._long([end - 1 for _, end in spans[: len(parts)]])
        self.targets = tuple(self._targets(parts))
        self.beginnings = tuple(
            (held, slice(*span)) for held, span in zip(beginnings, spans[len(parts) :], strict=True)
        )
        self.copies = tuple(self._copies(parts))
        self.segments = tuple(_segments(steps, _SEGMENT if device.type == "cpu" else max(1, len(steps))))
        self.runs = tuple(_runs([*prompts, *shared], len(steps)))
        self.groups, sharers = _groups(parts)
        self.sharers = self._long(sharers)
        self._behind = self._long(_places_behind(parts))[self.sharers]
        self._masks: dict[Hashable, torch.Tensor | None] = {}

    def mask(self, of: Segment | Run | Group, window: int | None) -> torch.Tensor | None:
        """Return the mask of a plan's part; none where everything may be read."""
        key = (id(of), window)
        if key not in self._masks:
            if isinstance(of, Segment):
                self._masks[key] = self._segment_mask(of, window)
            else:
                self._masks[key] = self._run_mask(of, window) if isinstance(of, Run) else self._group_mask(of, window)
        return self._masks[key]

    def _segment_mask(self, segment: Segment, window: int | None) -> torch.Tensor | None:
        """[n, 1, 1, reach], of a chunk of the rows' slots; windows count tokens, not positions."""
        places = self._places[segment.rows, None]
        keys = torch.arange(segment.reach, device=self._device) + segment.chunk * CHUNK
        allowed = keys <= places
        if window is not None:
            allowed &= places - keys < window
        return self._additive(allowed, (-1, 1, 1, segment.reach))

    def _run_mask(self, run: Run, window: int | None) -> torch.Tensor | None:
        """[1, 1, L, L], of a prompt itself; None for everything before, with mutual stretches for everything."""
        if (window is None or run.length <= window) and not run.mutual:
            return None
        places = torch.arange(run.length, device=self._device)
        distance = places[:, None] - places
        allowed = (distance >= 0) & (distance < (window or run.length))
        for start, end in run.mutual:
            allowed[start:end, start:end] = True
        return self._additive(allowed, (1, 1, run.length, run.length))

    def _group_mask(self, group: Group, window: int | None) -> torch.Tensor | None:
        """[n, length], of a beginning."""
        if window is None:
            return None
        keys = torch.arange(group.held.length, device=self._device)
        return self._additive(self._behind[group.sharers, None] - keys < window, (-1, group.held.length))

    def _additive(self, allowed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor | None:
        if bool(allowed.all()):
            return None
        mask = torch.zeros(allowed.shape, device=self._device)
        return mask.masked_fill_(~allowed, NEVER).view(shape)

    def _positions(self, parts: Sequence[Part]) -> torch.Tensor:
        """Return [1, N] where all dimensions agree, which is what decoders of one dimension take."""
        if not any(part.layout.grids for part in parts):
            return self._long([part.position + step for part in parts for step in range(part.length)])[None]
        places = [place for part in parts for place in part.layout.positions(part.position, part.length)]
        return self._long(places).T[:, None]

    def _targets(self, parts: Sequence[Part]) -> Iterator[Target]:
        chunks: dict[int, list[tuple[int, int, int]]] = {}
        for part, (start, _) in zip(parts, _spans(parts), strict=True):
            for step in range(part.length):
                chunk, place = divmod(part.place + step, CHUNK)
                chunks.setdefault(chunk, []).append((start + step, part.slot, place))
        for chunk, written in chunks.items():
            tokens, slots, places = zip(*written, strict=True)
            first, last = tokens[0], tokens[-1]
            together = last - first + 1 == len(tokens)
            yield Target(
                chunk=chunk, tokens=slice(first, last + 1) if together else self._long(tokens),
                slots=self._long(slots), places=self._long(places),
            )  # fmt: skip

    def _copies(self, parts: Sequence[Part]) -> Iterator[Copy]:
        slots: dict[Held, list[int]] = {}
        for part in parts:
            if part.after is not None and part.copies:
                slots.setdefault(part.after, []).append(part.slot)
        for held, own in slots.items():
            yield Copy(held=held, slots=self._long(own))

    def _long(self, values: Sequence[int] | Sequence[Place]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _places_behind(parts: Sequence[Part]) -> list[int]:
    """Return how many tokens come before each, those of beginnings included."""
    starts = [part.place + (part.after.length if part.after and not part.copies else 0) for part in parts]
    return [start + step for start, part in zip(starts, parts, strict=True) for step in range(part.length)]


def _spans(parts: Sequence[Part], first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield where each part's tokens begin and end."""
    for part in parts:
        yield first, first + part.length
        first += part.length


def _segments(steps: Sequence[Part], size: int) -> Iterator[Segment]:
    """Yield, chunk after chunk, neighbours that reach it; what a row never wrote is not even touched."""
    longest = max((part.place for part in steps), default=-1)
    for chunk in range(longest // CHUNK + 1):
        first = chunk * CHUNK
        for reaching, some in groupby(enumerate(steps), key=lambda numbered: numbered[1].place >= first):
            if reaching:
                yield from _cut(list(some), chunk, size)


def _cut(neighbours: Sequence[tuple[int, Part]], chunk: int, size: int) -> Iterator[Segment]:
    for start in range(0, len(neighbours), size):
        some = neighbours[start : start + size]
        reach = max(part.place for _, part in some) + 1 - chunk * CHUNK
        yield Segment(rows=slice(some[0][0], some[-1][0] + 1), chunk=chunk, reach=min(CHUNK, reach))


def _runs(parts: Sequence[Part], first: int) -> Iterator[Run]:
    start = first
    for number, (part, (_, end)) in enumerate(zip(parts, _spans(parts, first), strict=True)):
        following = parts[number + 1] if number + 1 < len(parts) else None
        alike = following is not None and (following.length, following.layout.mutual) == (
            part.length,
            part.layout.mutual,
        )
        if following is None or not alike or bool(following.after) != bool(part.after):
            yield Run(tokens=slice(start, end), length=part.length, whole=part.after is None, mutual=part.layout.mutual)
            start = end


def _groups(parts: Sequence[Part]) -> tuple[tuple[Group, ...], list[int]]:
    members: dict[Held, list[int]] = {}
    for part, (start, end) in zip(parts, _spans(parts), strict=True):
        if part.after is not None:
            members.setdefault(part.after, []).extend(range(start, end))
    groups = []
    sharers: list[int] = []
    for held, tokens in members.items():
        groups.append(Group(held=held, sharers=slice(len(sharers), len(sharers) + len(tokens))))
        sharers += tokens
    return tuple(groups), sharers
