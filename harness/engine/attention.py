"""Attention of a packed pass: every token reads its own slot and, once for all who share it, a prefix.

Registered with transformers, so that its decoders call it instead of a kernel and a cache of theirs. A row's keys lie
in two places; each part is attended by itself with the logarithm of its sum of weights, by which both are joined: the
same softmax, split (Dao, FlashAttention-2, section 2.3).
"""

import math
import mmap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from medbench.harness.engine.budget import Budget
from medbench.harness.engine.packing import CHUNK, NEVER, DecodeBlock, PassPlan, PrefixGroup, PromptBlock
from medbench.harness.engine.requests import SharedPrefix
from medbench.harness.engine.streaming import attend_streaming, can_stream

NAME = "medbench_slots"
# Of one head in one padded batch: half a gigabyte with 32 heads. A group of few is padded to some more all the same,
# since its keys take room too.
MOST_SCORES = 1 << 22
_LEAST_SIZE = 16
Read = tuple[torch.Tensor, torch.Tensor]
"""What was read, and the logarithm of the sum of its weights."""
KeysAndValues = tuple[torch.Tensor, torch.Tensor]


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

        Zeros, since what is masked is still multiplied, and NaN in memory would come through. On a CPU the system hands
        out zeroed pages when they are first used; `torch.zeros` would write them all now.
        """
        slots = max(1, min(self._budget.rows, self._budget.tokens // ((chunk + 1) * CHUNK)))
        shape, dtype = (slots, like.shape[0], CHUNK, like.shape[2]), self._dtype or like.dtype
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=like.device)
        pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(pages, dtype=dtype).view(shape)

    def write(self, plan: PassPlan, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the new keys and values [H, N, D] of a pass where they belong."""
        for target in plan.targets:
            self.reach(target.chunk + 1, keys, values)
            for chunk, states in zip(self.chunks[target.chunk], (keys, values), strict=True):
                new = states.transpose(0, 1)[target.tokens].to(chunk.dtype)
                chunk[target.slots, :, target.places] = new
        for prefix, tokens in plan.prefixes:
            dtype = self._dtype or keys.dtype
            own_keys, own_values = (states[:, tokens].to(dtype).contiguous() for states in (keys, values))
            self.prefixes[prefix] = (own_keys, own_values)

    def reach(self, chunks: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make room up to a chunk, for keys and values like these."""
        while (number := len(self.chunks)) < chunks:
            self.chunks.append((self.room(number, keys), self.room(number, values)))


class KVSlots:
    """What attention reads: rows, which have lengths of their own, and the prefixes that they share, in every layer.

    What lies behind a row's length is never read: masks end there, and later tokens overwrite it.
    """

    def __init__(self, budget: Budget, dtype: torch.dtype | None = None) -> None:
        # Keys and values are held and read in `dtype`, or in the decoder's own.
        self.layers: defaultdict[int, LayerSlots] = defaultdict(lambda: LayerSlots(budget, dtype))

    def drop(self, prefix: SharedPrefix) -> None:
        """Free what a prefix holds."""
        for layer in self.layers.values():
            layer.prefixes.pop(prefix, None)

    def move(self, moves: Sequence[tuple[int, int, int]]) -> None:
        """Copy rows to other slots, in all layers: from a slot, to a slot, and how many places it has filled."""
        longest = max((length for *_, length in moves), default=0)
        for number in range(math.ceil(longest / CHUNK)):
            reaching = [move for move in moves if move[2] > number * CHUNK]
            places = min(CHUNK, longest - number * CHUNK)
            device = self.layers[0].chunks[number][0].device
            sources, targets, _ = torch.tensor(reaching, device=device).T
            for layer in self.layers.values():
                for store in layer.chunks[number]:
                    store[targets, :, :places] = store[sources, :, :places]


@dataclass(frozen=True, slots=True)
class PackedPass:
    """What attention needs to know of a pass; `together`: prefixes are read in a padded batch, which suits a GPU."""

    plan: PassPlan
    slots: KVSlots
    together: bool


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """How a layer turns scores into weights: their factor, their bound (Gemma 2), and the places that are read."""

    scale: float
    softcap: float | None
    window: int | None


def read_slots(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None = None, *, scaling: float | None = None, softcap: float | None = None,
    sliding_window: int | None = None, packed: PackedPass | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Write keys and values [1, K, N, D] of a pass; return the attention [1, N, H, D] of queries [1, H, N, D]."""
    del attention_mask
    if packed is None:
        raise RuntimeError("This decoder does not hand on what attention needs to know; it needs static batches.")
    settings = AttentionSettings(scaling or query.shape[-1] ** -0.5, softcap, sliding_window)
    index: int = getattr(module, "layer_idx")  # noqa: B009 - every attention of transformers has it, but no type says so
    plan, layer = packed.plan, packed.slots.layers[index]
    layer.write(plan, key[0], value[0])
    held_keys, _held_values = layer.chunks[0] if layer.chunks else next(iter(layer.prefixes.values()))
    queries, keys, values = (states[0].to(held_keys.dtype) for states in (query, key, value))
    reading = _Reading(queries.transpose(0, 1), settings)
    reading.own_slots(plan.decoding, layer.chunks)
    reading.own_prompts(plan.prompts, queries, keys, values)
    if plan.groups:
        reading.prefixes(plan, layer.prefixes, MOST_SCORES if packed.together else 0)
    return reading.out[None].to(query.dtype), None


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
            out, sums = self._read_slots(block, *chunks[block.chunk])
            if block.chunk:
                self._join(block.rows, out, sums)
            else:
                self.out[block.rows], self._sums[block.rows] = out, sums

    def _read_slots(self, block: DecodeBlock, keys: torch.Tensor, values: torch.Tensor) -> Read:
        """Return what rows read of a chunk [S, K, CHUNK, D]: attention [n, H, D], and sums [n, H]."""
        queries, settings = self._queries[block.rows], self._settings
        mask = block.mask(settings.window)
        if settings.softcap is None and can_stream(queries, values):
            return attend_streaming(queries * settings.scale, keys, values, block, mask)
        own_keys, own_values = (store[block.rows, :, : block.reach] for store in (keys, values))
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
                # Nothing is joined, so the sums are not needed, and any device has a kernel without them.
                allowed = None if mask is None else mask == 0
                out = scaled_dot_product_attention(
                    own, own_keys, own_values, attn_mask=allowed, is_causal=causal, scale=settings.scale
                )
            else:
                out, sums = attend(own, own_keys, own_values, settings, mask, causal=causal)
                self._sums[block.tokens] = sums.transpose(1, 2).flatten(0, 1)
            self.out[block.tokens] = out.transpose(1, 2).flatten(0, 1)

    def prefixes(self, plan: PassPlan, prefixes: Mapping[SharedPrefix, KeysAndValues], most: int) -> None:
        """Let sharers read their prefixes: groups of like size, so many together as have no more padded scores."""
        queries = self._queries[plan.sharers]
        out, sums = torch.empty_like(queries), queries.new_empty(queries.shape[:2], dtype=torch.float32)
        batch: list[PrefixGroup] = []
        ordered = sorted(plan.groups, key=lambda group: len(group.behind))
        for group, following in zip_longest(ordered, ordered[1:]):
            batch.append(group)
            if following is not None and most:
                longest = max(one.prefix.length for one in [*batch, following])
                # By size the last is the largest.
                if (len(batch) + 1) * longest * max(len(following.behind), _LEAST_SIZE) <= most:
                    continue
            for one, found, found_sums in zip(batch, *self._read_groups(batch, queries, prefixes), strict=True):
                out[one.sharers], sums[one.sharers] = found[: len(one.behind)], found_sums[: len(one.behind)]
            batch = []
        self._join(plan.sharers, out, sums)

    def _read_groups(
        self, groups: Sequence[PrefixGroup], queries: torch.Tensor, prefixes: Mapping[SharedPrefix, KeysAndValues]
    ) -> Read:
        """Return what the sharers of each group read [G, n, H, D], padded, and the sums [G, n, H]."""
        first, (keys, values) = groups[0], prefixes[groups[0].prefix]
        window = self._settings.window
        if len(groups) == 1:
            mask = first.mask(window)
            own = None if mask is None else mask[None]
            return self._read(queries[None, first.sharers], keys[None], values[None], own)
        largest, longest = max(len(group.behind) for group in groups), max(group.prefix.length for group in groups)
        keys = keys.new_zeros(len(groups), keys.shape[0], longest, keys.shape[2])
        values = torch.zeros_like(keys)
        batch = queries.new_zeros(len(groups), largest, *queries.shape[1:])
        padding = queries.new_full((len(groups), largest, longest), NEVER, dtype=torch.float32)
        for number, group in enumerate(groups):
            length, mask = group.prefix.length, group.mask(window)
            keys[number, :, :length], values[number, :, :length] = prefixes[group.prefix]
            batch[number, : len(group.behind)] = queries[group.sharers]
            padding[number, : len(group.behind), :length] = 0 if mask is None else mask
        return self._read(batch, keys, values, padding)

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


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: AttentionSettings,
    mask: torch.Tensor | None, *, causal: bool = False,
) -> Read:  # fmt: skip
    """Return attention [B, H, L, D] and the logarithm of the sums of weights [B, H, L]."""
    if query.device.type != "cpu" or settings.softcap is not None:
        return attend_plainly(query, key, value, settings, mask, causal=causal)
    found: Read = _CPU_KERNEL(query, key, value, 0.0, causal, attn_mask=mask, scale=settings.scale)
    return found


def attend_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: AttentionSettings,
    mask: torch.Tensor | None, *, causal: bool = False,
) -> Read:  # fmt: skip
    """Return the same by its definition, on any device."""
    scores = ((query * settings.scale) @ key.transpose(-1, -2)).float()
    if settings.softcap is not None:
        scores = settings.softcap * torch.tanh(scores / settings.softcap)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, NEVER)
    if mask is not None:
        scores = scores + mask
    sums = scores.logsumexp(dim=-1)
    weights = (scores - sums[..., None]).exp().to(value.dtype)
    return weights @ value, sums


# The kernel that scaled_dot_product_attention uses on a CPU; only under this name does it also return the sums.
_CPU_KERNEL: Callable[..., Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - no public name returns them
AttentionInterface.register(NAME, read_slots)
