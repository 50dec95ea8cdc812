"""Static batches, for decoders that cannot be driven row by row and for beam search."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel

from medbench.adapters.base import RowStates
from medbench.adapters.plain_generation import Watch
from medbench.harness.engine.batching import Batching
from medbench.harness.engine.choosing import Row, write_next
from medbench.harness.engine.grouping import Member
from medbench.harness.engine.layout import layout_of
from medbench.harness.engine.request import Decoding, Outcome, Request, out_of_memory

States = Sequence[object] | None


class StaticBatching(Batching):
    """Answers members batch by batch, by tokens; finished rows leave the batch, nobody enters it."""

    def _next(self) -> list[Member]:
        batch: list[Member] = []
        while (following := self._upcoming.peek()) is not None and self._fits([*batch, following]):
            batch.append(self._upcoming.take())
        return batch

    def _fits(self, members: Sequence[Member]) -> bool:
        requests = [member.request for member in members]
        if len(requests) == 1:
            return True
        longest = max(request.length + request.decoding.max_new_tokens for request in requests)
        rows = sum(request.decoding.beams for request in requests)
        searched_alike = len({_search_of(request) for request in requests}) == 1
        return searched_alike and rows <= self.budget.rows and rows * longest <= self.budget.tokens

    def _advance(self, members: Sequence[Member]) -> list[Outcome]:
        sound, outcomes = self._vision.sound(members)
        if not sound:
            return outcomes
        rows = [Row(request=member.request) for member in sound]
        embeddings = self._embedder.own(sound)
        states = self._embedder.states(sound) if self._adapter.has_row_states else None
        tasks = Counter(row.request.spec.name for row in rows)
        with self._phases.share({}, tasks):
            if rows[0].request.decoding.beams > 1:
                self._search(rows, embeddings, states)
            else:
                self._write(rows, embeddings, states)
        self._phases.count("prompt tokens computed", sum(row.request.length for row in rows))
        self._phases.count("prefill tokens run", len(rows) * max(row.request.length for row in rows))
        return [*outcomes, *self._outcomes(rows)]

    def _write(self, rows: Sequence[Row], embeddings: Sequence[torch.Tensor], states: States) -> None:
        with self._phases.time("prefill"):
            batch = _Batch(self._adapter.decoder, rows, embeddings, states)
            write_next(batch.rows, batch.logits, self._adapter.detokenise)
        with self._phases.time("decode"):
            while batch.leave():
                self._phases.count("decode steps")
                self._phases.count("decode row steps", len(batch.rows))
                batch.step()
                write_next(batch.rows, batch.logits, self._adapter.detokenise)

    def _search(self, rows: Sequence[Row], embeddings: Sequence[torch.Tensor], states: States) -> None:
        decoding = rows[0].request.decoding
        padded, mask = _left_padded(embeddings)
        watch = Watch(each=decoding.beams)
        with self._phases.time("decode"):
            written = cast("Any", self._adapter.decoder).generate(
                generation_config=GenerationConfig(),
                logits_processor=LogitsProcessorList([watch]),
                inputs_embeds=padded.to(self._adapter.decoder.dtype),
                attention_mask=mask,
                num_beams=decoding.beams,
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
                eos_token_id=sorted(decoding.end_ids) or None,
                pad_token_id=min(decoding.end_ids, default=0),
                repetition_penalty=decoding.repetition_penalty,
                **_row_states(states, each=decoding.beams),
            )
        for row, ids in zip(rows, watch.cut(written.tolist()), strict=True):
            row.take(ids, self._adapter.detokenise)

    def _shrink(self, members: Sequence[Member]) -> list[Outcome]:
        torch.cuda.empty_cache()
        self._phases.count("out of memory")
        if len(members) == 1:
            self.budget = self._first_budget
            return [out_of_memory(member.request) for member in members]
        self.budget = self.budget.halved(sum(member.request.decoding.beams for member in members))
        self._upcoming.put_back(members)
        return []


def _row_states(states: States, each: int = 1) -> dict[str, RowStates]:
    """Return the argument of a decoder with cross-attention; in a beam search a row stands there `each` times."""
    if states is None:
        return {}
    return {"row_states": RowStates(states=tuple(state for state in states for _ in range(each)))}


def _search_of(request: Request) -> Decoding | None:
    """Return what a beam search depends on, the longest answer included; None without a search."""
    return request.decoding if request.decoding.beams > 1 else None


class _Batch:
    """The rows that are still being written; finished ones leave, and their share of the cache with them."""

    def __init__(
        self, decoder: PreTrainedModel, rows: Sequence[Row], embeddings: Sequence[torch.Tensor], states: States
    ) -> None:
        self._decoder = decoder
        self._states = states
        self._cache = DynamicCache(config=decoder.config)
        self.rows = list(rows)
        padded, self._mask = _left_padded(embeddings)
        shifts = torch.tensor([row.request.shift for row in rows], device=self._mask.device)
        self._next_position = self._mask.sum(dim=1) + shifts
        positions = _positions(rows, self._mask)
        self.logits = self._forward(inputs_embeds=padded.to(decoder.dtype), position_ids=positions)

    def leave(self) -> bool:
        """Drop finished rows; return whether any are left."""
        places = [place for place, row in enumerate(self.rows) if row.stop is None]
        if len(places) < len(self.rows) and places:
            index = torch.tensor(places, device=self._mask.device)
            self._mask, self._next_position = self._mask[index], self._next_position[index]
            for layer in self._cache.layers:
                # Layers of another memory than keys and values know only the other name.
                select: Any = getattr(layer, "batch_select_indices", layer.reorder_cache)
                select(index)
        self.rows = [self.rows[place] for place in places]
        self._states = None if self._states is None else [self._states[place] for place in places]
        return bool(self.rows)

    def step(self) -> None:
        """Append the last token of each row and compute the next logits."""
        tokens = torch.tensor([row.written[-1] for row in self.rows], device=self._mask.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self.logits = self._forward(input_ids=tokens[:, None], position_ids=self._next_position[:, None])
        self._next_position = self._next_position + 1

    def _forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        output = self._decoder(
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
            **_row_states(self._states),
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _positions(rows: Sequence[Row], mask: torch.Tensor) -> torch.Tensor:
    """Return positions [B, L] of prompts behind their padding, or [3, B, L] where images stand in grids."""
    if not any(row.request.shift for row in rows):
        return (mask.cumsum(dim=1) - 1).clamp(min=0)
    positions = mask.new_zeros(3, *mask.shape)
    for place, row in enumerate(rows):
        request = row.request
        own = layout_of(request.prompt.segments, "causal").positions(0, request.length)
        positions[:, place, mask.shape[1] - request.length :] = torch.tensor(own, device=mask.device).T
    return positions


def _left_padded(embeddings: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, embeddings))
    first = embeddings[0]
    padded = first.new_zeros(len(embeddings), longest, first.shape[1])
    mask = torch.zeros(len(embeddings), longest, dtype=torch.long, device=first.device)
    for row, own in enumerate(embeddings):
        padded[row, longest - len(own) :] = own
        mask[row, longest - len(own) :] = 1
    return padded, mask
