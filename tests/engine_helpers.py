"""Small decoders of several families behind the adapter contract, and requests of all shapes."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from medbench.adapters.base import ImageSlot, LocalAdapter, ModelCard, Pixels, Prompt, SizeOf, TextSegment
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Decoding, Outcome, Request, SharedPrefix
from medbench.harness.phases import Phases
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec

VOCABULARY = 96
WIDTH = 32
IMAGE_TOKENS = 6
TASKS = ("slake-vqa", "mimic-cxr", "sa-med2d-rec", "medqa")
END = 2
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 9},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 7, "sliding_window_pattern": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 7, "attn_implementation": "eager"},
    "phi3": {"num_key_value_heads": 4, "pad_token_id": 0},
}


class Small(LocalAdapter):
    """A random decoder of a family; a picture is six tokens of its mean colour, told apart by the kind of task."""

    end_ids = frozenset({END})
    weights_fingerprint = "random"
    exclusive = True
    card = ModelCard(name="small", title="Small", kinds=frozenset({"vqa"}), weights="random", licence="Apache-2.0")

    def __init__(self, family: str = "llama", **settings: Any) -> None:
        torch.manual_seed(5)
        values = {
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "initializer_range": 0.4, "max_position_embeddings": 512, "eos_token_id": END,
            "bos_token_id": 1, "pad_token_id": 0, **FAMILIES.get(family, {}), **settings,
        }  # fmt: skip
        kernel = values.pop("attn_implementation", "sdpa")
        config = AutoConfig.for_model(family, **values)
        self.decoder = cast("Any", AutoModelForCausalLM).from_config(config, attn_implementation=kernel)
        self.decoder.train(mode=False)
        self._eyes = torch.randn(IMAGE_TOKENS, 3, WIDTH)

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        raise NotImplementedError

    def pixels(self, image: "Image.Image") -> torch.Tensor:
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0))) / 255.0

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        return list(pixels)

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        return list(torch.einsum("bc,tcd->btd", torch.stack(list(features)), self._eyes) * (1 + len(kind)))

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.decoder.get_input_embeddings()(ids))

    def detokenise(self, ids: Sequence[int]) -> str:
        return "".join(chr(33 + token) for token in ids)


def pictures(folder: Path, number: int) -> None:
    """Write pictures `0.png`, `1.png`, ..."""
    for place in range(number):
        colour = (37 * place % 256, 255 - 50 * place % 256, 91 * place % 256)
        Image.new("RGB", (16, 16), colour).save(folder / f"{place}.png")


def make_requests(folder: Path, number: int, seed: int, **decoding: Any) -> list[Request]:
    """Return requests of several tasks about four pictures, some about two of them, some about none."""
    draw = random.Random(seed)
    requests = []
    for place in range(number):
        spec = get_task(draw.choice(TASKS))
        images = () if spec.kind == "qa" else tuple(
            ImageRef(path=f"{draw.randrange(4)}.png") for _ in range(draw.choice((1, 1, 1, 2)))
        )  # fmt: skip
        template = tuple(random.Random(spec.name).randrange(3, VOCABULARY) for _ in range(5))
        question = tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, 12)))
        slots = tuple(ImageSlot(image=image, tokens=IMAGE_TOKENS) for image in images)
        prompt = Prompt(
            segments=(TextSegment(ids=(1, *template[:2])), *slots, TextSegment(ids=template[2:] + question))
        )
        sample = Sample(sample_id=f"s{place:03d}", task=spec.name, split="test", images=images, reference="")
        longest = draw.randint(1, 14)
        settings = {"max_new_tokens": longest, "end_ids": frozenset({END}), **decoding}
        requests.append(
            Request(
                sample=sample, spec=spec, source=folder, prompt=prompt,
                length=prompt.length, decoding=Decoding(**settings),
            )
        )  # fmt: skip
    return requests


def prefix_of(length: int) -> SharedPrefix:
    """Return a prefix of so many tokens, whatever they are."""
    return SharedPrefix(place=(Path(), "vqa"), segments=(), length=length)


def answer(
    adapter: LocalAdapter, requests: Sequence[Request], budget: Budget, phases: Phases | None = None, **options: Any
) -> dict[str, Outcome]:
    """Return outcomes by sample id."""
    engine = Engine(adapter, budget, phases or Phases(), **options)
    outcomes = [outcome for some in engine.generate(requests) for outcome in some]
    assert len({outcome.sample_id for outcome in outcomes}) == len(outcomes)
    return {outcome.sample_id: outcome for outcome in outcomes}


@torch.inference_mode()
def generate_alone(adapter: Small, request: Request, *, forever: bool = False, **settings: Any) -> str:
    """Return what transformers' own `generate` writes to one request."""
    parts = []
    for segment in request.prompt.segments:
        if isinstance(segment, TextSegment):
            parts.append(adapter.embed_tokens(torch.tensor(segment.ids)))
        else:
            with Image.open(request.source / segment.image.path) as image:
                pixels = adapter.pixels(image)
            parts.append(adapter.project(adapter.encode_images([pixels]), request.spec.kind)[0])
    embeddings = torch.cat(parts)[None]
    written = cast("Any", adapter.decoder).generate(
        inputs_embeds=embeddings, attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long), do_sample=False,
        max_new_tokens=request.decoding.max_new_tokens, eos_token_id=None if forever else END, pad_token_id=0,
        **settings,
    )[0].tolist()  # fmt: skip
    ended = written[-1] == END and not forever
    return adapter.detokenise(written[:-1] if ended else written)


def texts(outcomes: dict[str, Outcome]) -> dict[str, str]:
    """Return the text of every answer."""
    return {key: outcome.generation.text for key, outcome in outcomes.items() if outcome.generation is not None}
