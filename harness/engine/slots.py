"""Keys and values of all rows and of the prefixes they share: written and read where they lie."""

import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from medbench.harness.engine.packing import CHUNK, PassPlan, Target

KeysAndValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Move:
    """A row that gets another slot, with the `length` places that it has filled."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class SlotCapacity:
    """How much room a chunk needs: as many slots as there can be rows that are long enough to reach it.

    At most `tokens` places are held: rows times the chunks of the longest; one row always fits. Keys and values are
    held and read in `dtype`, or in the decoder's own.
    """

    rows: int
    tokens: int
    dtype: torch.dtype | None = None

    def make(self, chunk: int, like: torch.Tensor) -> torch.Tensor:
        """Return zeros for a chunk, with the heads and width of new keys [1, H, N, D].

        Zeros, since what is masked is still multiplied, and NaN that lay in memory would come through. On a CPU the
        system hands out zeroed pages when they are first used; `torch.zeros` would write them all now.
        """
        slots = max(1, min(self.rows, self.tokens // ((chunk + 1) * CHUNK)))
        shape, dtype = (slots, like.shape[1], CHUNK, like.shape[3]), self.dtype or like.dtype
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=like.device)
        pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(pages, dtype=dtype).view(shape)


class _SlotLayer(CacheLayerMixin):
    """One layer: the rows' own keys and values, in chunks of places, and those of the prefixes they share."""

    def __init__(self, capacity: SlotCapacity) -> None:
        super().__init__()
        self._capacity = capacity
        self.plan: PassPlan | None = None
        # [S, H, CHUNK, D] of places 0 to CHUNK - 1 of all slots, then of the following places.
        self.chunks: list[KeysAndValues] = []
        # [1, H, L, D] by slot.
        self.prefixes: dict[int, KeysAndValues] = {}

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
        for prefix, tokens in self.plan.prefixes:
            keys, values = (
                states[:, :, tokens].to(self._capacity.dtype or states.dtype).contiguous()
                for states in (key_states, value_states)
            )
            self.prefixes[prefix.slot] = (keys, values)
        for copy in self.plan.copies:
            own, chunks = self.prefixes[copy.prefix.slot], math.ceil(copy.prefix.length / CHUNK)
            self.reach(chunks, *own)
            for number, chunk in enumerate(self.chunks[:chunks]):
                for store, states in zip(chunk, own, strict=True):
                    part = states[0, :, number * CHUNK : (number + 1) * CHUNK]
                    store[copy.slots, :, : part.shape[1]] = part
        return key_states, value_states

    def reach(self, chunks: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make room up to a chunk, for keys and values like these."""
        while (number := len(self.chunks)) < chunks:
            self.chunks.append((self._capacity.make(number, keys), self._capacity.make(number, values)))

    def _write(self, keys: torch.Tensor, values: torch.Tensor, target: Target) -> None:
        self.reach(target.chunk + 1, keys, values)
        for chunk, states in zip(self.chunks[target.chunk], (keys, values), strict=True):
            new = states[0].transpose(0, 1)[target.tokens].to(chunk.dtype)
            if target.only is not None:
                new = torch.where(target.only[:, None, None], new, chunk[target.slots, :, target.places])
            chunk[target.slots, :, target.places] = new

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return what a mask would cover; attention brings its own."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return 0: rows have lengths of their own, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return -1, no limit."""
        return -1


class KVSlots(Cache):
    """A cache of transformers whose rows have lengths of their own and share their prefixes.

    What lies behind a row's length is never read: masks end there, and later tokens overwrite it.
    """

    def __init__(self, layers: int, capacity: SlotCapacity) -> None:
        self._layers = [_SlotLayer(capacity) for _ in range(layers)]
        super().__init__(layers=list(self._layers))

    def aim(self, plan: PassPlan) -> None:
        """Say where the tokens of the next forward pass are written."""
        for layer in self._layers:
            layer.plan = plan

    def chunks(self, layer: int) -> list[KeysAndValues]:
        """Return the rows' own keys and values in a layer, chunk after chunk."""
        return self._layers[layer].chunks

    def prefixes(self, layer: int) -> dict[int, KeysAndValues]:
        """Return the shared keys and values in a layer, by slot."""
        return self._layers[layer].prefixes

    def reach(self, chunks: int) -> int:
        """Make room for rows of this many chunks, behind rows that are there; return how many rows may be so long."""
        for layer in self._layers:
            layer.reach(chunks, *layer.chunks[0])
        return len(self._layers[0].chunks[chunks - 1][0])

    def drop(self, slots: Iterable[int]) -> None:
        """Free the slots of prefixes."""
        for slot in slots:
            for layer in self._layers:
                layer.prefixes.pop(slot, None)

    def move(self, moves: Sequence[Move]) -> None:
        """Copy rows to other slots, in all layers."""
        longest = max((move.length for move in moves), default=0)
        for number in range(math.ceil(longest / CHUNK)):
            reaching = [move for move in moves if move.length > number * CHUNK]
            places = min(CHUNK, max(move.length for move in reaching) - number * CHUNK)
            device = self._layers[0].chunks[number][0].device
            sources = torch.tensor([move.source for move in reaching], device=device)
            targets = torch.tensor([move.target for move in reaching], device=device)
            for layer in self._layers:
                for store in layer.chunks[number]:
                    store[targets, :, :places] = store[sources, :, :places]
