"""Keys and values in pages, as suits a GPU: one call a layer reads all rows and prompts, each at its own length.

A row is a list of pages, the first of which it may share with others. Where a shared prefix ends within a page, those
who continue it have copies of that page (paged attention: Kwon et al., arXiv 2309.06180).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medbench.harness.engine.attention import KeysAndValues
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.packing import (
    AttentionSettings,
    KVStore,
    NewTokens,
    PassAttention,
    Whole,
    on_device,
)
from medbench.harness.engine.requests import PrefixedRequest, SharedPrefix
from medbench.harness.engine.sequences import Together, read_by_definition

# FlashAttention 2 reads pages of so many tokens, or of a multiple.
PAGE = 256
_LARGEST_HEAD, _HEADS_OF = 256, 8
_OLDEST = (8, 0)  # Compute capability that FlashAttention 2 asks for: Ampere.
_HALF = (torch.float16, torch.bfloat16)
Kernel = Callable[..., Any]


@dataclass(slots=True)
class _Table:
    """The pages of a row: those of its prefix that are full, then its own."""

    pages: list[int]
    shared: int = 0
    prefix: SharedPrefix | None = None


class KVPages(KVStore):
    """As many pages as the budget has tokens for, in every layer, taken as rows grow.

    `kernel` is called like `torch.nn.attention.varlen.varlen_attn`; without one (`why`), and for what it cannot read,
    attention is computed by its definition. A row alone always fits: for it pages are added.
    """

    def __init__(
        self, budget: Budget, device: torch.device, dtype: torch.dtype, *, kernel: Kernel | None = None,
        page: int = PAGE, why: str = "",
    ) -> None:  # fmt: skip
        self.name = "pages, flash attention" if kernel else f"pages, by definition: {why}".removesuffix(": ")
        self.device = device
        self.page = page
        self.kernel = kernel
        self._dtype = dtype
        self._count = max(1, budget.tokens // page)
        self._free = list(range(self._count - 1, -1, -1))
        self._rows: dict[int, _Table] = {}
        self._prefixes: dict[SharedPrefix, list[int]] = {}
        self._spoilt: set[int] = set()
        self._layers: dict[int, KeysAndValues] = {}  # Keys and values [P, page, K, D].

    def places(self, rows: Sequence[PrefixedRequest], prefixes: Iterable[SharedPrefix]) -> int:
        """Return the places of the pages of all of them; each row has its own copy of where its prefix ends."""
        longest = (
            (one.prefix.length % self.page if one.prefix else 0) + one.own_length + one.request.decoding.max_new_tokens
            for one in rows
        )
        return self.page * sum(self._pages(length) for length in [*longest, *(one.length for one in prefixes)])

    def layer(self, index: int, like: torch.Tensor) -> KeysAndValues:
        """Return the pages of a layer, made like its first keys [K, N, D]: zeros, see `KVStore.leave`."""
        if index not in self._layers:
            shape = (self._count, self.page, like.shape[0], like.shape[2])
            made = [torch.zeros(shape, dtype=self._dtype, device=self.device) for _ in range(2)]
            self._layers[index] = (made[0], made[1])
        return self._layers[index]

    def plan(
        self, steps: Sequence[NewTokens], prompts: Sequence[NewTokens], prefixes: Sequence[SharedPrefix]
    ) -> "PagesPass":
        """Take the pages that the new tokens of a pass reach."""
        for prefix in prefixes:
            self._prefixes[prefix] = [self._take() for _ in range(self._pages(prefix.length))]
        parts = [*steps, *prompts, *map(NewTokens.of_prefix, prefixes)]
        shared = {prefix: len(steps) + len(prompts) + number for number, prefix in enumerate(prefixes)}
        ends = np.cumsum([part.length for part in parts])
        sources, targets = [np.arange(ends[-1])], list[Whole]()
        copied = list[tuple[int, int]]()
        for part in prompts:
            own = self._begin(part)
            tail = part.prefix.length % self.page if part.prefix else 0
            if part.prefix in shared and tail:
                # Its page does not hold them yet: what ends the prefix is written for each who continues it.
                sources.append(np.arange(ends[shared[part.prefix]] - tail, ends[shared[part.prefix]]))
                targets.append(own * self.page + np.arange(tail))
            elif part.prefix and tail:
                copied.append((self._prefixes[part.prefix][-1], own))
        self._copy(copied)
        tables = [self._reaching(part) for part in (*steps, *prompts)] + [self._prefixes[one] for one in prefixes]
        written = [self._targets(part, table) for part, table in zip(parts, tables, strict=True)]
        groups = _alike(parts, len(steps))
        return PagesPass(
            store=self,
            rows=len(steps) + len(prompts),
            groups=[Together.of(parts, tables, ends, some, self.device) for some in groups],
            sources=np.concatenate(sources) if targets else None,
            targets=np.concatenate([*written, *targets]),
        )

    def leave(self, slot: int, *, spoilt: bool) -> None:
        """Give back a row's own pages."""
        row = self._rows.pop(slot)
        if spoilt:
            self._spoilt.update(row.pages, self._prefixes[row.prefix] if row.prefix else ())
        self._give_back(row.pages[row.shared :])

    def move(self, moves: Sequence[tuple[int, int, int]]) -> None:
        """Let rows be known by other slots; nothing is copied."""
        for source, target, _ in moves:
            self._rows[target] = self._rows.pop(source)

    def drop(self, prefix: SharedPrefix) -> None:
        """Give back the pages of a prefix."""
        self._give_back(self._prefixes.pop(prefix, []))

    def _pages(self, length: int) -> int:
        return math.ceil(length / self.page)

    def _take(self) -> int:
        if not self._free:
            self._add(max(1, self._count // 8))
        return self._free.pop()

    def _add(self, more: int) -> None:
        """Make more pages, for a row that is longer than the budget."""
        self._free += range(self._count + more - 1, self._count - 1, -1)
        self._count += more
        for index, (keys, values) in self._layers.items():
            room = keys.new_zeros(more, *keys.shape[1:])
            self._layers[index] = (torch.cat([keys, room]), torch.cat([values, room]))

    def _begin(self, part: NewTokens) -> int:
        """Let a row begin, with the full pages of its prefix; return its first own page."""
        full = self._prefixes[part.prefix][: part.prefix.length // self.page] if part.prefix else []
        self._rows[part.slot] = _Table([*full, self._take()], len(full), part.prefix)
        return self._rows[part.slot].pages[-1]

    def _reaching(self, part: NewTokens) -> list[int]:
        pages = self._rows[part.slot].pages
        while len(pages) * self.page < part.end:
            pages.append(self._take())
        return pages

    def _targets(self, part: NewTokens, table: Sequence[int]) -> Whole:
        places = np.arange(part.before, part.end)
        return np.asarray(table)[places // self.page] * self.page + places % self.page

    def _give_back(self, pages: Sequence[int]) -> None:
        spoilt = self._spoilt.intersection(pages)
        if spoilt:
            where = on_device({"pages": np.asarray(sorted(spoilt))}, self.device)["pages"]
            for store in (one for layer in self._layers.values() for one in layer):
                store[where] = 0
            self._spoilt -= spoilt
        self._free += pages

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            sources, targets = on_device({"pairs": np.asarray(pairs)}, self.device)["pairs"].T
            for store in (one for layer in self._layers.values() for one in layer):
                store[targets] = store[sources]


def _alike(parts: Sequence[NewTokens], steps: int) -> list[slice]:
    """Return neighbours that are read in one call: all, but that what is not causal is read by definition."""
    if not any(part.layout.mutual for part in parts):
        return [slice(0, len(parts))]
    return [some for some in (slice(0, steps), slice(steps, len(parts))) if some.start < some.stop]


class PagesPass(PassAttention):
    """A pass over pages."""

    def __init__(
        self, *, store: KVPages, rows: int, groups: Sequence[Together], sources: Whole | None, targets: Whole
    ) -> None:
        self.rows = rows
        self._store = store
        self._groups = groups
        sent = on_device({"targets": targets, "sources": targets[:0] if sources is None else sources}, store.device)
        self._targets = sent["targets"]
        # Which token goes there; None where it is one after the other.
        self._sources = None if sources is None else sent["sources"]

    def attend(
        self, layer: int, settings: AttentionSettings, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention [N, H, D] of queries [H, N, D] after writing keys and values [K, N, D]."""
        pages = self._store.layer(layer, key)
        for held, new in zip(pages, (key, value), strict=True):
            states = new.transpose(0, 1).to(held.dtype)
            states = states if self._sources is None else states[self._sources]
            held.flatten(0, 1).index_copy_(0, self._targets, states)
        queries = query.transpose(0, 1).to(pages[0].dtype)
        parts = [self._read(group, queries[group.tokens], pages, settings) for group in self._groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read(
        self, group: Together, queries: torch.Tensor, pages: KeysAndValues, settings: AttentionSettings
    ) -> torch.Tensor:
        kernel, head = self._store.kernel, queries.shape[2]
        if kernel and group.causal and settings.softcap is None and head <= _LARGEST_HEAD and not head % _HEADS_OF:
            read: torch.Tensor = kernel(
                queries, *pages, group.starts, group.key_starts, max(group.lengths), max(group.ends),
                scale=settings.scale, window_size=(-1 if settings.window is None else settings.window - 1, 0),
                enable_gqa=queries.shape[1] != pages[0].shape[2], seqused_k=group.used, block_table=group.tables,
                # Split over the keys of long rows, sums would depend on the other rows of the pass.
                num_splits=1,
            )  # fmt: skip
            return read
        out = torch.empty_like(queries)
        for batch in group.batches(self._store.page):
            out[batch.tokens] = read_by_definition(batch, queries, pages, settings)
        return out


@cache
def kernel_for(device: torch.device, dtype: torch.dtype) -> tuple[Kernel | None, str]:
    """Return PyTorch's call for pages, if it has one that computes rightly on a device, and else why not."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None, f"PyTorch has no paged attention for {'ROCm' if device.type == 'cuda' else device.type}"
    if dtype not in _HALF:
        return None, f"flash attention computes in 16 bits, not in {str(dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return None, f"flash attention needs an Ampere GPU or a newer one, not {torch.cuda.get_device_name(device)}"
    try:
        from torch.nn.attention.varlen import varlen_attn

        far = distance(varlen_attn, device, dtype)
    except (ImportError, RuntimeError, TypeError) as error:
        return None, f"PyTorch {torch.__version__} does not read pages here: {str(error).splitlines()[0]}"
    # Sixteen bits hold two or three digits; a page in the wrong place is off by one and more.
    return (varlen_attn, "") if far < _FAR else (None, f"PyTorch's flash attention is {far:.2g} from its definition")


_FAR = 0.05


def distance(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """Return how far a kernel is from the definition, at most, for a prompt and a row that share a prefix."""
    drawn = torch.Generator().manual_seed(0)
    key_heads, heads, head = 2, 4, 64
    prefix = SharedPrefix(place=(Path(), "vqa"), segments=(), length=PAGE + 10)
    prompt = NewTokens(slot=0, place=0, length=40, prefix=prefix)
    step = NewTokens(slot=0, place=40, length=1, prefix=prefix)
    budget, settings = Budget(rows=1, tokens=4 * PAGE), AttentionSettings(head**-0.5, None, None)
    stores = [KVPages(budget, device, dtype, kernel=one) for one in (kernel, None)]
    far = 0.0
    for steps, prompts, prefixes in (([], [prompt], [prefix]), ([step], [], [])):
        count = sum(one.length for one in (*steps, *prompts)) + sum(one.length for one in prefixes)
        query, key, value = (
            torch.randn(number, count, head, generator=drawn).to(device, dtype)
            for number in (heads, key_heads, key_heads)
        )
        found = [store.plan(steps, prompts, prefixes).attend(0, settings, query, key, value) for store in stores]
        far = max(far, float((found[0].float() - found[1].float()).abs().max()))
    return far
