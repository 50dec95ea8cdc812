"""OpenFlamingo's inputs and outputs under Med-Flamingo's two pinned versions, and the checkpoint as it is published."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fixture_root import copy_fixture, fixture_tensors, fixtures
from PIL import Image

from medbench.adapters.base import Dtype, ImageSlot, LoadOptions, Prompt, TextSegment
from medbench.adapters.med_flamingo.entry import ENTRY
from medbench.adapters.med_flamingo.model import MedFlamingoAdapter
from medbench.harness.engine.requests import Decoding, Request
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample

RULES = ("previous", "next")
SINGLE = ("case1_one_image", "case2_two_images_text_tail", "case3_three_images_no_bos", "case4_text_only")
BATCH = ("case2_two_images_text_tail", "case1_one_image", "case4_text_only")
NEW_TOKENS = 24
VOCABULARY, IMAGE, PAD = 448, 449, 450
TOLERANCE = 2e-4


def root() -> Path:
    return fixtures() / "med_flamingo"


@cache
def case(name: str) -> dict[str, torch.Tensor]:
    return fixture_tensors(f"med_flamingo/{name}.safetensors")


@cache
def document(name: str) -> Any:  # noqa: ANN401 - a JSON document
    return json.loads((root() / name).read_text(encoding="utf-8"))


@cache
def trained() -> dict[str, torch.Tensor]:
    return fixture_tensors("med_flamingo/checkpoint.safetensors")


def write_checkpoint(folder: Path, weights: dict[str, torch.Tensor] | None = None, *, context: int = 512) -> Path:
    """Write model.pt as it is published beside LLaMA and CLIP as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(trained() if weights is None else weights, folder / "model.pt")
    for name, source in (("llama", "llama_base"), ("clip", "clip_vision_base")):
        (folder / name).mkdir()
        for file in ("config.json", "model.safetensors"):
            copy_fixture(f"med_flamingo/{source}/{file}", folder / name / file)
    copy_fixture("tiny_llama_tokenizer.model", folder / "llama" / "tokenizer.model")
    config = folder / "llama" / "config.json"
    values = {**json.loads(config.read_text(encoding="utf-8")), "max_position_embeddings": context}
    config.write_text(json.dumps(values), encoding="utf-8")
    return folder


def load(folder: Path, *, dtype: Dtype = "float32", **options: Any) -> MedFlamingoAdapter:
    """Load by the shipped entry; what is no field of `LoadOptions` is an argument of the model."""
    fields = {name: options.pop(name) for name in ("train_samples", "source_of") if name in options}
    adapter = ENTRY.load(LoadOptions(checkpoint=folder, device="cpu", dtype=dtype, arguments=options, **fields))
    assert isinstance(adapter, MedFlamingoAdapter)
    return adapter


def prompt_of(ids: Sequence[int], first: int = 0) -> Prompt:
    """Return recorded ids as a prompt; its images are `<first>.png` and those behind it."""
    segments: list[TextSegment | ImageSlot] = []
    text: list[int] = []
    for token in ids:
        text.append(token)
        if token == IMAGE:
            number = first + sum(isinstance(segment, ImageSlot) for segment in segments)
            segments += [TextSegment(ids=tuple(text)), ImageSlot(image=ImageRef(path=f"{number}.png"), tokens=0)]
            text = []
    return Prompt(segments=(*segments, TextSegment(ids=tuple(text))))


def request_of(name: str, prompt: Prompt, folder: Path, **decoding: Any) -> Request:
    spec = get_task("slake-vqa")
    sample = Sample(sample_id=name, task=spec.name, split="test", images=prompt.images(), reference="")
    settings = Decoding(**{"max_new_tokens": NEW_TOKENS, **decoding})
    return Request(sample=sample, spec=spec, source=folder, prompt=prompt, length=prompt.length, decoding=settings)


class OnPixels:
    """Shows an adapter recorded pixels in the place of pictures whose red is their number."""

    def __init__(self, pixels: Sequence[torch.Tensor]) -> None:
        self._pixels = pixels

    def __call__(self, image: Image.Image) -> torch.Tensor:
        red = image.getpixel((0, 0))
        assert isinstance(red, tuple)
        return self._pixels[int(red[0])]


def numbered_pictures(folder: Path, number: int) -> None:
    for place in range(number):
        Image.new("RGB", (2, 2), (place, 0, 0)).save(folder / f"{place}.png")


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=0)


def own_pixels(given: dict[str, torch.Tensor], row: int = 0) -> torch.Tensor:
    """Return the pixels [T, 3, S, S] of a recorded row."""
    return given["vision_x"][row, :, 0]


def sample_of(number: int, task: str = "slake-vqa", **inputs: str) -> Sample:
    given = inputs or {"question": f"What is in <image>picture {number}?"}
    images = (ImageRef(path=f"{number % 8}.png"),)
    return Sample(sample_id=f"q{number}", task=task, split="train", images=images, inputs=given, reference=f"a{number}")
