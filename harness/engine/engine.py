"""The generation engine: requests in, outcomes out as they finish."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from adapters.base import Generation, LocalAdapter, TextSegment
from harness.engine.batching import Budget, pack
from harness.engine.decoding import Row, decode_greedily
from harness.engine.request import Outcome, Request
from harness.engine.vision import VisionCache
from harness.phases import Phases


class Engine:
    """Drives a local adapter: images once, prompts packed by tokens, finished rows dropped.

    Args:
        adapter: The model.
        budget: What one batch may hold; halved for good when memory runs out.
        phases: Where time and counts are kept.
    """

    def __init__(self, adapter: LocalAdapter, budget: Budget, phases: Phases) -> None:
        self._adapter = adapter
        self._budget = budget
        self._phases = phases
        self._vision = VisionCache(adapter, phases)

    def generate(self, requests: Iterable[Request]) -> Iterator[list[Outcome]]:
        """Yield the outcomes of one batch at a time; their order is the engine's."""
        for batch in pack(requests, self._budget):
            for rows in self._within_budget(batch):
                yield self._answer(rows)
                self._vision.trim()

    def _within_budget(self, batch: list[Request]) -> Iterator[list[Request]]:
        start = 0
        while start < len(batch):
            rows = batch[start : start + self._budget.rows]
            yield rows
            start += len(rows)

    def _answer(self, requests: list[Request]) -> list[Outcome]:
        with torch.inference_mode():
            failed = self._too_long(requests)
            failed |= self._vision.prepare([request for request in requests if request.sample.sample_id not in failed])
            sound = [request for request in requests if request.sample.sample_id not in failed]
            answered = self._generate_or_split(sound) if sound else []
        errors = [
            Outcome(task=request.spec.name, sample_id=request.sample.sample_id, error=failed[request.sample.sample_id])
            for request in requests
            if request.sample.sample_id in failed
        ]
        return [*answered, *errors]

    def _too_long(self, requests: Sequence[Request]) -> dict[str, str]:
        limit = int(getattr(self._adapter.decoder.config, "max_position_embeddings", 0) or 0)
        return {
            request.sample.sample_id: (
                f"The prompt has {request.length} tokens and the answer may have {request.spec.max_new_tokens}, "
                f"but the model reads {limit}."
            )
            for request in requests
            if limit and request.length + request.spec.max_new_tokens > limit
        }

    def _generate_or_split(self, requests: list[Request]) -> list[Outcome]:
        try:
            return self._generate_batch(requests)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if len(requests) == 1:
            [request] = requests
            error = f"Memory ran out on this sample alone ({request.length} tokens)."
            return [Outcome(task=request.spec.name, sample_id=request.sample.sample_id, error=error)]
        half = (len(requests) + 1) // 2
        self._budget = Budget(rows=half, tokens=self._budget.tokens)
        self._phases.count("out of memory")
        return [*self._generate_or_split(requests[:half]), *self._generate_or_split(requests[half:])]

    def _generate_batch(self, requests: Sequence[Request]) -> list[Outcome]:
        rows = self._embed(requests)
        written = decode_greedily(self._adapter.decoder, rows, self._adapter.end_ids, self._phases)
        self._phases.count("prompt tokens", sum(request.length for request in requests))
        self._phases.count("output tokens", sum(len(ids) for ids in written))
        with self._phases.time("detokenise"):
            return [self._outcome(request, ids) for request, ids in zip(requests, written, strict=True)]

    def _embed(self, requests: Sequence[Request]) -> list[Row]:
        keys = [(request.source, image) for request in requests for image in request.prompt.images()]
        visual = self._vision.visual_tokens(keys, requests[0].spec.kind)
        rows = []
        for request in requests:
            parts = [
                self._adapter.embed_tokens(torch.tensor(segment.ids))
                if isinstance(segment, TextSegment)
                else visual[request.source, segment.image]
                for segment in request.prompt.segments
            ]
            rows.append(Row(embeddings=torch.cat(parts), max_new_tokens=request.spec.max_new_tokens))
        return rows

    def _outcome(self, request: Request, ids: list[int]) -> Outcome:
        ended = ids[-1] in self._adapter.end_ids
        generation = Generation(
            text=self._adapter.detokenise(ids[:-1] if ended else ids),
            stop="eos" if ended else "length",
            prompt_tokens=request.length,
            output_tokens=len(ids),
        )
        return Outcome(task=request.spec.name, sample_id=request.sample.sample_id, generation=generation)
