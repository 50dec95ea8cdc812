"""One forward pass, packed: the next token of every row, then prompts, then what they share, in one line unpadded."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch

from medbench.harness.engine.requests import PLAIN, Layout, Place, SharedPrefix

CHUNK = 128
_BLOCK_ROWS = 32
# Not infinite: a query that may read nothing must get a weight of zero, not of NaN.
NEVER = -1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """New tokens of one row, from a place in its slot on."""

    slot: int
    place: int
    length: int
    prefix: SharedPrefix | None = None  # What the slot continues, if anything.
    shift: int = 0  # Positions minus tokens of what the slot holds before it, without the prefix.
    layout: Layout = PLAIN

    @property
    def before(self) -> int:
        """How many tokens come before the first, those of the prefix included."""
        return self.place + (self.prefix.length if self.prefix else 0)

    @property
    def position(self) -> int:
        """Of the first token in what the decoder reads."""
        return self.before + self.shift + (self.prefix.layout.shift if self.prefix else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where new keys and values of some tokens go: slots [n] and places [n] of a chunk."""

    chunk: int
    tokens: slice | torch.Tensor
    slots: torch.Tensor
    places: torch.Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class Block(ABC):
    """Tokens that read alike. Layers with the same window, which counts tokens and not positions, share its mask."""

    _masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict, init=False)

    @abstractmethod
    def allowed(self, window: int | None) -> torch.Tensor | None:
        """Return what may be read as truth values; None for everything."""

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Return what may be read as a mask that is added; None for everything."""
        if window not in self._masks:
            allowed = self.allowed(window)
            self._masks[window] = None
            # To see whether it allows everything, a GPU would be waited for.
            if allowed is not None and (allowed.device.type != "cpu" or not allowed.all()):
                self._masks[window] = torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, NEVER)
        return self._masks[window]


@dataclass(slots=True, kw_only=True, eq=False)
class DecodeBlock(Block):
    """What neighbouring rows (their slots, and their tokens) that decode read of a chunk: `reach` places of it."""

    rows: slice
    chunk: int
    reach: int
    places: torch.Tensor  # Of the tokens [n].
    _lines: torch.Tensor | None = field(default=None, init=False)

    def lines(self, heads: int) -> torch.Tensor:
        """Return where what each row and head reads [n H, reach] lies in a chunk [S, H, CHUNK, D] of lines of D."""
        if self._lines is None:
            first = torch.arange(self.rows.start * heads, self.rows.stop * heads) * CHUNK
            self._lines = first[:, None] + torch.arange(self.reach)
        return self._lines

    def allowed(self, window: int | None) -> torch.Tensor:
        """Return [n, 1, reach]."""
        keys = torch.arange(self.reach, device=self.places.device) + self.chunk * CHUNK
        distance = self.places[:, None, None] - keys
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclass(slots=True, kw_only=True, eq=False)
class PromptBlock(Block):
    """Neighbouring prompts or prefixes of the same length."""

    tokens: slice  # Of all of them.
    length: int
    whole: bool  # Whether they continue no prefix, so that nothing is joined to what they read.
    device: torch.device
    mutual: tuple[tuple[int, int], ...] = ()  # Stretches of each whose tokens read one another.

    def allowed(self, window: int | None) -> torch.Tensor | None:
        """Return [1, 1, L, L]; None for everything before, which is all without mutual stretches."""
        if (window is None or self.length <= window) and not self.mutual:
            return None
        places = torch.arange(self.length, device=self.device)
        distance = places[:, None] - places
        allowed = (distance >= 0) & (distance < (window or self.length))
        for start, end in self.mutual:
            allowed[start:end, start:end] = True
        return allowed[None, None]


@dataclass(slots=True, kw_only=True, eq=False)
class PrefixGroup(Block):
    """Tokens that continue the same prefix; `sharers` is where they stand in `PassPlan.sharers`."""

    prefix: SharedPrefix
    sharers: slice
    behind: torch.Tensor  # How many tokens come before each [n].

    def allowed(self, window: int | None) -> torch.Tensor | None:
        """Return [n, L]."""
        keys = torch.arange(self.prefix.length, device=self.behind.device)
        return None if window is None else self.behind[:, None] - keys < window


@dataclass(slots=True, kw_only=True)
class PassPlan:
    """What a forward pass needs to know."""

    count: int  # Tokens in all.
    positions: torch.Tensor  # Position of each [1, N], or [3, 1, N] in three dimensions.
    row_of: torch.Tensor  # Row or prompt of each token of these [n], which come before prefixes.
    read: torch.Tensor  # Tokens whose logits are wanted, rows before prompts [R].
    targets: Sequence[Target]  # Where the keys of rows and prompts go.
    decoding: Sequence[DecodeBlock]
    sharers: torch.Tensor  # Tokens that continue a prefix, group by group [n].
    prefixes: Sequence[tuple[SharedPrefix, slice]] = ()  # New prefixes and their tokens.
    prompts: Sequence[PromptBlock] = ()
    groups: Sequence[PrefixGroup] = ()


def packed_plan(
    steps: Sequence[NewTokens], prompts: Sequence[NewTokens], prefixes: Sequence[SharedPrefix], device: torch.device
) -> PassPlan:
    """Return the plan of a pass over any rows, prompts and prefixes, in the order of their slots; see `Passes.run`."""

    def long(values: Sequence[int] | Sequence[Place]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    shared = [NewTokens(slot=0, place=0, length=one.length, layout=one.layout) for one in prefixes]
    parts = [*steps, *prompts]
    every = [*parts, *shared]
    ends = list(accumulate(part.length for part in every))
    if any(part.layout.grids for part in every):
        places = [place for part in every for place in part.layout.positions(part.position, part.length)]
        positions = long(places).T[:, None]
    else:
        # Where all dimensions agree, decoders take one, and those of one dimension take no more.
        positions = long([part.position + step for part in every for step in range(part.length)])[None]
    tokens_of = dict[SharedPrefix, list[tuple[int, int]]]()
    for part, end in zip(parts, ends, strict=False):
        if part.prefix is not None:
            own = tokens_of.setdefault(part.prefix, [])
            own += [(end - part.length + step, part.before + step) for step in range(part.length)]
    groups, sharers = list[PrefixGroup](), list[int]()
    for prefix, behind in tokens_of.items():
        where = slice(len(sharers), len(sharers) + len(behind))
        groups.append(PrefixGroup(prefix=prefix, sharers=where, behind=long([before for _, before in behind])))
        sharers += [token for token, _ in behind]
    return PassPlan(
        count=ends[-1],
        positions=positions,
        row_of=long([row for row, part in enumerate(parts) for _ in range(part.length)]),
        read=long([end - 1 for end in ends[: len(parts)]]),
        targets=list(_targets(parts, device)),
        decoding=list(_decode_blocks(steps, long([part.place for part in steps]))),
        prefixes=[(one, slice(end - one.length, end)) for one, end in zip(prefixes, ends[len(parts) :], strict=True)],
        prompts=list(_prompt_blocks([*prompts, *shared], len(steps), device)),
        groups=groups,
        sharers=long(sharers),
    )


def _targets(parts: Sequence[NewTokens], device: torch.device) -> Iterator[Target]:
    written = torch.tensor([(part.slot, part.place + step) for part in parts for step in range(part.length)])
    slots, places = written.reshape(-1, 2).T
    chunks = places // CHUNK
    for chunk in chunks.unique().tolist():
        [tokens] = torch.nonzero(chunks == chunk, as_tuple=True)
        first, last = int(tokens[0]), int(tokens[-1])
        where = slice(first, last + 1) if last - first + 1 == len(tokens) else tokens.to(device)
        own = (slots[tokens].to(device), (places[tokens] % CHUNK).to(device))
        yield Target(chunk=chunk, tokens=where, slots=own[0], places=own[1])


def _decode_blocks(steps: Sequence[NewTokens], places: torch.Tensor) -> Iterator[DecodeBlock]:
    """Yield, chunk after chunk, neighbours that reach it; what a row never wrote is not even touched."""
    size = _BLOCK_ROWS if places.device.type == "cpu" else max(1, len(steps))
    longest = max((part.place for part in steps), default=-1)
    for chunk in range(longest // CHUNK + 1):
        first = chunk * CHUNK
        for reaching, run in groupby(enumerate(steps), key=lambda numbered: numbered[1].place >= first):
            neighbours = list(run)
            for start in range(0, len(neighbours) if reaching else 0, size):
                some = neighbours[start : start + size]
                rows = slice(some[0][0], some[-1][0] + 1)
                reach = min(CHUNK, max(part.place for _, part in some) + 1 - first)
                yield DecodeBlock(rows=rows, chunk=chunk, reach=reach, places=places[rows])


def _prompt_blocks(parts: Sequence[NewTokens], start: int, device: torch.device) -> Iterator[PromptBlock]:
    for (length, mutual, whole), alike in groupby(
        parts, key=lambda part: (part.length, part.layout.mutual, part.prefix is None)
    ):
        tokens = slice(start, start + length * len(list(alike)))
        yield PromptBlock(tokens=tokens, length=length, whole=whole, device=device, mutual=mutual)
        start = tokens.stop
