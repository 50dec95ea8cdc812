"""The original RadFM's inputs and outputs, its checkpoint as the authors lay it out, and prompts of its ids."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fixture_root import copy_fixture, fixture_tensors, fixtures

from medbench.adapters.base import ImageSlot, LoadOptions, Prompt, TextSegment
from medbench.adapters.radfm.entry import ENTRY
from medbench.adapters.radfm.model import RadFMAdapter
from medbench.harness.engine.requests import Decoding, Request
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample

_UNSAID = {"hidden_act", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"}
SINGLE = ("case1_single_2d", "case2_two_3d_nonsquare", "case3_depth_floor", "case4_text_only")
LIMIT = 200
TOLERANCE = 2e-4
UPSTREAM_END = 1


@cache
def case(name: str) -> dict[str, torch.Tensor]:
    return fixture_tensors(f"radfm/{name}.safetensors")


@cache
def document(name: str) -> Any:  # noqa: ANN401 - a JSON document
    return json.loads((fixtures() / "radfm" / name).read_text(encoding="utf-8"))


@cache
def state() -> dict[str, torch.Tensor]:
    return fixture_tensors("radfm/state_dict.safetensors")


def write_checkpoint(folder: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Write what the authors publish, with the sizes of the tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state() if weights is None else weights, folder / "pytorch_model.bin")
    copy_fixture("tiny_llama_tokenizer.model", folder / "tokenizer.model")
    config = document("config.json")["config"]
    language = {name: size for name, size in config["llama"].items() if name not in _UNSAID}
    sizes = {"language_model": language, "vision": config["vision"], "perceiver": config["perceiver"]}
    (folder / "radfm.json").write_text(json.dumps(sizes), encoding="utf-8")
    return folder


def load(folder: Path, seed: int = 0, **arguments: str) -> RadFMAdapter:
    options = LoadOptions(checkpoint=folder, device="cpu", dtype="float32", seed=seed, arguments=arguments)
    adapter = ENTRY.load(options)
    assert isinstance(adapter, RadFMAdapter)
    return adapter


def prompt_of(ids: Sequence[int]) -> Prompt:
    """Return recorded ids as a prompt; the images are `0.png`, `1.png`, ..."""
    marks = document("config.json")["ids"]
    segments: list[TextSegment | ImageSlot] = []
    text: list[int] = []
    for token in ids:
        if token < marks["figure_open"]:
            text.append(token)
        elif token == marks["figure_open"]:
            segments.append(TextSegment(ids=tuple(text)))
            text = []
        elif token == marks["figure_close"]:
            number = sum(isinstance(segment, ImageSlot) for segment in segments)
            segments.append(ImageSlot(image=ImageRef(path=f"{number}.png"), tokens=marks["tokens_per_image"] + 2))
    return Prompt(segments=(*segments, TextSegment(ids=tuple(text))))


def embedded(adapter: RadFMAdapter, prompt: Prompt, volumes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the embeddings [L, D] that the adapter makes of a prompt with these volumes as its images."""
    visual = list(adapter.project(latents_of(adapter, volumes), "vqa")) if volumes else []
    parts = []
    for segment in prompt.segments:
        if isinstance(segment, ImageSlot):
            parts.append(visual.pop(0))
        elif segment.ids:
            parts.append(adapter.embed_tokens(torch.tensor(segment.ids)))
    return torch.cat(parts)


def latents_of(adapter: RadFMAdapter, volumes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the latents of recorded volumes [3, H, W, D], each by itself."""
    return [adapter.vision.latents(volume[None])[0] for volume in volumes]


def on_volumes(folder: Path, volumes: Sequence[torch.Tensor]) -> RadFMAdapter:
    """Return the shipped adapter, shown recorded volumes in the place of images whose red is their number."""
    adapter: Any = load(folder)
    adapter.encode_images = lambda pixels: latents_of(adapter, [volumes[int(one[0, 0, 0])] for one in pixels])
    shown: RadFMAdapter = adapter
    return shown


def request_of(name: str, ids: Sequence[int], first: int, folder: Path) -> Request:
    """Return recorded ids as a request whose images are numbered from `first`."""
    prompt = prompt_of(ids)
    segments = tuple(
        ImageSlot(image=ImageRef(path=f"{first + int(segment.image.path[0])}.png"), tokens=segment.tokens)
        if isinstance(segment, ImageSlot)
        else segment
        for segment in prompt.segments
    )
    prompt = Prompt(segments=segments)
    spec = get_task("slake-vqa")
    sample = Sample(sample_id=name, task=spec.name, split="test", images=prompt.images(), reference="")
    decoding = Decoding(max_new_tokens=LIMIT, end_ids=frozenset({UPSTREAM_END}))
    return Request(sample=sample, spec=spec, source=folder, prompt=prompt, length=prompt.length, decoding=decoding)


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=0)
