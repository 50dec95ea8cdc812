"""Keys and values of all rows in one place: rows are written, moved and read where they lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the next forward pass writes and how far it reads.

    Attributes:
        rows: The slots, one after another.
        positions: Position of each of their new tokens [R, L].
        reach: Keys that are read: positions 0 to `reach - 1`.
        start: The first position of all rows, or None if it differs.
    """

    rows: slice
    positions: torch.Tensor
    reach: int
    start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBeginning:
    """Keys and values [H, L, D] of every layer of a prompt's beginning."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values [S, H, T, D]; T grows in blocks when a row needs it."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self._slots = slots
        self.place: Place | None = None
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room for the next pass."""
        if self.place is not None:
            self._grow(key_states, value_states, self.place.reach, self.place.rows.stop)

    def _grow(self, keys: torch.Tensor, values: torch.Tensor, reach: int, rows: int) -> None:
        """Make room for `reach` positions; the first `rows` slots keep what they hold."""
        capacity = -(-reach // _BLOCK) * _BLOCK
        self.keys = self._grown(self.keys, keys, capacity, rows)
        self.values = self._grown(self.values, values, capacity, rows)
        self.is_initialized = True

    def _grown(self, old: torch.Tensor | None, like: torch.Tensor, capacity: int, rows: int) -> torch.Tensor:
        _, heads, _, width = like.shape
        grown = _zeros((self._slots, heads, capacity, width), like.dtype, like.device)
        if old is not None:
            grown[:rows, :, : old.shape[2]] = old[:rows]
        return grown

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values [R, H, L, D] and return all that may be read [R, H, reach, D]."""
        del args, kwargs
        place = self.place
        if place is None:
            raise RuntimeError("A forward pass came without a place for its keys.")
        if self.keys is None or self.values is None or self.keys.shape[2] < place.reach:
            self.lazy_initialization(key_states, value_states)
        return _written(self.keys, key_states, place), _written(self.values, value_states, place)

    def begin(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write the first keys and values [H, L, D] of a row."""
        if self.keys is None or self.values is None or self.keys.shape[2] < keys.shape[1]:
            self._grow(keys[None], values[None], keys.shape[1], row + 1)
        for store, own in ((self.keys, keys), (self.values, values)):
            if store is not None:
                store[row, :, : own.shape[1]] = own

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return what a mask would cover; the engine brings its own."""
        del query_length
        return (self.place.reach if self.place else 0), 0

    def get_seq_length(self) -> int:
        """Return 0: rows have lengths of their own, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return -1, no limit."""
        return -1


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros: what is masked is still multiplied, and NaN that lay in memory would come through.

    On a CPU the system hands out zeroed pages when they are first used; `torch.zeros` would write them all now.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)


def _written(store: Any, states: torch.Tensor, place: Place) -> torch.Tensor:  # noqa: ANN401 - None before the first pass
    rows: torch.Tensor = store[place.rows]
    if place.start is not None:
        rows[:, :, place.start : place.start + states.shape[2]] = states
    else:
        number = torch.arange(len(rows), device=rows.device)[:, None]
        rows[number, :, place.positions] = states.transpose(1, 2)
    return rows[:, :, : place.reach]


class SlotCache(Cache):
    """A cache of transformers whose rows have lengths of their own.

    What lies behind a row's length is never read: the mask ends there, and later tokens overwrite it.

    Args:
        layers: Of the decoder.
        slots: Rows that fit.
    """

    def __init__(self, layers: int, slots: int) -> None:
        self._held = [_SlotLayer(slots) for _ in range(layers)]
        super().__init__(layers=list(self._held))

    def aim(self, place: Place) -> None:
        """Say where the next forward pass writes and reads."""
        for layer in self._held:
            layer.place = place

    def move(self, sources: Sequence[int], targets: Sequence[int], reach: int) -> None:
        """Copy rows to other slots, up to `reach` positions."""
        if not sources:
            return
        for store in self.stores():
            where = torch.tensor(sources, device=store.device)
            store[torch.tensor(targets, device=store.device), :, :reach] = store[where, :, :reach]

    def keep(self, row: int, length: int) -> KeptBeginning:
        """Return a copy of a row's first `length` positions."""
        keys = tuple(layer.keys[row, :, :length].clone() for layer in self._held if layer.keys is not None)
        values = tuple(layer.values[row, :, :length].clone() for layer in self._held if layer.values is not None)
        return KeptBeginning(keys=keys, values=values)

    def begin(self, row: int, kept: KeptBeginning) -> None:
        """Let a row begin with what was kept."""
        for layer, keys, values in zip(self._held, kept.keys, kept.values, strict=True):
            layer.begin(row, keys, values)

    def stores(self) -> list[torch.Tensor]:
        """Return keys and values of every layer [S, H, T, D], in turn."""
        return [store for layer in self._held for store in (layer.keys, layer.values) if store is not None]
