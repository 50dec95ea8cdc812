"""A vision-language model of transformers behind the adapter contract, and whether the engine may drive it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cached_property
from inspect import signature
from itertools import groupby
from typing import Any, Literal

import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessorList

from medbench.adapters.base import LoadOptions, LocalAdapter, ModelCard, Pixels, Prompt, SizeOf
from medbench.adapters.hf.entry import CARD, known, short_name
from medbench.adapters.hf.loading import Loaded, load_model
from medbench.adapters.hf.processing import ChatTemplate, dropped_ids, kept_marks
from medbench.adapters.hf.rendering import Renderer
from medbench.adapters.plain_generation import Watch
from medbench.adapters.wording import question_of
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

TAKEN_APART: Mapping[str, Literal["causal", "images", "prompt"]] = {
    "llava": "causal",
    "llava_next": "causal",
    "gemma3": "images",
    "paligemma": "prompt",
    "glm4v": "causal",
    "qwen2_vl": "causal",
    "qwen2_5_vl": "causal",
    "idefics2": "causal",
    "idefics3": "causal",
    "internvl": "causal",
}
"""Families that the engine drives, with what the tokens of a prompt read besides those before them.

Each is here because a test shows that the engine writes what its own library writes (`tests/tiny_vlms.py`). The
self-test before a run is no substitute: two short answers of a trained model may be equal though its deeper layers
missed the image, and in 16 bits answers may differ though nothing is wrong.
"""
# What a decoder takes besides embeddings without knowing more of a token than they say.
_PLAIN_INPUTS = frozenset({
    "self", "input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache",
    "cache_position", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "labels", "args",
    "kwargs",
})  # fmt: skip
_TOKENS = "tokens"
# Two names of the same choice of an image processor.
_SCALED_WITHIN = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


class HfAdapter(LocalAdapter):
    """A model whose visual tokens stand in its prompt where its processor wants them; or one that is left whole."""

    def __init__(self, loaded: Loaded, name: str, arguments: Mapping[str, str], space: BoxSpace) -> None:
        config, processor = loaded.model.config, loaded.processor
        self._model = loaded.model
        self._processor = processor
        self._name = name
        self._space = space
        self._known = known(name, config.model_type)
        rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
        self._image_token_id = _image_token_id(loaded)
        options = _json_of("images", arguments["images"])
        template = ChatTemplate(
            processor, config.model_type, system=arguments["system"],
            chat=_json_of("chat", arguments["chat"]), today=_day_of(arguments["date"]),
        )  # fmt: skip
        self._renderer = Renderer(
            processor, self._image_token_id, in_grids="mrope_section" in rope, template=template, options=options,
        )  # fmt: skip
        self._dropped = dropped_ids(processor.tokenizer)
        self.decoder = loaded.model
        self.end_ids = _end_ids(loaded)
        self.only_whole = why_left_whole(config.model_type, type(loaded.model.get_decoder()))
        self.attention = TAKEN_APART.get(config.model_type, "causal")
        self.shares_prefixes = self.attention != "prompt"
        scaling = _other_scaling(space, processor.image_processor, options)
        self.notices = (*loaded.notices, *template.notices, *scaling)
        self.weights_fingerprint = loaded.fingerprint
        self.made_of = {**loaded.made_of, **kept_marks(processor.tokenizer)}
        self.device = str(loaded.model.device)
        self.dtype = str(loaded.model.dtype).removeprefix("torch.")

    @cached_property
    def card(self) -> ModelCard:  # type: ignore[override]
        """What is known of this very model."""
        found = self._known
        kinds = CARD.kinds if self._renderer.takes_text_alone() else CARD.kinds - {"qa"}
        return replace(CARD, kinds=kinds, licence=found.licence or CARD.licence, trained_on=found.trained_on)

    @property
    def title(self) -> str:
        """The name of the repository or of the folder."""
        return short_name(self._name)

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the question in the model's chat template, images first."""
        sizes = [size_of(image) for image in sample.images]
        write = self._renderer.whole if self.only_whole else self._renderer.segments
        return Prompt(segments=write(self._question(sample, spec), sample.images, sizes))

    def _question(self, sample: Sample, spec: TaskSpec) -> str:
        found = self._known
        return question_of(sample, spec, self._space, find=found.find if self._space.name == found.boxes else "")

    def pixels(self, image: Image.Image) -> Pixels:
        """Return what the processor makes of one image, and the number of its visual tokens."""
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
        """Return visual tokens [V, D] of images; those of like shapes are computed together."""

        def shapes(one: Pixels) -> list[tuple[str, torch.Size]]:
            return [(name, value.shape[1:]) for name, value in one.items() if name != _TOKENS]

        features: list[torch.Tensor] = []
        for _, alike in groupby(pixels, key=shapes):
            features += self._encode(list(alike))
        return features

    def _encode(self, pixels: Sequence[Pixels]) -> list[torch.Tensor]:
        names = [name for name in pixels[0] if name != _TOKENS]
        together = self._moved({name: torch.cat([one[name] for one in pixels]) for name in names})
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

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens, but for those that set thoughts apart."""
        kept = [one for one in ids if one not in (self._dropped or ())]
        return str(self._processor.tokenizer.decode(kept, skip_special_tokens=self._dropped is None))

    @torch.inference_mode()
    def written_whole(
        self, asked: Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]], max_new_tokens: int
    ) -> list[list[int]]:
        """Return the ids that `generate` writes to a batch, padded on the left, greedily; ends and what follows too.

        Questions with as many images make batches of their own: some processors mix no others, and where a decoder
        reads images by cross-attention, those that fill up a row would be read by another row's first tokens.
        """
        written: dict[int, list[int]] = {}
        for count in {len(images) for _, _, images in asked}:
            alike = [index for index, (_, _, images) in enumerate(asked) if len(images) == count]
            written |= zip(alike, self._write([asked[index] for index in alike], max_new_tokens), strict=True)
        return [written[index] for index in range(len(asked))]

    def _write(
        self, asked: Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]], max_new_tokens: int
    ) -> list[list[int]]:
        texts = [self._renderer.text(self._question(sample, spec), len(images)) for sample, spec, images in asked]
        inputs = self._moved(self._renderer.inputs(texts, [images for _, _, images in asked]))
        watch = Watch()
        written = self._model.generate(
            **inputs,
            logits_processor=LogitsProcessorList([watch]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(self.end_ids) or None,
                pad_token_id=self._processor.tokenizer.pad_token_id,
            ),
        )  # fmt: skip
        prompt = inputs["input_ids"]
        # Some models return the prompt too, some the answer alone.
        start = prompt.shape[1] if torch.equal(written[:, : prompt.shape[1]], prompt) else 0
        return watch.cut(written[:, start:].tolist())

    def _moved(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return inputs where the model is, floating ones in its type."""
        device, dtype = self._model.device, self._model.dtype
        return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def why_left_whole(family: str, decoder: type[Any]) -> str:
    """Return why a model is answered by its own library alone; empty if the engine may drive its decoder.

    Inputs that no plain decoder has are features for deeper layers, embeddings of every layer, what is read by
    cross-attention, or which experts an image goes to: a decoder that is given none answers all the same, wrongly.
    """
    beside = [name for name in signature(decoder.forward).parameters if name not in _PLAIN_INPUTS]
    if beside:
        return f"its decoder reads {' and '.join(beside)} besides embeddings"
    if family not in TAKEN_APART:
        return f"no test has shown yet that {family} can be taken apart from its vision"
    return ""


def load_adapter(options: LoadOptions) -> HfAdapter:
    """Load the model that the variant names."""
    arguments = options.arguments
    loaded = load_model(options.variant, revision=arguments["revision"], device=options.device, dtype=options.dtype)
    return HfAdapter(loaded, options.variant, arguments, BOX_SPACES[arguments["boxes"]])


def _other_scaling(space: BoxSpace, scaler: Any, images: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ANN401 - any
    """Return a notice if boxes are read in pixels of scaled pictures and the processor scales them otherwise."""
    if space.scaled_pixels is None:
        return ()
    size = {**dict(getattr(scaler, "size", None) or {}), **images.get("size", {})}
    fewest, most = (images.get(old, size.get(new)) for old, new in _SCALED_WITHIN.items())
    square = getattr(scaler, "patch_size", 0) * getattr(scaler, "merge_size", 0)
    if (fewest, most) == space.scaled_pixels and square == space.multiple:
        return ()
    notice = (
        f"Boxes are read as {space.name}: in pictures scaled to whole squares of {space.multiple} pixels and within "
        f"{space.scaled_pixels} pixels. This processor scales to squares of {square} and within ({fewest}, {most}), so "
        "boxes are read wrongly in pictures that come out otherwise."
    )
    return (notice,)


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


def _day_of(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--model-arg date={text} is no date: {error}", "Write YYYY-MM-DD.") from error


def _json_of(name: str, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--model-arg {name}={text} is no JSON: {error}", 'Write {"KEY": VALUE}.') from error
    if not isinstance(values, dict):
        raise UsageError(f"--model-arg {name}={text} is no table.", 'Write {"KEY": VALUE}.')
    return values
