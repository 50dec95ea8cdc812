"""Greedy decoding of one batch through an unmodified transformers decoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from harness.phases import Phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt ready for the decoder: embeddings [L, D] and the most tokens that may follow."""

    embeddings: torch.Tensor
    max_new_tokens: int


class _Batch:
    """The rows that are still being written; finished ones leave, and their share of the cache with them."""

    def __init__(self, decoder: PreTrainedModel, rows: Sequence[Row]) -> None:
        self._decoder = decoder
        self._cache = DynamicCache(config=decoder.config)
        self.alive = list(range(len(rows)))
        embeddings, self._mask = _left_padded(rows)
        self._next_position = self._mask.sum(dim=1)
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        self.logits = self._forward(inputs_embeds=embeddings, position_ids=positions)

    def keep(self, places: list[int]) -> None:
        """Drop every row that is not at one of `places`."""
        index = torch.tensor(places, device=self._mask.device)
        self.alive = [self.alive[place] for place in places]
        self._mask, self._next_position = self._mask[index], self._next_position[index]
        self._cache.batch_select_indices(index)

    def step(self, tokens: torch.Tensor) -> None:
        """Append one token per row and compute the next logits."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self.logits = self._forward(input_ids=tokens[:, None], position_ids=self._next_position[:, None])
        self._next_position = self._next_position + 1

    def _forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        output = self._decoder(
            attention_mask=self._mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **inputs
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _left_padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(row.embeddings) for row in rows)
    first = rows[0].embeddings
    embeddings = first.new_zeros(len(rows), longest, first.shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=first.device)
    for index, row in enumerate(rows):
        embeddings[index, longest - len(row.embeddings) :] = row.embeddings
        mask[index, longest - len(row.embeddings) :] = 1
    return embeddings, mask


def decode_greedily(
    decoder: PreTrainedModel, rows: Sequence[Row], end_ids: frozenset[int], phases: Phases
) -> list[list[int]]:
    """Return the generated ids of each row, the end token included if one came.

    A row's result does not depend on its neighbours: padding is masked, positions count real tokens only.
    """
    written: list[list[int]] = [[] for _ in rows]
    with phases.time("prefill"):
        batch = _Batch(decoder, rows)
    with phases.time("decode"):
        while batch.alive:
            tokens = batch.logits.argmax(dim=-1)
            for place, token in enumerate(tokens.tolist()):
                written[batch.alive[place]].append(token)
            unfinished = [
                place
                for place, row in enumerate(batch.alive)
                if written[row][-1] not in end_ids and len(written[row]) < rows[row].max_new_tokens
            ]
            if not unfinished:
                break
            if len(unfinished) < len(batch.alive):
                batch.keep(unfinished)
                tokens = tokens[torch.tensor(unfinished, device=tokens.device)]
            phases.count("decode row steps", len(unfinished))
            batch.step(tokens)
    return written
