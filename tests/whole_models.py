"""A small decoder that also has a library of its own, which can be made to fail in the ways that real ones do."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from engine_helpers import END, Small
from PIL import Image

from medbench.adapters.base import TextSegment
from medbench.harness.engine.requests import Request
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


class SmallWithLibrary(Small):
    """Writes whole batches from the prompts of known requests.

    Attributes:
        batches: Sample ids of every batch that was asked for.
        most: Batches of more run out of memory.
        affected_by_others: Whether a batch of several changes what is written.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__()
        self._prompts = {request.sample.sample_id: request.prompt for request in requests}
        self.batches: list[list[str]] = []
        self.most = len(requests)
        self.affected_by_others = False

    @torch.inference_mode()
    def written_whole(
        self, asked: Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]], max_new_tokens: int
    ) -> Sequence[Sequence[int]] | None:
        self.batches.append([sample.sample_id for sample, _, _ in asked])
        if len(asked) > self.most:
            raise torch.OutOfMemoryError
        written = [self._written(*one, max_new_tokens) for one in asked]
        return [own[::-1] for own in written] if self.affected_by_others and len(asked) > 1 else written

    def _written(self, sample: Sample, spec: TaskSpec, images: Sequence[Image.Image], max_new_tokens: int) -> list[int]:
        pictures = iter(images)
        parts = [
            self._embeddings(segment.ids)
            if isinstance(segment, TextSegment)
            else self.project([self.pixels(next(pictures))], spec.kind)[0]
            for segment in self._prompts[sample.sample_id].segments
        ]
        embeddings = torch.cat(parts)[None]
        written = cast("Any", self.decoder).generate(
            inputs_embeds=embeddings, attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=END, pad_token_id=0,
        )  # fmt: skip
        ids: list[int] = written[0].tolist()
        return ids

    def _embeddings(self, ids: Sequence[int]) -> torch.Tensor:
        return Small.embed_tokens(self, torch.tensor(ids))


class Mistaken(Small):
    """Embeds a text otherwise when it is embedded with others, as the engine does."""

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return super().embed_tokens(ids) * (1 + len(ids) % 5)


class MistakenWithLibrary(SmallWithLibrary):
    """The same with a library that is right."""

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return super().embed_tokens(ids) * (1 + len(ids) % 5)
