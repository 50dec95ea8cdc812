"""Keys and values of all rows and of what they share: written and read where they lie."""

import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from medbench.harness.engine.packing import CHUNK, Copy, Plan, Target

KeysAndValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Move:
    """A row that gets another slot.

    Attributes:
        source: Its slot.
        target: Its new slot.
        length: Places that it has filled.
    """

    source: int
    target: int
    length: int


class _SlotLayer(CacheLayerMixin):
    """One layer: the rows' own keys and values, in chunks of places, and those of the beginnings they share.

    Attributes:
        chunks: Keys and values [S, H, CHUNK, D] of places 0 to CHUNK - 1 of all slots, then of the following places.
        beginnings: Keys and values [1, H, L, D] by slot.
    """

    def __init__(self, room: "Room") -> None:
        super().__init__()
        self._room = room
        self.plan: Plan | None = None
        self.chunks: list[KeysAndValues] = []
        self.beginnings: dict[int, KeysAndValues] = {}

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: room is made when it is written."""
        del key_states, value_states

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values [1, H, N, D]; return them, since attention reads the slots itself."""
        del args, kwargs
        if self.plan is None:
            raise RuntimeError("A forward pass came without a place for its keys.")
        for target in self.plan.targets:
            self._write(key_states, value_states, target)
        for held, tokens in self.plan.beginnings:
            own = tuple(self._room.cast(states[:, :, tokens]).contiguous() for states in (key_states, value_states))
            self.beginnings[held.slot] = (own[0], own[1])
        for copy in self.plan.copies:
            self._copy(copy)
        return key_states, value_states

    def reach(self, chunks: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make room up to a chunk, for keys and values like these."""
        while len(self.chunks) < chunks:
            self.chunks.append((self._room.make(len(self.chunks), keys), self._room.make(len(self.chunks), values)))

    def _write(self, keys: torch.Tensor, values: torch.Tensor, target: Target) -> None:
        self.reach(target.chunk + 1, keys, values)
        for chunk, states in zip(self.chunks[target.chunk], (keys, values), strict=True):
            new = states[0].transpose(0, 1)[target.tokens].to(chunk.dtype)
            if target.only is not None:
                new = torch.where(target.only[:, None, None], new, chunk[target.slots, :, target.places])
            chunk[target.slots, :, target.places] = new

    def _copy(self, copy: Copy) -> None:
        states = self.beginnings[copy.held.slot]
        self.reach(math.ceil(copy.held.length / CHUNK), *states)
        for number, chunk in enumerate(self.chunks[: math.ceil(copy.held.length / CHUNK)]):
            for store, own in zip(chunk, states, strict=True):
                part = own[0, :, number * CHUNK : (number + 1) * CHUNK]
                store[copy.slots, :, : part.shape[1]] = part

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return what a mask would cover; attention brings its own."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return 0: rows have lengths of their own, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return -1, no limit."""
        return -1


class Room:
    """How much room a chunk needs: as many slots as there can be rows that are long enough to reach it.

    Args:
        rows: Most rows.
        tokens: Most rows times the chunks of the longest, in places; one row always fits.
        dtype: Type that keys and values are held and read in; None for the decoder's own.
    """

    def __init__(self, rows: int, tokens: int, dtype: torch.dtype | None = None) -> None:
        self._rows = rows
        self._tokens = tokens
        self._dtype = dtype

    def cast(self, states: torch.Tensor) -> torch.Tensor:
        """Return states in the type they are held in."""
        return states.to(self._dtype or states.dtype)

    def make(self, chunk: int, like: torch.Tensor) -> torch.Tensor:
        """Return zeros for a chunk, with the heads and width of new keys [1, H, N, D]."""
        slots = max(1, min(self._rows, self._tokens // ((chunk + 1) * CHUNK)))
        shape = (slots, like.shape[1], CHUNK, like.shape[3])
        return _zeros(shape, self._dtype or like.dtype, like.device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros: what is masked is still multiplied, and NaN that lay in memory would come through.

    On a CPU the system hands out zeroed pages when they are first used; `torch.zeros` would write them all now.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class SlotCache(Cache):
    """A cache of transformers whose rows have lengths of their own and share their beginnings.

    What lies behind a row's length is never read: masks end there, and later tokens overwrite it.

    Args:
        layers: Of the decoder.
        room: For rows.
    """

    def __init__(self, layers: int, room: Room) -> None:
        self._held = [_SlotLayer(room) for _ in range(layers)]
        super().__init__(layers=list(self._held))

    def aim(self, plan: Plan) -> None:
        """Say where the tokens of the next forward pass are written."""
        for layer in self._held:
            layer.plan = plan

    def chunks(self, layer: int) -> list[KeysAndValues]:
        """Return the rows' own keys and values in a layer, chunk after chunk."""
        return self._held[layer].chunks

    def beginnings(self, layer: int) -> dict[int, KeysAndValues]:
        """Return the shared keys and values in a layer, by slot."""
        return self._held[layer].beginnings

    def reach(self, chunks: int) -> int:
        """Make room for rows of this many chunks, behind rows that are there; return how many rows may be so long."""
        for layer in self._held:
            layer.reach(chunks, *layer.chunks[0])
        return len(self._held[0].chunks[chunks - 1][0])

    def drop(self, slots: Iterable[int]) -> None:
        """Free the slots of beginnings."""
        for slot in slots:
            for layer in self._held:
                layer.beginnings.pop(slot, None)

    def move(self, moves: Sequence[Move]) -> None:
        """Copy rows to other slots, in all layers."""
        longest = max((move.length for move in moves), default=0)
        for number in range(math.ceil(longest / CHUNK)):
            reaching = [move for move in moves if move.length > number * CHUNK]
            places = min(CHUNK, max(move.length for move in reaching) - number * CHUNK)
            device = self._held[0].chunks[number][0].device
            sources = torch.tensor([move.source for move in reaching], device=device)
            targets = torch.tensor([move.target for move in reaching], device=device)
            for layer in self._held:
                for store in layer.chunks[number]:
                    store[targets, :, :places] = store[sources, :, :places]
