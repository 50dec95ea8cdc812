"""Forward passes of an unmodified decoder over slots: with a cache, masks and positions of the engine's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from harness.engine.slots import Place, SlotCache

Attention = Literal["full", "sliding", "both"]
_LAYER_TYPES = {"full_attention": "full", "sliding_attention": "sliding"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Which keys the layers of a decoder read.

    Attributes:
        attention: Everything before, a window, or both in turn.
        window: Positions of the window, its own included.
    """

    attention: Attention
    window: int


def reading_of(config: Any) -> Reading | None:  # noqa: ANN401 - any configuration of transformers
    """Return how the layers read, or None if the decoder cannot be driven row by row.

    Not possible are layers with another memory than keys and values (linear attention, chunks), and attention
    kernels that take no mask of the engine's own.
    """
    if getattr(config, "_attn_implementation", "eager") not in {"sdpa", "eager"}:
        return None
    window = int(getattr(config, "sliding_window", None) or 0)
    types = {_LAYER_TYPES.get(name) for name in getattr(config, "layer_types", None) or ()}
    if not types:
        return Reading(attention="sliding" if window else "full", window=window)
    if types == {"full"}:
        return Reading(attention="full", window=0)
    if types == {"sliding"}:
        return Reading(attention="sliding", window=window)
    return Reading(attention="both", window=window) if types == {"full", "sliding"} else None


class Passes:
    """Runs a decoder over slots.

    Args:
        decoder: A causal language model of transformers.
        cache: Where its keys and values are.
        reading: Which keys its layers read.
    """

    def __init__(self, decoder: PreTrainedModel, cache: SlotCache, reading: Reading) -> None:
        self._decoder = decoder
        self._cache = cache
        self._reading = reading
        self._dtype = decoder.dtype
        self._device = decoder.device

    def prefill(self, first_row: int, embeddings: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
        """Write prompts, or what follows their beginnings, into slots; return the logits [R, V] after them.

        Args:
            first_row: Slot of the first; the others follow.
            embeddings: [L, D] of each; shorter ones are padded behind, and never read there.
            starts: Position of each one's first token.
        """
        longest = max(map(len, embeddings))
        padded = embeddings[0].new_zeros(len(embeddings), longest, embeddings[0].shape[1])
        for row, own in enumerate(embeddings):
            padded[row, : len(own)] = own
        start = starts[0] if len(set(starts)) == 1 else None
        positions = torch.tensor(starts, device=self._device)[:, None] + torch.arange(longest, device=self._device)
        rows = slice(first_row, first_row + len(embeddings))
        place = Place(rows=rows, positions=positions, reach=max(starts) + longest, start=start)
        lasts = torch.tensor([len(own) - 1 for own in embeddings], device=self._device)
        with _head_sees(self._decoder, lasts):
            return self._forward(place, inputs_embeds=padded.to(self._dtype))

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """Append one token to each of the first rows; return the logits [R, V] after it."""
        positions = torch.tensor(lengths, device=self._device)[:, None]
        start = lengths[0] if len(set(lengths)) == 1 else None
        place = Place(rows=slice(0, len(tokens)), positions=positions, reach=max(lengths) + 1, start=start)
        return self._forward(place, input_ids=torch.tensor(tokens, device=self._device)[:, None])

    def _forward(self, place: Place, **inputs: torch.Tensor) -> torch.Tensor:
        self._cache.aim(place)
        output = self._decoder(
            attention_mask=self._masks(place), position_ids=place.positions, past_key_values=self._cache,
            use_cache=True, **inputs,
        )  # fmt: skip
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _masks(self, place: Place) -> torch.Tensor | dict[str, torch.Tensor]:
        keys = torch.arange(place.reach, device=self._device)
        distance = place.positions[:, None, :, None] - keys
        full = distance >= 0
        if self._reading.attention == "full":
            return self._additive(full)
        sliding = self._additive(full & (distance < self._reading.window))
        if self._reading.attention == "sliding":
            return sliding
        return {"full_attention": self._additive(full), "sliding_attention": sliding}

    def _additive(self, allowed: torch.Tensor) -> torch.Tensor:
        # Both of transformers' kernels take a mask that is added; a boolean one is converted anew in every layer.
        mask = torch.zeros(allowed.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~allowed, float("-inf"))


@contextmanager
def _head_sees(decoder: PreTrainedModel, places: torch.Tensor) -> Iterator[None]:
    """Let the head compute logits of one place per row alone, wherever each row ends."""

    def choose(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = inputs
        rows = torch.arange(len(hidden), device=hidden.device)
        return (hidden[rows, places][:, None], *others)

    handle = decoder.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
