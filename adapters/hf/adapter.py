"""A vision-language model of transformers behind the adapter contract."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from inspect import signature
from itertools import groupby
from typing import Any, Literal

import torch
from PIL import Image
from transformers import GenerationConfig

from adapters.base import (
    LoadOptions,
    LocalAdapter,
    ModelCard,
    Pixels,
    Prompt,
    SizeOf,
)
from adapters.hf.entry import CARD, known
from adapters.hf.loading import Loaded, load_model
from adapters.hf.rendering import Renderer
from tasks.answers.box_space import BoxSpace
from tasks.foundation.errors import DataError, RunError, UsageError
from tasks.sample import Sample
from tasks.spec import Kind, TaskSpec

# What a prompt's tokens read besides those before them. What is not here reads nothing else.
_ATTENTION: Mapping[str, Literal["images", "prompt"]] = {
    "gemma3": "images", "paligemma": "prompt", "gemma4": "images", "gemma4_unified": "images",
}  # fmt: skip
_TOKENS = "tokens"


class HfAdapter(LocalAdapter):
    """A model whose visual tokens stand in its prompt where its processor wants them."""

    def __init__(self, loaded: Loaded, name: str, arguments: Mapping[str, str], space: BoxSpace) -> None:
        self._model = loaded.model
        self._processor = loaded.processor
        self._name = name
        self._space = space
        text = loaded.model.config.get_text_config(decoder=True)
        rope = getattr(text, "rope_parameters", None) or {}
        self._image_token_id = _image_token_id(loaded)
        self._images = _json_of("images", arguments["images"])
        self._renderer = Renderer(
            loaded.processor, self._image_token_id, in_grids="mrope_section" in rope, system=arguments["system"],
            chat=_json_of("chat", arguments["chat"]), images=self._images,
        )  # fmt: skip
        self.decoder = loaded.model
        self.end_ids = _end_ids(loaded)
        self.attention = _ATTENTION.get(loaded.model.config.model_type, "causal")
        self.shares_beginnings = self.attention != "prompt"
        self.weights_fingerprint = loaded.fingerprint
        self.device = str(loaded.model.device)
        self.dtype = str(loaded.model.dtype).removeprefix("torch.")

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        """What is known of this very model."""
        found = known(self._name)
        return replace(CARD, licence=found.licence or CARD.licence, trained_on=found.trained_on)

    @property
    def title(self) -> str:
        """The name of the repository or of the folder."""
        return self._name.rstrip("/").rpartition("/")[2] or self._name

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the question in the model's chat template, pictures first."""
        sizes = [size_of(image) for image in sample.images]
        return Prompt(segments=self._renderer.segments(self._question(sample, spec), sample.images, sizes))

    def _question(self, sample: Sample, spec: TaskSpec) -> str:
        box = ""
        if sample.box is not None and sample.image_size is not None:
            box = self._space.write(sample.box, sample.image_size)
        # Marks in a dataset's text would be taken for pictures.
        return spec.instruction(sample, box=box).replace("<image>", "").strip()

    def pixels(self, image: Image.Image) -> Pixels:
        """Return what the processor makes of one picture, and the number of its visual tokens."""
        inputs = self._renderer.inputs([self._renderer.text("", 1)], [[image]])
        tokens = int((inputs["input_ids"] == self._image_token_id).sum())
        return {_TOKENS: tokens, **{name: inputs[name] for name in self._of_images if name in inputs}}

    @cached_property
    def _of_images(self) -> tuple[str, ...]:
        """Names of the inputs that `get_image_features` takes."""
        method = getattr(self._model, "get_image_features", None)
        return () if method is None else tuple(signature(method).parameters)

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return visual tokens [V, D] of pictures; those of like shapes are computed together."""
        features: list[torch.Tensor] = []
        for _, alike in groupby(pixels, key=_shape_of):
            features += self._encode(list(alike))
        return features

    def _encode(self, pixels: Sequence[Pixels]) -> list[torch.Tensor]:
        names = [name for name in pixels[0] if name != _TOKENS]
        together = {name: torch.cat([one[name] for one in pixels]).to(self._model.device) for name in names}
        output = self._model.get_image_features(**together, return_dict=True)
        found = getattr(output, "pooler_output", output)
        parts = [found] if isinstance(found, torch.Tensor) else list(found)
        lines = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        counts = [one[_TOKENS] for one in pixels]
        if len(lines) != sum(counts):
            raise RunError(
                f"{self.title} makes {len(lines)} visual tokens where its processor wrote {sum(counts)}.",
                "The processor's configuration does not fit the model (patch_size, num_additional_image_tokens).",
            )
        return list(lines.split(counts))

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return the features: they are visual tokens already."""
        del kind
        return features

    @torch.inference_mode()
    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings [L, D]."""
        embeddings: torch.Tensor = self._model.get_input_embeddings()(ids.to(self._model.device))
        return embeddings

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return str(self._processor.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.inference_mode()
    def written_whole(
        self, asked: Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]], max_new_tokens: int
    ) -> list[list[int]]:
        """Return the ids that `generate` writes to a batch, padded on the left, greedily; ends and what follows too."""
        texts = [self._renderer.text(self._question(sample, spec), len(images)) for sample, spec, images in asked]
        inputs = self._renderer.inputs(texts, [images for _, _, images in asked])
        moved = {name: value.to(self._model.device) for name, value in inputs.items()}
        written = self._model.generate(
            **moved,
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(self.end_ids) or None,
                pad_token_id=self._processor.tokenizer.pad_token_id,
            ),
        )  # fmt: skip
        ids: list[list[int]] = written[:, inputs["input_ids"].shape[1] :].tolist()
        return ids


def load_adapter(options: LoadOptions) -> HfAdapter:
    """Load the model that the variant names."""
    from tasks.answers.box_space import BOX_SPACES

    arguments = options.arguments
    loaded = load_model(
        options.variant, revision=arguments["revision"], device=options.device, dtype=options.dtype
    )  # fmt: skip
    return HfAdapter(loaded, options.variant, arguments, BOX_SPACES[arguments["boxes"]])


def _shape_of(pixels: Pixels) -> tuple[object, ...]:
    """Return what must be equal for pictures to be stacked along the first dimension."""
    return tuple((name, value.shape[1:]) for name, value in pixels.items() if name != _TOKENS)


def _image_token_id(loaded: Loaded) -> int:
    config = loaded.model.config
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise DataError(f"{config.model_type} names no token for images.", "Use the model behind a server: openai:...")


def _end_ids(loaded: Loaded) -> frozenset[int]:
    """Return the ids that end an answer: those of the generation configuration, and the tokenizer's."""
    named = loaded.model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(int(one) for one in (*several, loaded.processor.tokenizer.eos_token_id) if one is not None)


def _json_of(name: str, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--model-arg {name}={text} is no JSON: {error}", 'Write {"KEY": VALUE}.') from error
    if not isinstance(values, dict):
        raise UsageError(f"--model-arg {name}={text} is no table.", 'Write {"KEY": VALUE}.')
    return values
