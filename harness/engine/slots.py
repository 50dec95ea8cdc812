"""Keys and values in slots, as suits a CPU: every token reads its own slot and, once for all who share it, a prefix.

A row's keys lie in two places; each part is attended by itself with the logarithm of its sum of weights, by which both
are joined: the same softmax, split (Dao, FlashAttention-2, section 2.3).
"""

import math
import mmap
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch
from torch.nn.functional import scaled_dot_product_attention

from medbench.harness.engine.attention import KeysAndValues, Read, attend
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.packing import NEVER, AttentionSettings, KVStore, NewTokens, PassAttention
from medbench.harness.engine.requests import PrefixedRequest, SharedPrefix
from medbench.harness.engine.streaming import attend_streaming, can_stream

CHUNK = 128
_BLOCK_ROWS = 32


class LayerSlots:
    """One layer: the rows' own keys and values, in chunks of places, and those of the prefixes they share."""

    def __init__(self, budget: Budget, dtype: torch.dtype | None) -> None:
        self._budget = budget
        self._dtype = dtype
        # [S, H, CHUNK, D] of places 0 to CHUNK - 1 of all slots, then of the following places.
        self.chunks: list[KeysAndValues] = []
        self.prefixes: dict[SharedPrefix, KeysAndValues] = {}  # [H, L, D]

    def room(self, chunk: int, like: torch.Tensor) -> torch.Tensor:
        """Return zeros for a chunk, like new keys [H, N, D]: a slot for every row that can be so long; at least one.

        Zeros, since what is masked is still multiplied, and NaN in memory would come through. The system hands out
        zeroed pages when they are first used; `torch.zeros` would write them all now.
        """
        slots = max(1, min(self._budget.rows, self._budget.tokens // ((chunk + 1) * CHUNK)))
        shape, dtype = (slots, like.shape[0], CHUNK, like.shape[2]), self._dtype or like.dtype
        pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(pages, dtype=dtype).view(shape)

    def write(self, plan: "SlotsPass", keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the new keys and values [H, N, D] of a pass where they belong."""
        for target in plan.targets:
            self.reach(target.chunk + 1, keys, values)
            for chunk, states in zip(self.chunks[target.chunk], (keys, values), strict=True):
                new = states.transpose(0, 1)[target.tokens].to(chunk.dtype)
                chunk[target.slots, :, target.places] = new
        for prefix, tokens in plan.new_prefixes:
            dtype = self._dtype or keys.dtype
            own_keys, own_values = (states[:, tokens].to(dtype).contiguous() for states in (keys, values))
            self.prefixes[prefix] = (own_keys, own_values)

    def reach(self, chunks: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make room up to a chunk, for keys and values like these."""
        while (number := len(self.chunks)) < chunks:
            self.chunks.append((self.room(number, keys), self.room(number, values)))


class KVSlots(KVStore):
    """A slot for each row, in every layer.

    What lies behind a row's length is never read: masks end there, and later tokens overwrite it.
    """

    name = "slots"

    def __init__(self, budget: Budget, dtype: torch.dtype | None = None) -> None:
        # Keys and values are held and read in `dtype`, or in the decoder's own.
        self.layers: defaultdict[int, LayerSlots] = defaultdict(lambda: LayerSlots(budget, dtype))

    def places(self, rows: Sequence[PrefixedRequest], prefixes: Iterable[SharedPrefix]) -> int:
        """Return the places of as many slots as there are rows, each as long as the longest, and of the prefixes."""
        longest = max((one.own_length + one.request.decoding.max_new_tokens for one in rows), default=0)
        return len(rows) * CHUNK * math.ceil(longest / CHUNK) + sum(prefix.length for prefix in prefixes)

    def plan(
        self, steps: Sequence[NewTokens], prompts: Sequence[NewTokens], prefixes: Sequence[SharedPrefix]
    ) -> "SlotsPass":
        """Return what the pass writes and reads; room is made when it is written to."""
        shared = [NewTokens.of_prefix(one) for one in prefixes]
        parts = [*steps, *prompts]
        ends = list(accumulate(part.length for part in [*parts, *shared]))
        groups, sharers = _groups(parts, ends)
        return SlotsPass(
            slots=self,
            rows=len(parts),
            targets=list(_targets(parts)),
            decoding=list(_decode_blocks(steps, torch.tensor([part.place for part in steps], dtype=torch.long))),
            new_prefixes=[
                (one, slice(end - one.length, end)) for one, end in zip(prefixes, ends[len(parts) :], strict=True)
            ],
            prompts=list(_prompt_blocks([*prompts, *shared], len(steps))),
            groups=groups,
            sharers=sharers,
        )

    def leave(self, slot: int, *, spoilt: bool) -> None:
        """Wipe a spoilt slot."""
        for layer in self.layers.values() if spoilt else ():
            for chunk in layer.chunks:
                for store in chunk:
                    store[slot : slot + 1] = 0

    def drop(self, prefix: SharedPrefix) -> None:
        """Free what a prefix holds."""
        for layer in self.layers.values():
            layer.prefixes.pop(prefix, None)

    def move(self, moves: Sequence[tuple[int, int, int]]) -> None:
        """Copy rows to other slots, in all layers."""
        longest = max((length for *_, length in moves), default=0)
        for number in range(math.ceil(longest / CHUNK)):
            reaching = [move for move in moves if move[2] > number * CHUNK]
            places = min(CHUNK, longest - number * CHUNK)
            sources, targets, _ = torch.tensor(reaching).T
            for layer in self.layers.values():
                for store in layer.chunks[number]:
                    store[targets, :, :places] = store[sources, :, :places]


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
            if allowed is not None and not allowed.all():
                self._masks[window] = torch.zeros(allowed.shape).masked_fill_(~allowed, NEVER)
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
        keys = torch.arange(self.reach) + self.chunk * CHUNK
        distance = self.places[:, None, None] - keys
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclass(slots=True, kw_only=True, eq=False)
class PromptBlock(Block):
    """Neighbouring prompts or prefixes of the same length."""

    tokens: slice  # Of all of them.
    length: int
    whole: bool  # Whether they continue no prefix, so that nothing is joined to what they read.
    mutual: tuple[tuple[int, int], ...] = ()  # Stretches of each whose tokens read one another.

    def allowed(self, window: int | None) -> torch.Tensor | None:
        """Return [1, 1, L, L]; None for everything before, which is all without mutual stretches."""
        if (window is None or self.length <= window) and not self.mutual:
            return None
        places = torch.arange(self.length)
        distance = places[:, None] - places
        allowed = (distance >= 0) & (distance < (window or self.length))
        for start, end in self.mutual:
            allowed[start:end, start:end] = True
        return allowed[None, None]


@dataclass(slots=True, kw_only=True, eq=False)
class PrefixGroup(Block):
    """Tokens that continue the same prefix; `sharers` is where they stand in `SlotsPass.sharers`."""

    prefix: SharedPrefix
    sharers: slice
    behind: torch.Tensor  # How many tokens come before each [n].

    def allowed(self, window: int | None) -> torch.Tensor | None:
        """Return [n, L]."""
        keys = torch.arange(self.prefix.length)
        return None if window is None else self.behind[:, None] - keys < window


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsPass(PassAttention):
    """A pass over slots."""

    slots: KVSlots
    rows: int
    targets: Sequence[Target]  # Where the keys of rows and prompts go.
    decoding: Sequence[DecodeBlock]
    new_prefixes: Sequence[tuple[SharedPrefix, slice]]  # With their tokens.
    prompts: Sequence[PromptBlock]
    groups: Sequence[PrefixGroup]
    sharers: torch.Tensor  # Tokens that continue a prefix, group by group [n].

    def attend(
        self, layer: int, settings: AttentionSettings, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention [N, H, D] of queries [H, N, D] after writing keys and values [K, N, D]."""
        own = self.slots.layers[layer]
        own.write(self, key, value)
        held_keys, _held_values = own.chunks[0] if own.chunks else next(iter(own.prefixes.values()))
        queries, keys, values = (states.to(held_keys.dtype) for states in (query, key, value))
        reading = _Reading(queries.transpose(0, 1), settings)
        reading.own_slots(self.decoding, own.chunks)
        reading.own_prompts(self.prompts, queries, keys, values)
        if self.groups:
            reading.prefixes(self, own.prefixes)
        return reading.out


class _Reading:
    """What the tokens of a pass [N, H, D] have read so far, and the logarithm of the sums of the weights [N, H]."""

    def __init__(self, queries: torch.Tensor, settings: AttentionSettings) -> None:
        self._queries = queries
        self._settings = settings
        self.out = queries.new_empty(queries.shape)
        self._sums = queries.new_empty(queries.shape[:2], dtype=torch.float32)

    def _join(self, tokens: slice | torch.Tensor, out: torch.Tensor, sums: torch.Tensor) -> None:
        before = self._sums[tokens]
        weight = torch.sigmoid(sums - before)[..., None].to(out.dtype)
        self.out[tokens] = torch.lerp(self.out[tokens], out, weight)
        self._sums[tokens] = torch.logaddexp(before, sums)

    def own_slots(self, blocks: Sequence[DecodeBlock], chunks: Sequence[KeysAndValues]) -> None:
        """Let each decoding row read its slot."""
        for block in blocks:
            out, sums = self._read_chunk(block, *chunks[block.chunk])
            if block.chunk:
                self._join(block.rows, out, sums)
            else:
                self.out[block.rows], self._sums[block.rows] = out, sums

    def _read_chunk(self, block: DecodeBlock, keys: torch.Tensor, values: torch.Tensor) -> Read:
        """Return what rows read of a chunk [S, K, CHUNK, D]: attention [n, H, D], and sums [n, H]."""
        queries, settings = self._queries[block.rows], self._settings
        own_keys, own_values = (store[block.rows, :, : block.reach] for store in (keys, values))
        mask = block.mask(settings.window)
        if settings.softcap is None and can_stream(queries, values):
            return attend_streaming(queries * settings.scale, own_keys, values, block.lines(values.shape[1]), mask)
        out, sums = self._read(queries[:, None], own_keys, own_values, mask)
        return out[:, 0], sums[:, 0]

    def own_prompts(
        self, blocks: Sequence[PromptBlock], queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Let the tokens [H, N, D] of each prompt or prefix read those before them."""
        per_key, settings = len(queries) // len(keys), self._settings
        for block in blocks:
            own, own_keys, own_values = (
                states[:, block.tokens].unflatten(1, (-1, block.length)).transpose(0, 1)
                for states in (queries, keys, values)
            )
            if per_key > 1:
                own_keys, own_values = (one.repeat_interleave(per_key, dim=1) for one in (own_keys, own_values))
            mask = block.mask(settings.window)
            causal = mask is None and not block.mutual
            if block.whole and settings.softcap is None:
                # Nothing is joined, so the sums are not needed.
                allowed = None if mask is None else mask == 0
                out = scaled_dot_product_attention(
                    own, own_keys, own_values, attn_mask=allowed, is_causal=causal, scale=settings.scale
                )
            else:
                out, sums = attend(own, own_keys, own_values, settings, mask, causal=causal)
                self._sums[block.tokens] = sums.transpose(1, 2).flatten(0, 1)
            self.out[block.tokens] = out.transpose(1, 2).flatten(0, 1)

    def prefixes(self, plan: SlotsPass, prefixes: Mapping[SharedPrefix, KeysAndValues]) -> None:
        """Let sharers read their prefixes, each once for all who share it."""
        queries = self._queries[plan.sharers]
        out, sums = torch.empty_like(queries), queries.new_empty(queries.shape[:2], dtype=torch.float32)
        for group in plan.groups:
            keys, values = prefixes[group.prefix]
            mask = group.mask(self._settings.window)
            own = None if mask is None else mask[None]
            found, found_sums = self._read(queries[None, group.sharers], keys[None], values[None], own)
            out[group.sharers], sums[group.sharers] = found[0], found_sums[0]
        self._join(plan.sharers, out, sums)

    def _read(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> Read:
        """Return what tokens [G, n, H, D] read of keys [G, K, L, D], and sums [G, n, H]; mask [G, n, L].

        The query heads of one key head stand together, as if they were tokens.
        """
        per_key = queries.shape[2] // keys.shape[1]
        folded = queries.unflatten(2, (-1, per_key)).transpose(1, 2).flatten(2, 3)
        if mask is not None:
            mask = mask[:, :, None].expand(-1, -1, per_key, -1).flatten(1, 2)[:, None]
        out, sums = (
            one.unflatten(2, (-1, per_key)).transpose(1, 2).flatten(2, 3)
            for one in attend(folded, keys, values, self._settings, mask)
        )
        return out, sums


def _groups(parts: Sequence[NewTokens], ends: Sequence[int]) -> tuple[list[PrefixGroup], torch.Tensor]:
    tokens_of = dict[SharedPrefix, list[tuple[int, int]]]()
    for part, end in zip(parts, ends, strict=False):
        if part.prefix is not None:
            own = tokens_of.setdefault(part.prefix, [])
            own += [(end - part.length + step, part.before + step) for step in range(part.length)]
    groups, sharers = list[PrefixGroup](), list[int]()
    for prefix, behind in tokens_of.items():
        where = slice(len(sharers), len(sharers) + len(behind))
        before = torch.tensor([before for _, before in behind], dtype=torch.long)
        groups.append(PrefixGroup(prefix=prefix, sharers=where, behind=before))
        sharers += [token for token, _ in behind]
    return groups, torch.tensor(sharers, dtype=torch.long)


def _targets(parts: Sequence[NewTokens]) -> Iterator[Target]:
    written = torch.tensor([(part.slot, part.place + step) for part in parts for step in range(part.length)])
    slots, places = written.reshape(-1, 2).T
    chunks = places // CHUNK
    for chunk in chunks.unique().tolist():
        [tokens] = torch.nonzero(chunks == chunk, as_tuple=True)
        first, last = int(tokens[0]), int(tokens[-1])
        where = slice(first, last + 1) if last - first + 1 == len(tokens) else tokens
        yield Target(chunk=chunk, tokens=where, slots=slots[tokens], places=places[tokens] % CHUNK)


def _decode_blocks(steps: Sequence[NewTokens], places: torch.Tensor) -> Iterator[DecodeBlock]:
    """Yield, chunk after chunk, neighbours that reach it; what a row never wrote is not even touched."""
    longest = max((part.place for part in steps), default=-1)
    for chunk in range(longest // CHUNK + 1):
        first = chunk * CHUNK
        for reaching, run in groupby(enumerate(steps), key=lambda numbered: numbered[1].place >= first):
            neighbours = list(run)
            for start in range(0, len(neighbours) if reaching else 0, _BLOCK_ROWS):
                some = neighbours[start : start + _BLOCK_ROWS]
                rows = slice(some[0][0], some[-1][0] + 1)
                reach = min(CHUNK, max(part.place for _, part in some) + 1 - first)
                yield DecodeBlock(rows=rows, chunk=chunk, reach=reach, places=places[rows])


def _prompt_blocks(parts: Sequence[NewTokens], start: int) -> Iterator[PromptBlock]:
    for (length, mutual, whole), alike in groupby(
        parts, key=lambda part: (part.length, part.layout.mutual, part.prefix is None)
    ):
        tokens = slice(start, start + length * len(list(alike)))
        yield PromptBlock(tokens=tokens, length=length, whole=whole, mutual=mutual)
        start = tokens.stop
