"""One forward pass, packed: the next token of every row, then prompts, then what they share, in one line unpadded."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from medbench.harness.engine.requests import PLAIN, Layout, PrefixedRequest, SharedPrefix

# Not infinite: a query that may read nothing must get a weight of zero, not of NaN.
NEVER = -1e30
Whole = NDArray[np.int64]


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
    def end(self) -> int:
        """How many tokens there are with these, those of the prefix included."""
        return self.before + self.length

    @property
    def position(self) -> int:
        """Of the first token in what the decoder reads."""
        return self.before + self.shift + (self.prefix.layout.shift if self.prefix else 0)

    @classmethod
    def of_prefix(cls, prefix: SharedPrefix) -> "NewTokens":
        """Return all tokens of a prefix, which has no slot."""
        return cls(slot=-1, place=0, length=prefix.length, layout=prefix.layout)


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """How a layer turns scores into weights: their factor, their bound (Gemma 2), and the places that are read."""

    scale: float
    softcap: float | None
    window: int | None


class PassAttention(ABC):
    """What attention does in one pass: every layer writes its new keys and values, and reads what there is."""

    rows: int  # Rows and prompts of the pass.

    @abstractmethod
    def attend(
        self, layer: int, settings: AttentionSettings, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention [N, H, D] of queries [H, N, D] after writing keys and values [K, N, D]."""


class KVStore(ABC):
    """Keys and values between passes: rows, which have lengths of their own, and the prefixes that they share."""

    name: str  # For env.json.

    @abstractmethod
    def places(self, rows: Sequence[PrefixedRequest], prefixes: Iterable[SharedPrefix]) -> int:
        """Return how many tokens' room rows and prefixes take when every answer is as long as it may be."""

    @abstractmethod
    def plan(
        self, steps: Sequence[NewTokens], prompts: Sequence[NewTokens], prefixes: Sequence[SharedPrefix]
    ) -> PassAttention:
        """Make room for a pass over rows and prompts, in the order of their slots, and new prefixes."""

    @abstractmethod
    def leave(self, slot: int, *, spoilt: bool) -> None:
        """Let a row go; what it held is wiped if it is `spoilt` by numbers that are none.

        What is masked is still multiplied, and NaN would come through to whoever is there next.
        """

    @abstractmethod
    def move(self, moves: Sequence[tuple[int, int, int]]) -> None:
        """Put rows into other slots, which are free: from a slot, to a slot, and how many places it has filled."""

    @abstractmethod
    def drop(self, prefix: SharedPrefix) -> None:
        """Let a prefix go that no row needs."""


@dataclass(slots=True, kw_only=True)
class PassPlan:
    """What a forward pass needs to know, whatever holds its keys and values."""

    count: int  # Tokens in all.
    tokens: torch.Tensor  # Last token of each row [r], which the decoder has not read.
    positions: torch.Tensor  # Position of each [1, N], or [3, 1, N] in three dimensions.
    # Row or prompt of each token, and its position, on the host [N]; where images are read, there are no prefixes.
    row_of: Whole
    places: Whole
    read: torch.Tensor  # Tokens whose logits are wanted, rows before prompts [R].


def packed_plan(
    tokens: Sequence[int], steps: Sequence[NewTokens], prompts: Sequence[NewTokens], prefixes: Sequence[SharedPrefix],
    device: torch.device,
) -> PassPlan:  # fmt: skip
    """Return the plan of a pass over any rows, prompts and prefixes, in the order of their slots; see `Passes.run`."""
    parts = [*steps, *prompts]
    every = [*parts, *map(NewTokens.of_prefix, prefixes)]
    ends = list(accumulate(part.length for part in every))
    lengths = [part.length for part in parts]
    positions = _positions(every)
    read = np.asarray(ends[: len(parts)], dtype=np.int64) - 1
    sent = on_device({"tokens": np.asarray(tokens, dtype=np.int64), "positions": positions, "read": read}, device)
    row_of = np.repeat(np.arange(len(parts)), lengths)
    return PassPlan(count=ends[-1], row_of=row_of, places=positions[0].ravel(), **sent)


def _positions(parts: Sequence[NewTokens]) -> Whole:
    if any(part.layout.grids for part in parts):
        places = [place for part in parts for place in part.layout.positions(part.position, part.length)]
        return np.asarray(places, dtype=np.int64).T[:, None]
    # Where all dimensions agree, decoders take one, and those of one dimension take no more.
    return np.concatenate([np.arange(part.position, part.position + part.length) for part in parts])[None]


def on_device(
    values: Mapping[str, Whole], device: torch.device, dtype: torch.dtype = torch.long
) -> dict[str, torch.Tensor]:
    """Return whole numbers on a device, all in one copy, for which the host does not wait."""
    together = np.concatenate([one.ravel() for one in values.values()])
    pinned = device.type == "cuda" and torch.cuda.is_available()
    sent = torch.tensor(together, dtype=dtype, pin_memory=pinned).to(device, non_blocking=True)
    parts = sent.split([one.size for one in values.values()])
    return {name: part.view(one.shape) for (name, one), part in zip(values.items(), parts, strict=True)}
