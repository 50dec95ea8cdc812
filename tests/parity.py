"""What parity tests of several model families share: embeddings, logits and ids that an adapter makes of a prompt."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from medbench.adapters.base import LocalAdapter, Prompt, TextSegment
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Decoding, Request
from medbench.harness.phases import Phases
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

NEW_TOKENS = 14


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.detach().float() - theirs.detach().float()).abs().max())


@torch.inference_mode()
def embeddings_of(adapter: LocalAdapter, prompt: Prompt, picture: Callable[[str], Image.Image]) -> torch.Tensor:
    """Return the embeddings [1, L, D] of a prompt whose images are pictures of the fixtures."""
    parts: list[torch.Tensor] = []
    for segment in prompt.segments:
        if isinstance(segment, TextSegment):
            parts.append(adapter.embed_tokens(torch.tensor(segment.ids)))
        else:
            pixels = adapter.pixels(picture(Path(segment.image.path).stem))
            parts += adapter.project(adapter.encode_images([pixels]), "vqa")
    return torch.cat(parts)[None]


@torch.inference_mode()
def logits_of(adapter: LocalAdapter, prompt: Prompt, picture: Callable[[str], Image.Image]) -> torch.Tensor:
    """Return the logits [L, V] of a prompt."""
    logits: torch.Tensor = adapter.decoder(inputs_embeds=embeddings_of(adapter, prompt, picture)).logits[0]
    return logits


def request_of(name: str, prompt: Prompt, spec: TaskSpec, source: Path, decoding: Decoding) -> Request:
    sample = Sample(sample_id=name, task=spec.name, split="test", images=prompt.images(), reference="")
    return Request(sample=sample, spec=spec, source=source, prompt=prompt, length=prompt.length, decoding=decoding)


def written(
    adapter: LocalAdapter, prompts: Mapping[str, Prompt], source: Path, spec: TaskSpec, *, rows: int = 8,
    continuous: bool = True, ends: frozenset[int] = frozenset(),
) -> dict[str, list[int]]:  # fmt: skip
    """Return the ids that the engine writes to each prompt."""
    decoding = Decoding(max_new_tokens=NEW_TOKENS, end_ids=adapter.end_ids | ends)
    requests = [request_of(name, prompt, spec, source, decoding) for name, prompt in prompts.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "detokenise", lambda ids: " ".join(map(str, ids)))
        engine = Engine(adapter, Budget(rows=rows, tokens=100_000), Phases(), continuous=continuous)
        outcomes = [outcome for batch in engine.generate(requests) for outcome in batch]
    texts = {outcome.sample_id: outcome.generation.text for outcome in outcomes if outcome.generation}
    return {name: [int(word) for word in texts[name].split()] for name in prompts}


class RecordedPieces:
    """A SentencePiece vocabulary that knows the recorded stretches of text, and nothing else."""

    def __init__(self, words: dict[str, tuple[int, ...]]) -> None:
        self._words = words

    def get_piece_size(self) -> int:
        return 32000

    def is_control(self, token: int) -> bool:
        return token in {1, 2}

    def is_unknown(self, token: int) -> bool:
        return token == 0

    def encode(self, text: str) -> tuple[int, ...]:
        return self._words[text]
