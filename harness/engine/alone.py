"""One sample at a time through transformers' own `generate`: what the engine has to equal."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import torch

from medbench.adapters.base import Generation, LocalAdapter, TextSegment
from medbench.adapters.guarding import one_sample
from medbench.adapters.plain_generation import forget_decoding
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import GREEDY, Name, Request
from medbench.harness.engine.sampling import Row, outcome_of
from medbench.harness.engine.static import written_by_library
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef


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
    row.take(_written(adapter, request) if whole is None else whole[0], adapter.detokenise)
    outcome = outcome_of(row, adapter)
    if outcome.generation is None:
        raise NoNumbersError(outcome.error)
    return outcome.generation


def answers(engine: Engine, requests: Iterable[Request]) -> dict[Name, Generation]:
    """Return what an engine answers; what got no answer is left out."""
    outcomes = (outcome for some in engine.generate(requests) for outcome in some)
    return {(one.task, one.sample_id): one.generation for one in outcomes if one.generation is not None}


def _written(adapter: LocalAdapter, request: Request) -> Sequence[int]:
    embeddings = _embeddings(adapter, request)
    states = None
    if adapter.has_row_states:
        features = [_features(adapter, request, image) for image in request.prompt.images()]
        states = [adapter.row_state(features, request.prompt, request.spec.kind)]
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    greedily = replace(request.decoding, **asdict(GREEDY))
    return written_by_library(adapter.decoder, embeddings, mask, greedily, states)[0]


def _embeddings(adapter: LocalAdapter, request: Request) -> torch.Tensor:
    """Return the embeddings [1, L, D] of a prompt."""
    parts = []
    for segment in request.prompt.segments:
        if isinstance(segment, TextSegment):
            parts.append(adapter.embed_tokens(torch.tensor(segment.ids, dtype=torch.long)))
        elif segment.tokens:
            [tokens] = adapter.project([_features(adapter, request, segment.image)], request.spec.kind)
            parts.append(tokens[segment.first : segment.first + segment.tokens])
    return torch.cat(parts)[None].to(adapter.decoder.dtype)


def _features(adapter: LocalAdapter, request: Request, image: ImageRef) -> torch.Tensor:
    picture = open_image(request.source, image)
    with one_sample(adapter, f"pixels() of {image.path}"):
        pixels = adapter.pixels(picture)
    return adapter.encode_images([pixels])[0]
