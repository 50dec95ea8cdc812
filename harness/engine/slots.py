"""Keys and values of all rows and of the prefixes they share: written and read where they lie."""

import math
import mmap
from collections import defaultdict
from collections.abc import Sequence

import torch

from medbench.harness.engine.budget import Budget
from medbench.harness.engine.packing import CHUNK, PassPlan, Target
from medbench.harness.engine.requests import SharedPrefix

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
            self._write(target, keys, values)
        for prefix, tokens in plan.prefixes:
            dtype = self._dtype or keys.dtype
            own_keys, own_values = (states[:, tokens].to(dtype).contiguous() for states in (keys, values))
            self.prefixes[prefix] = (own_keys, own_values)
        for prefix, slots in plan.copies:
            own, chunks = self.prefixes[prefix], math.ceil(prefix.length / CHUNK)
            self.reach(chunks, *own)
            for number, chunk in enumerate(self.chunks[:chunks]):
                for store, states in zip(chunk, own, strict=True):
                    part = states[:, number * CHUNK : (number + 1) * CHUNK]
                    store[slots, :, : part.shape[1]] = part

    def reach(self, chunks: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make room up to a chunk, for keys and values like these."""
        while (number := len(self.chunks)) < chunks:
            self.chunks.append((self.room(number, keys), self.room(number, values)))

    def _write(self, target: Target, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.reach(target.chunk + 1, keys, values)
        for chunk, states in zip(self.chunks[target.chunk], (keys, values), strict=True):
            new = states.transpose(0, 1)[target.tokens].to(chunk.dtype)
            if target.only is not None:
                new = torch.where(target.only[:, None, None], new, chunk[target.slots, :, target.places])
            chunk[target.slots, :, target.places] = new


class KVSlots:
    """What attention reads: rows, which have lengths of their own, and the prefixes that they share, in every layer.

    What lies behind a row's length is never read: masks end there, and later tokens overwrite it.
    """

    def __init__(self, budget: Budget, dtype: torch.dtype | None = None) -> None:
        # Keys and values are held and read in `dtype`, or in the decoder's own.
        self.layers: defaultdict[int, LayerSlots] = defaultdict(lambda: LayerSlots(budget, dtype))

    def reach(self, chunks: int) -> int:
        """Make room for rows of this many chunks, behind rows that are there; return how many rows may be so long."""
        for layer in self.layers.values():
            layer.reach(chunks, *(store[0] for store in layer.chunks[0]))
        return len(self.layers[0].chunks[chunks - 1][0])

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
