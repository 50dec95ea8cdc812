"""One forward pass, packed: which token belongs to which row, what it reads and where its keys go.

The tokens of a pass stand in one line, without padding: first the next token of every row that is being answered, then
prompts, then prefixes that prompts share. Every part has its own positions and reads only what it continues.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from medbench.harness.engine.requests import PLAIN, Layout, Place

CHUNK = 128
_BLOCK_ROWS = 16
# Not infinite: a query that may read nothing must get a weight of zero, not of NaN.
NEVER = -1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrefix:
    """A shared prefix of `length` tokens that has a slot among the prefixes."""

    slot: int
    length: int
    layout: Layout = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """New tokens of one row, from a place in its slot on."""

    slot: int
    place: int
    length: int
    prefix: CachedPrefix | None = None  # What the slot continues, if anything.
    copies: bool = False  # Whether the slot holds a copy of that prefix, in the places before `place`.
    shift: int = 0  # Positions minus tokens of what the slot holds before it, without the prefix.
    layout: Layout = PLAIN

    @property
    def read_elsewhere(self) -> int:
        """Tokens of the prefix that are not in the row's own slot."""
        return self.prefix.length if self.prefix and not self.copies else 0

    @property
    def position(self) -> int:
        """Of the first token in what the decoder reads."""
        shift = self.prefix.layout.shift if self.prefix else 0
        return self.place + self.shift + shift + self.read_elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where new keys and values of some tokens go: slots [n] and places [n] of a chunk; `only` some of them [n]."""

    chunk: int
    tokens: slice | torch.Tensor
    slots: torch.Tensor
    places: torch.Tensor
    only: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCopy:
    """A prefix that row slots [n] get a copy of."""

    prefix: CachedPrefix
    slots: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBlock:
    """What neighbouring rows (their slots, and their tokens) that decode read of a chunk: `reach` places of it."""

    rows: slice
    chunk: int
    reach: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBlock:
    """Neighbouring prompts or prefixes of the same length."""

    tokens: slice  # Of all of them.
    length: int
    whole: bool  # Whether they continue no prefix, so that nothing is joined to what they read.
    mutual: tuple[tuple[int, int], ...] = ()  # Stretches of each whose tokens read one another.


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """Tokens that continue the same prefix; `sharers` is where they stand in `PassPlan.sharers`."""

    prefix: CachedPrefix
    sharers: slice

    @property
    def size(self) -> int:
        """How many tokens."""
        return int(self.sharers.stop - self.sharers.start)


Block = DecodeBlock | PromptBlock | PrefixGroup


class PassPlan(ABC):
    """What a forward pass needs to know."""

    count: int  # Tokens in all.
    positions: torch.Tensor  # Position of each [1, N], or [3, 1, N] in three dimensions.
    row_of: torch.Tensor  # Row or prompt of each token of these [n], which come before prefixes.
    read: torch.Tensor  # Tokens whose logits are wanted, rows before prompts [R].
    targets: tuple[Target, ...]  # Where the keys of rows and prompts go.
    prefixes: tuple[tuple[CachedPrefix, slice], ...] = ()  # New prefixes and their tokens.
    copies: tuple[PrefixCopy, ...] = ()  # Of prefixes, into slots.
    decoding: tuple[DecodeBlock, ...]
    prompts: tuple[PromptBlock, ...] = ()
    groups: tuple[PrefixGroup, ...] = ()
    sharers: torch.Tensor  # Tokens that continue a prefix, group by group [n].

    @abstractmethod
    def mask(self, of: Block, window: int | None) -> torch.Tensor | None:
        """Return what may be read, as a mask that is added; None for everything. Layers that read alike share it."""


class PackedPlan(PassPlan):
    """The plan of a forward pass over any rows, prompts and prefixes, in the order of their slots; see `Passes.run`."""

    def __init__(
        self, steps: Sequence[NewTokens], prompts: Sequence[NewTokens], prefixes: Sequence[CachedPrefix],
        device: torch.device,
    ) -> None:  # fmt: skip
        shared = [NewTokens(slot=one.slot, place=0, length=one.length, layout=one.layout) for one in prefixes]
        parts = [*steps, *prompts]
        spans = list(_spans([*parts, *shared]))
        self._device = device
        self._places = self._long([part.place for part in steps])
        self.count = spans[-1][1]
        self.positions = self._positions([*parts, *shared])
        self.row_of = self._long([row for row, part in enumerate(parts) for _ in range(part.length)])
        self.read = self._long([end - 1 for _, end in spans[: len(parts)]])
        self.targets = tuple(self._targets(parts))
        self.prefixes = tuple((one, slice(*span)) for one, span in zip(prefixes, spans[len(parts) :], strict=True))
        self.copies = tuple(self._copies(parts))
        self.decoding = tuple(_decode_blocks(steps, _BLOCK_ROWS if device.type == "cpu" else max(1, len(steps))))
        self.prompts = tuple(_prompt_blocks([*prompts, *shared], len(steps)))
        self.groups, sharers = _groups(parts)
        self.sharers = self._long(sharers)
        # How many tokens come before each, those of prefixes included.
        before = [part.place + part.read_elsewhere + step for part in parts for step in range(part.length)]
        self._behind = self._long(before)[self.sharers]
        self._masks: dict[Hashable, torch.Tensor | None] = {}

    def mask(self, of: Block, window: int | None) -> torch.Tensor | None:
        """Return the mask of a plan's block; none where everything may be read."""
        key = (id(of), window)
        if key not in self._masks:
            allowed = self._allowed(of, window)
            if allowed is None or bool(allowed.all()):
                self._masks[key] = None
            else:
                self._masks[key] = torch.zeros(allowed.shape, device=self._device).masked_fill_(~allowed, NEVER)
        return self._masks[key]

    def _allowed(self, of: Block, window: int | None) -> torch.Tensor | None:
        """Return what tokens may read: of a chunk [n, 1, 1, reach], a prompt itself [1, 1, L, L] or a prefix [n, L].

        None for everything, or everything before in a prompt without mutual stretches. Windows count tokens, not
        positions.
        """
        if isinstance(of, DecodeBlock):
            places = self._places[of.rows, None, None, None]
            keys = torch.arange(of.reach, device=self._device) + of.chunk * CHUNK
            return keys <= places if window is None else (keys <= places) & (places - keys < window)
        if isinstance(of, PrefixGroup):
            keys = torch.arange(of.prefix.length, device=self._device)
            return None if window is None else self._behind[of.sharers, None] - keys < window
        if (window is None or of.length <= window) and not of.mutual:
            return None
        places = torch.arange(of.length, device=self._device)
        distance = places[:, None] - places
        allowed = (distance >= 0) & (distance < (window or of.length))
        for start, end in of.mutual:
            allowed[start:end, start:end] = True
        return allowed[None, None]

    def _positions(self, parts: Sequence[NewTokens]) -> torch.Tensor:
        """Return [1, N] where all dimensions agree, which is what decoders of one dimension take."""
        if not any(part.layout.grids for part in parts):
            return self._long([part.position + step for part in parts for step in range(part.length)])[None]
        places = [place for part in parts for place in part.layout.positions(part.position, part.length)]
        return self._long(places).T[:, None]

    def _targets(self, parts: Sequence[NewTokens]) -> Iterator[Target]:
        chunks: dict[int, list[tuple[int, int, int]]] = {}
        for part, (start, _) in zip(parts, _spans(parts), strict=True):
            for step in range(part.length):
                chunk, place = divmod(part.place + step, CHUNK)
                chunks.setdefault(chunk, []).append((start + step, part.slot, place))
        for chunk, written in chunks.items():
            tokens, slots, places = zip(*written, strict=True)
            first, last = tokens[0], tokens[-1]
            together = last - first + 1 == len(tokens)
            where = slice(first, last + 1) if together else self._long(tokens)
            yield Target(chunk=chunk, tokens=where, slots=self._long(slots), places=self._long(places))

    def _copies(self, parts: Sequence[NewTokens]) -> Iterator[PrefixCopy]:
        slots: dict[CachedPrefix, list[int]] = {}
        for part in parts:
            if part.prefix is not None and part.copies:
                slots.setdefault(part.prefix, []).append(part.slot)
        for prefix, own in slots.items():
            yield PrefixCopy(prefix=prefix, slots=self._long(own))

    def _long(self, values: Sequence[int] | Sequence[Place]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _spans(parts: Sequence[NewTokens], first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield where each part's tokens begin and end."""
    for part in parts:
        yield first, first + part.length
        first += part.length


def _decode_blocks(steps: Sequence[NewTokens], size: int) -> Iterator[DecodeBlock]:
    """Yield, chunk after chunk, neighbours that reach it; what a row never wrote is not even touched."""
    longest = max((part.place for part in steps), default=-1)
    for chunk in range(longest // CHUNK + 1):
        first = chunk * CHUNK
        for reaching, run in groupby(enumerate(steps), key=lambda numbered: numbered[1].place >= first):
            neighbours = list(run)
            for start in range(0, len(neighbours) if reaching else 0, size):
                some = neighbours[start : start + size]
                reach = min(CHUNK, max(part.place for _, part in some) + 1 - first)
                yield DecodeBlock(rows=slice(some[0][0], some[-1][0] + 1), chunk=chunk, reach=reach)


def _prompt_blocks(parts: Sequence[NewTokens], first: int) -> Iterator[PromptBlock]:
    """Yield neighbours of one length and layout that all continue a prefix, or all none."""
    start = first
    for (length, mutual, whole), alike in groupby(
        parts, key=lambda part: (part.length, part.layout.mutual, part.prefix is None)
    ):
        end = start + length * len(list(alike))
        yield PromptBlock(tokens=slice(start, end), length=length, whole=whole, mutual=mutual)
        start = end


def _groups(parts: Sequence[NewTokens]) -> tuple[tuple[PrefixGroup, ...], list[int]]:
    tokens_of: dict[CachedPrefix, list[int]] = {}
    for part, (start, end) in zip(parts, _spans(parts), strict=True):
        if part.prefix is not None:
            tokens_of.setdefault(part.prefix, []).extend(range(start, end))
    groups = []
    sharers: list[int] = []
    for prefix, tokens in tokens_of.items():
        groups.append(PrefixGroup(prefix=prefix, sharers=slice(len(sharers), len(sharers) + len(tokens))))
        sharers += tokens
    return tuple(groups), sharers
