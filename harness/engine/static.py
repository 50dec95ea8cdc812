"""Static batches, and what transformers' own `generate` writes: what the engine has to equal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel

from medbench.adapters.base import Generation, LocalAdapter, RowStates, TextSegment
from medbench.adapters.guarding import one_sample
from medbench.adapters.plain_generation import Watch, forget_decoding
from medbench.harness.engine.batching import Batching, Row, outcome_of, write_next
from medbench.harness.engine.requests import GREEDY, Decoding, Outcome, PrefixedRequest, Request, failed, layout_of
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef

States = Sequence[object] | None


class _BatchByBatch(Batching):
    """Answers as many requests at a time as fit."""

    def _next(self) -> list[PrefixedRequest]:
        batch: list[PrefixedRequest] = []
        while (following := self._queue.peek()) is not None:
            more = [*batch, following]
            rows, longest = self._rows_of(more), max(one.request.longest for one in more)
            if batch and (rows is None or rows > self.budget.rows or rows * longest > self.budget.tokens):
                break
            batch.append(self._queue.take())
        return batch


class WholeBatching(_BatchByBatch):
    """Answers models that must be answered whole, through `LocalAdapter.written_whole`, greedily."""

    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        asked, rows = [], []
        for request in (one.request for one in requests):
            if not request.decoding.greedy:
                problem = "This model is answered whole, greedily; leave the sampling out."
                outcomes.append(failed(request, problem, "prompt"))
                continue
            try:
                images = [open_image(request.source, image) for image in request.sample.images]
            except SampleError as error:
                outcomes.append(failed(request, str(error), error.kind))
                continue
            asked.append((request.sample, request.spec, images))
            rows.append(Row(request=request))
        if not rows:
            return outcomes
        longest = max(row.request.decoding.max_new_tokens for row in rows)
        with self._phases.time("generate"):
            written = self._adapter.written_whole(asked, longest) or ()
        for row, ids in zip(rows, written, strict=True):
            row.take(ids, self._adapter.detokenise)
        return [*outcomes, *self._outcomes(rows)]


class StaticBatching(_BatchByBatch):
    """Answers decoders that cannot be driven row by row, and beam searches; finished rows leave, nobody enters.

    As a `library` all that is left to transformers' own `generate`, as a beam search is in any case.
    """

    def __init__(self, *parts: Any, library: bool = False) -> None:
        super().__init__(*parts)
        self._library = library

    def _rows_of(self, requests: Sequence[PrefixedRequest]) -> int | None:
        decodings = [one.request.decoding for one in requests]
        # A beam search depends on all of it, the longest answer included.
        searches = {decoding if decoding.beams > 1 else None for decoding in decodings}
        return sum(decoding.beams for decoding in decodings) if len(searches) == 1 else None

    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        sound, outcomes = self._images.sound(requests)
        if not sound:
            return outcomes
        rows = [Row(request=one.request) for one in sound]
        embeddings = self._images.own(sound)
        states = self._images.states(sound) if self._adapter.has_row_states else None
        decoding = rows[0].request.decoding
        with self._phases.share({}, Counter(row.request.spec.name for row in rows)):
            if decoding.beams > 1 or self._library:
                longest = max(row.request.decoding.max_new_tokens for row in rows)
                decoding = replace(decoding, max_new_tokens=longest)
                with self._phases.time("decode"):
                    written = written_by_library(self._adapter.decoder, embeddings, decoding, states)
                for row, ids in zip(rows, written, strict=True):
                    row.take(ids, self._adapter.detokenise)
            else:
                with self._phases.time("prefill"):
                    batch = _Batch(self._adapter.decoder, rows, embeddings, states)
                    write_next(batch.rows, batch.logits, self._adapter.detokenise)
                with self._phases.time("decode"):
                    while batch.leave():
                        self._phases.count("decode steps")
                        self._phases.count("decode row steps", len(batch.rows))
                        batch.step()
                        write_next(batch.rows, batch.logits, self._adapter.detokenise)
        self._phases.count("prompt tokens computed", sum(row.request.length for row in rows))
        self._phases.count("prefill tokens run", len(rows) * max(row.request.length for row in rows))
        return [*outcomes, *self._outcomes(rows)]


class _Batch:
    """The rows that are still being written; finished ones leave, and their share of the cache with them."""

    def __init__(
        self, decoder: PreTrainedModel, rows: Sequence[Row], embeddings: Sequence[torch.Tensor], states: States
    ) -> None:
        self._decoder = decoder
        self._states = states
        self._cache = DynamicCache(config=decoder.config)
        self.rows = list(rows)
        padded, self._mask = left_padded(embeddings, decoder.dtype)
        shifts = torch.tensor([row.request.shift for row in rows], device=self._mask.device)
        self._next_position = self._mask.sum(dim=1) + shifts
        places = positions_of([row.request for row in rows], self._mask)
        self.logits = self._forward(inputs_embeds=padded, position_ids=places)

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
            attention_mask=self._mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **inputs,
            **row_states_argument(self._states),
        )  # fmt: skip
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def positions_of(requests: Sequence[Request], mask: torch.Tensor) -> torch.Tensor:
    """Return positions [B, L] of prompts behind their padding, or [3, B, L] where images stand in grids."""
    if not any(request.shift for request in requests):
        return (mask.cumsum(dim=1) - 1).clamp(min=0)
    positions = mask.new_zeros(3, *mask.shape)
    for place, request in enumerate(requests):
        own = layout_of(request.prompt.segments, "causal").positions(0, request.length)
        positions[:, place, mask.shape[1] - request.length :] = torch.tensor(own, device=mask.device).T
    return positions


def left_padded(embeddings: Sequence[torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings [L, D] as one batch [B, L, D] padded on the left, and its mask [B, L]."""
    longest, first = max(map(len, embeddings)), embeddings[0]
    padded = torch.zeros(len(embeddings), longest, first.shape[1], dtype=dtype, device=first.device)
    mask = torch.zeros(len(embeddings), longest, dtype=torch.long, device=first.device)
    for row, own in enumerate(embeddings):
        padded[row, longest - len(own) :] = own
        mask[row, longest - len(own) :] = 1
    return padded, mask


def row_states_argument(states: States, each: int = 1) -> dict[str, RowStates]:
    """Return the argument of a decoder with cross-attention; in a beam search a row stands there `each` times."""
    if states is None:
        return {}
    return {"row_states": RowStates(states=tuple(state for state in states for _ in range(each)))}


def written_by_library(
    decoder: PreTrainedModel, embeddings: Sequence[torch.Tensor], decoding: Decoding, states: States
) -> list[list[int]]:
    """Return what transformers' `generate` writes to prompts [L, D] each: the likeliest tokens, or by a beam search."""
    watch = Watch(each=decoding.beams)
    padded, mask = left_padded(embeddings, decoder.dtype)
    config = GenerationConfig(
        num_beams=decoding.beams, do_sample=False, max_new_tokens=decoding.max_new_tokens,
        eos_token_id=sorted(decoding.end_ids) or None, pad_token_id=min(decoding.end_ids, default=0),
        repetition_penalty=decoding.repetition_penalty,
    )  # fmt: skip
    written = cast("Any", decoder).generate(
        generation_config=config, logits_processor=LogitsProcessorList([watch]), inputs_embeds=padded,
        attention_mask=mask, **row_states_argument(states, each=decoding.beams),
    )  # fmt: skip
    return watch.cut(written.tolist())


class NoNumbersError(SampleError):
    """The logits of a sample are no numbers, so there is no answer."""


@torch.inference_mode()
def generate_alone(adapter: LocalAdapter, request: Request) -> Generation:
    """Return what transformers' `generate` makes of one request, greedily; of the model's own inputs, if it has some.

    Raises SampleError if an image is missing or broken, or the logits are no numbers.
    """
    forget_decoding(adapter.decoder)
    images = [open_image(request.source, image) for image in request.sample.images]
    whole = adapter.written_whole([(request.sample, request.spec, images)], request.decoding.max_new_tokens)
    row = Row(request=request)
    row.take(_written_alone(adapter, request) if whole is None else whole[0], adapter.detokenise)
    outcome = outcome_of(row, adapter)
    if outcome.generation is None:
        raise NoNumbersError(outcome.error)
    return outcome.generation


def _written_alone(adapter: LocalAdapter, request: Request) -> Sequence[int]:
    """Return the ids that are written to a prompt, made without the engine's own sharing, batches and caches."""

    def features(image: ImageRef) -> torch.Tensor:
        opened = open_image(request.source, image)
        with one_sample(adapter, f"pixels() of {image.path}"):
            pixels = adapter.pixels(opened)
        return adapter.encode_images([pixels])[0]

    parts = []
    for segment in request.prompt.segments:
        if isinstance(segment, TextSegment):
            parts.append(adapter.embed_tokens(torch.tensor(segment.ids, dtype=torch.long)))
        elif segment.tokens:
            [tokens] = adapter.project([features(segment.image)], request.spec.kind)
            parts.append(tokens[segment.first : segment.first + segment.tokens])
    states = None
    if adapter.has_row_states:
        seen = [features(image) for image in request.prompt.images()]
        states = [adapter.row_state(seen, request.prompt, request.spec.kind)]
    greedily = replace(request.decoding, **asdict(GREEDY))
    return written_by_library(adapter.decoder, [torch.cat(parts)], greedily, states)[0]
