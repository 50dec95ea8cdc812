"""One sample at a time through transformers' own `generate`: what the engine has to equal."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList

from medbench.adapters.base import Generation, LocalAdapter, RowStates, TextSegment
from medbench.adapters.guarding import one_sample
from medbench.adapters.plain_generation import Watch, forget_decoding
from medbench.harness.engine.requests import Request
from medbench.harness.engine.sampling import Row, outcome_of
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


def _written(adapter: LocalAdapter, request: Request) -> Sequence[int]:
    embeddings = _embeddings(adapter, request)
    decoding = request.decoding
    more: dict[str, RowStates] = {}
    if adapter.has_row_states:
        features = [_features(adapter, request, image) for image in request.prompt.images()]
        more["row_states"] = RowStates(states=(adapter.row_state(features, request.prompt, request.spec.kind),))
    watch = Watch()
    written = cast("Any", adapter.decoder).generate(
        inputs_embeds=embeddings,
        logits_processor=LogitsProcessorList([watch]),
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=sorted(decoding.end_ids) or None,
            pad_token_id=min(decoding.end_ids, default=0),
        ),
        **more,
    )
    ids: list[int] = watch.cut(written.tolist())[0]
    return ids


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
