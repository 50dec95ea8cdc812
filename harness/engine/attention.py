"""Attention of a packed pass: every token reads its own slot and, once for all who share it, a prefix.

Registered with transformers, so that its decoders call it instead of a kernel and a cache of theirs. A row's keys lie
in two places; each part is attended by itself with the logarithm of its sum of weights, by which both are joined: the
same softmax, split (Dao, FlashAttention-2, section 2.3).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from medbench.harness.engine.packing import NEVER, PassPlan, PrefixGroup
from medbench.harness.engine.slots import KeysAndValues, KVSlots

NAME = "medbench_slots"
# Of one head in one padded batch: half a gigabyte with 32 heads. A group of few is padded to some more all the same,
# since its keys take room too.
MOST_SCORES = 1 << 22
_LEAST_SIZE = 16
Read = tuple[torch.Tensor, torch.Tensor]
"""What was read, and the logarithm of the sum of its weights."""


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
    heads, count, width = queries.shape
    found = _Found(queries.new_empty(count, heads, width), queries.new_empty(count, heads, dtype=torch.float32))
    _read_own_slots(plan, queries, layer.chunks, settings, found)
    _read_own_prompts(plan, queries, keys, values, settings, found)
    if plan.groups:
        sharing = queries.transpose(0, 1)[plan.sharers]
        found.join(plan.sharers, *_read_prefixes(plan, sharing, layer.prefixes, settings, together=packed.together))
    return found.out[None].to(query.dtype), None


@dataclass(frozen=True, slots=True)
class _Found:
    """What tokens have read so far [N, H, D], and the logarithm of the sum of the weights of that [N, H]."""

    out: torch.Tensor
    sums: torch.Tensor

    def join(self, tokens: slice | torch.Tensor, more: torch.Tensor, sums: torch.Tensor) -> None:
        """Join to it what some tokens read elsewhere."""
        before = self.sums[tokens]
        weight = torch.sigmoid(sums - before)[..., None].to(more.dtype)
        self.out[tokens] = torch.lerp(self.out[tokens], more, weight)
        self.sums[tokens] = torch.logaddexp(before, sums)


def _read_own_slots(
    plan: PassPlan, queries: torch.Tensor, chunks: Sequence[KeysAndValues], settings: AttentionSettings, found: _Found
) -> None:
    """Let each decoding row read its slot; the query heads of one key head stand together, as if they were tokens."""
    heads, _, width = queries.shape
    for block in plan.decoding:
        keys, values = chunks[block.chunk]
        some = queries[:, block.rows].transpose(0, 1).unflatten(1, (keys.shape[1], heads // keys.shape[1]))
        read = (block.rows, slice(None), slice(block.reach))
        out, sums = attend(some, keys[read], values[read], settings, block.mask(settings.window))
        out, sums = out.reshape(-1, heads, width), sums.reshape(-1, heads)
        if block.chunk == 0:
            found.out[block.rows], found.sums[block.rows] = out, sums
        else:
            found.join(block.rows, out, sums)


def _read_own_prompts(
    plan: PassPlan, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, settings: AttentionSettings,
    found: _Found,
) -> None:  # fmt: skip
    """Let the tokens of each prompt or prefix read those before them."""
    per_key = len(queries) // len(keys)
    for block in plan.prompts:
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
            found.sums[block.tokens] = sums.transpose(1, 2).flatten(0, 1)
        found.out[block.tokens] = out.transpose(1, 2).flatten(0, 1)


def _read_prefixes(
    plan: PassPlan, queries: torch.Tensor, prefixes: Mapping[int, KeysAndValues], settings: AttentionSettings, *,
    together: bool,
) -> Read:  # fmt: skip
    """Return what sharers [n, H, D] read of their prefixes, and the sums [n, H]."""
    out, sums = torch.empty_like(queries), queries.new_empty(queries.shape[:2], dtype=torch.float32)
    for groups in _batches(plan.groups, MOST_SCORES if together else 0):
        read = _read_batch(groups, queries, prefixes, settings)
        for group, found, found_sums in zip(groups, *read, strict=True):
            out[group.sharers], sums[group.sharers] = found[: group.size], found_sums[: group.size]
    return out, sums


def _batches(groups: Sequence[PrefixGroup], most: int) -> Iterator[list[PrefixGroup]]:
    """Yield groups of like size, so many together that their padded scores stay few; at least one."""
    batch: list[PrefixGroup] = []
    for group in sorted(groups, key=lambda group: group.size):
        longest = max(one.prefix.length for one in [*batch, group])
        # By size the last is the largest.
        if batch and (len(batch) + 1) * longest * max(group.size, _LEAST_SIZE) > most:
            yield batch
            batch = []
        batch.append(group)
    yield batch


def _read_batch(
    groups: Sequence[PrefixGroup], queries: torch.Tensor, prefixes: Mapping[int, KeysAndValues],
    settings: AttentionSettings,
) -> Read:  # fmt: skip
    """Return what the sharers of each group read [G, n, H, D], padded, and the sums [G, n, H]."""
    first, (keys, values) = groups[0], prefixes[groups[0].prefix.slot]
    if len(groups) == 1:
        mask = first.mask(settings.window)
        own = None if mask is None else mask[None]
        return _read_prefix(queries[first.sharers][None], keys[None], values[None], settings, own)
    largest, longest = max(group.size for group in groups), max(group.prefix.length for group in groups)
    keys = keys.new_zeros(len(groups), keys.shape[0], longest, keys.shape[2])
    values = torch.zeros_like(keys)
    batch = queries.new_zeros(len(groups), largest, *queries.shape[1:])
    mask = queries.new_full((len(groups), largest, longest), NEVER, dtype=torch.float32)
    for number, group in enumerate(groups):
        length = group.prefix.length
        keys[number, :, :length], values[number, :, :length] = prefixes[group.prefix.slot]
        batch[number, : group.size] = queries[group.sharers]
        own = group.mask(settings.window)
        mask[number, : group.size, :length] = 0 if own is None else own
    return _read_prefix(batch, keys, values, settings, mask)


def _read_prefix(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, settings: AttentionSettings,
    mask: torch.Tensor | None,
) -> Read:  # fmt: skip
    """Return what tokens [G, n, H, D] read of prefixes [G, K, L, D], and sums [G, n, H]; mask [G, n, L]."""
    per_key = queries.shape[2] // keys.shape[1]
    folded = queries.unflatten(2, (-1, per_key)).transpose(1, 2).flatten(2, 3)
    if mask is not None:
        mask = mask.repeat_interleave(per_key, dim=1)[:, None]
    out, sums = (
        one.unflatten(2, (-1, per_key)).transpose(1, 2).flatten(2, 3)
        for one in attend(folded, keys, values, settings, mask)
    )
    return out, sums


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: AttentionSettings,
    mask: torch.Tensor | None, *, causal: bool = False,
) -> Read:  # fmt: skip
    """Return attention [B, H, L, D] and the logarithm of the sums of weights [B, H, L]."""
    if query.device.type != "cpu" or settings.softcap is not None:
        return attend_plainly(query, key, value, settings, mask, causal=causal)
    if mask is not None:
        mask = mask.expand(-1, -1, query.shape[2], -1)
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
