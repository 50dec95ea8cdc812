"""Rows, prompts and prefixes of a pass that are read together from their pages, and how they read by definition."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from medbench.harness.engine.attention import KeysAndValues, attend_plainly
from medbench.harness.engine.packing import AttentionSettings, NewTokens, Whole, on_device

# Of one head in a batch that is read by definition: half a gigabyte with 32 heads.
MOST_SCORES = 1 << 22


@dataclass(slots=True, kw_only=True, eq=False)
class Together:
    """Neighbouring rows, prompts and prefixes [n] of a pass that are read in one call."""

    tokens: slice
    lengths: list[int]  # New tokens of each.
    ends: list[int]  # Tokens of each, the new ones included.
    mutual: list[tuple[tuple[int, int], ...]]  # Stretches of each one's new tokens that read one another.
    starts: torch.Tensor  # Of each one's new tokens among all of these [n + 1].
    key_starts: torch.Tensor  # Of each one's keys, were they all in one line [n + 1].
    used: torch.Tensor  # As `ends` [n].
    tables: torch.Tensor  # Pages of each [n, M].
    _batches: "list[Batch]" = field(default_factory=list, init=False)

    @classmethod
    def of(
        cls, parts: Sequence[NewTokens], tables: Sequence[Sequence[int]], ends: Whole, some: slice,
        device: torch.device,
    ) -> "Together":  # fmt: skip
        """Return what is read of some parts, whose new tokens end at `ends`; a table may be longer than it is read."""
        own, pages = parts[some], tables[some]
        lengths, used = [part.length for part in own], [part.end for part in own]
        wide = np.zeros((len(own), max(map(len, pages))), dtype=np.int64)
        for row, table in zip(wide, pages, strict=True):
            row[: len(table)] = table
        sent = on_device(
            {
                "starts": np.cumsum([0, *lengths]), "key_starts": np.cumsum([0, *used]), "used": np.asarray(used),
                "tables": wide,
            },
            device, torch.int32,
        )  # fmt: skip
        last = int(ends[some.stop - 1])
        mutual = [part.layout.mutual for part in own]
        return cls(tokens=slice(last - sum(lengths), last), lengths=lengths, ends=used, mutual=mutual, **sent)

    @property
    def causal(self) -> bool:
        """Whether every token reads those before it, and no other."""
        return not any(self.mutual)

    def batches(self, page: int) -> "list[Batch]":
        """Return these in batches that are read by definition, made once for all layers."""
        if not self._batches:
            self._batches = [Batch.of(self, some, page) for some in self._of_bounded_size(page)]
        return self._batches

    def _of_bounded_size(self, page: int) -> Iterator[range]:
        first, longest, most = 0, 0, 0
        for place, (length, end) in enumerate(zip(self.lengths, self.ends, strict=True)):
            longest, most = max(longest, length), max(most, page * math.ceil(end / page))
            if place > first and (place - first + 1) * longest * most > MOST_SCORES:
                yield range(first, place)
                first, longest, most = place, length, page * math.ceil(end / page)
        yield range(first, len(self.lengths))


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """Some sequences [B] with their new tokens padded to [L] and their keys to whole pages [S]."""

    tokens: slice  # Among those of `Together`.
    padded: torch.Tensor  # Which token stands where [B, L], among all of `Together`.
    back: torch.Tensor  # Where each token stands among the padded ones.
    pages: torch.Tensor  # [B, S / page]
    distance: torch.Tensor  # How far each key stands before each token [B, L, S].
    mutual: torch.Tensor | None  # Which key is read although it is later [B, L, S].
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, group: Together, some: range, page: int) -> "Batch":
        """Return the batch of some sequences of a group."""
        lengths, ends = (np.asarray(one[some.start : some.stop]) for one in (group.lengths, group.ends))
        first = int(sum(group.lengths[: some.start]))
        starts = first + np.cumsum(lengths) - lengths
        steps, width = np.arange(lengths.max()), math.ceil(ends.max() / page)
        sent = on_device(
            {
                "padded": starts[:, None] + np.minimum(steps, lengths[:, None] - 1),
                "back": np.concatenate([row * len(steps) + np.arange(own) for row, own in enumerate(lengths)]),
                "places": (ends - lengths)[:, None] + steps,
                "stretches": _stretches(group, some, width * page),
            },
            group.tables.device,
        )
        keys = torch.arange(width * page, device=group.tables.device)
        places, mutual = sent["places"], None
        if any(group.mutual[one] for one in some):
            own = sent["stretches"].gather(1, places.clamp(max=width * page - 1))
            mutual = (own[:, :, None] == sent["stretches"][:, None]) & (own > 0)[:, :, None]
        return cls(
            tokens=slice(first, first + int(lengths.sum())),
            padded=sent["padded"],
            back=sent["back"],
            pages=group.tables[some.start : some.stop, :width].long(),
            distance=places[:, :, None] - keys,
            mutual=mutual,
        )

    def mask(self, window: int | None) -> torch.Tensor:
        """Return what may be read [B, 1, L, S]."""
        if window not in self._masks:
            allowed = self.distance >= 0
            if window is not None:
                allowed = allowed & (self.distance < window)
            if self.mutual is not None:
                allowed = allowed | self.mutual
            self._masks[window] = allowed[:, None]
        return self._masks[window]


def _stretches(group: Together, some: range, places: int) -> Whole:
    """Return of each place the number of the stretch that it lies in [B, S]; 0 for none."""
    found = np.zeros((len(some), places if any(group.mutual[one] for one in some) else 0), dtype=np.int64)
    for row, one in enumerate(some):
        before = group.ends[one] - group.lengths[one]
        for number, (start, end) in enumerate(group.mutual[one], start=1):
            found[row, before + start : before + end] = number
    return found


def read_by_definition(
    batch: Batch, queries: torch.Tensor, pages: KeysAndValues, settings: AttentionSettings
) -> torch.Tensor:
    """Return what the tokens of a batch [n, H, D] read of their pages."""
    asked = queries[batch.padded].transpose(1, 2)
    keys, values = (one[batch.pages].flatten(1, 2).transpose(1, 2) for one in pages)
    per_key = asked.shape[1] // keys.shape[1]
    if per_key > 1:
        keys, values = (one.repeat_interleave(per_key, dim=1) for one in (keys, values))
    mask = batch.mask(settings.window)
    if settings.softcap is None:
        found = scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=settings.scale)
    else:
        added = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -math.inf)
        found, _ = attend_plainly(asked, keys, values, settings, added)
    return found.transpose(1, 2).flatten(0, 1)[batch.back]
