"""The engine and its peers: transformers' `generate` one by one, as the official loop, and sorted by length."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from medbench.adapters.base import LocalAdapter, TextSegment
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine, GenerationEngine
from medbench.harness.engine.requests import Request
from medbench.harness.engine.vllm import VllmEngine
from medbench.harness.phases import Phases
from medbench.tasks.images import open_image

OFFICIAL_BATCH = 40
Answers = dict[str, list[int]]


def engine_answers(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget, phases: Phases) -> Answers:
    """Answer them with the engine; the adapter's texts are ids."""
    return _answers_of(Engine(adapter, budget, phases), requests)


def vllm_answers(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget, llm: object) -> Answers:
    """Answer them with a vLLM that runs in this process, and knows nothing of what it was asked before."""
    cast("Any", llm).reset_prefix_cache()
    return _answers_of(VllmEngine(adapter, budget, Phases(), llm), requests)


def _answers_of(engine: GenerationEngine, requests: Sequence[Request]) -> Answers:
    return {
        outcome.sample_id: [int(word) for word in outcome.generation.text.split()] if outcome.generation else []
        for outcomes in engine.generate(requests)
        for outcome in outcomes
    }


def one_by_one(adapter: LocalAdapter, requests: Sequence[Request]) -> Answers:
    """Answer each request alone."""
    return _in_batches(adapter, [[request] for request in requests])


def official_loop(adapter: LocalAdapter, requests: Sequence[Request]) -> Answers:
    """Answer batches of 40 in file order; every question encodes its image, every batch runs to its longest row."""
    return _in_batches(adapter, [batch for of_task in _by_task(requests) for batch in _forties(of_task)])


def sorted_batches(adapter: LocalAdapter, requests: Sequence[Request]) -> Answers:
    """The same with each dataset sorted by the length of its prompts."""
    tasks = [sorted(of_task, key=lambda request: -request.length) for of_task in _by_task(requests)]
    return _in_batches(adapter, [batch for of_task in tasks for batch in _forties(of_task)])


def _by_task(requests: Sequence[Request]) -> list[list[Request]]:
    tasks: dict[str, list[Request]] = {}
    for request in requests:
        tasks.setdefault(request.spec.name, []).append(request)
    return list(tasks.values())


def _forties(requests: Sequence[Request]) -> list[Sequence[Request]]:
    return [requests[start : start + OFFICIAL_BATCH] for start in range(0, len(requests), OFFICIAL_BATCH)]


@torch.inference_mode()
def _in_batches(adapter: LocalAdapter, batches: Sequence[Sequence[Request]]) -> Answers:
    answers: Answers = {}
    for batch in batches:
        padded, mask = _left_padded([own.to(adapter.decoder.dtype) for own in _embeddings(adapter, batch)])
        longest = max(request.decoding.max_new_tokens for request in batch)
        written = cast("Any", adapter.decoder).generate(
            inputs_embeds=padded, attention_mask=mask, do_sample=False, max_new_tokens=longest,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        for request, ids in zip(batch, written.tolist(), strict=True):
            answers[request.sample.sample_id] = ids[: request.decoding.max_new_tokens]
    return answers


def _embeddings(adapter: LocalAdapter, batch: Sequence[Request]) -> list[torch.Tensor]:
    pixels = [adapter.pixels(open_image(one.source, image)) for one in batch for image in one.prompt.images()]
    visual = iter(adapter.project(adapter.encode_images(pixels), batch[0].spec.kind) if pixels else ())
    return [
        torch.cat(
            [
                adapter.embed_tokens(torch.tensor(segment.ids)) if isinstance(segment, TextSegment) else next(visual)
                for segment in request.prompt.segments
            ]
        )
        for request in batch
    ]


def _left_padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    padded = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=padded.device)
    for number, row in enumerate(rows):
        padded[number, longest - len(row) :] = row
        mask[number, longest - len(row) :] = 1
    return padded, mask
