"""From images and instructions to the model's inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from medbench.tasks.spec import Kind
from medbench.unimed.configuration import CLIP_MEAN, CLIP_STD, CONNECTOR_TASKS, Scale, UniMedConfig
from medbench.unimed.prompts import CONNECTOR_TASK, IMAGE_PLACEHOLDER, PromptForm, PromptStyle, WrappedPrompt, wrap

CLIP_SCALE: Scale = (CLIP_MEAN, CLIP_STD)


def pixels_of(image: Image.Image, size: int, scale: Scale = CLIP_SCALE) -> torch.Tensor:
    """Return normalised pixels [3, size, size], float32, as official for training and evaluation alike.

    RGB, resized to a square by PIL's bicubic filter, scaled to 0..1, normalised by mean and deviation.
    """
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(square, dtype=np.float32) / 255.0
    normalised = (values - np.asarray(scale[0], np.float32)) / np.asarray(scale[1], np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


class UniMedProcessor(ProcessorMixin):
    """Tokenizer, image transform and prompts of Uni-Med in one object."""

    attributes = ["tokenizer"]  # noqa: RUF012 - transformers' protocol
    tokenizer_class = "PreTrainedTokenizerFast"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, image_size: int = 224, visual_tokens: int = 64,
        prompt_style: PromptStyle = "clean", text_identifiers: bool = True, pixel_scale: Scale = CLIP_SCALE,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        self.image_size, self.visual_tokens = image_size, visual_tokens
        self.prompt_style: PromptStyle = prompt_style
        self.text_identifiers, self.pixel_scale = text_identifiers, pixel_scale
        super().__init__(tokenizer, **kwargs)

    @classmethod
    def of_model(cls, tokenizer: PreTrainedTokenizerBase, config: UniMedConfig) -> "UniMedProcessor":
        """Return the processor that belongs to a model's configuration."""
        return cls(
            tokenizer, image_size=config.image_size, visual_tokens=config.visual_tokens,
            prompt_style=config.prompt_style, text_identifiers=config.text_identifiers, pixel_scale=config.pixel_scale,
        )  # fmt: skip

    @property
    def form(self) -> PromptForm:
        """How the model reads its instructions."""
        return PromptForm(style=self.prompt_style, identifiers=self.text_identifiers)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S] of one image."""
        return pixels_of(image, self.image_size, self.pixel_scale)

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of plain text; words that look like special tokens stay words."""
        # The backend is asked directly, since transformers' own call sets it up anew each time: two threads that
        # tokenise at once would get in each other's way.
        backend = self.tokenizer.backend_tokenizer
        if not backend.encode_special_tokens:
            backend.encode_special_tokens = True
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def segment_ids(self, prompt: WrappedPrompt) -> list[list[int]]:
        """Return the ids of each part of a prompt, the first one begun by BOS."""
        first, *others = (self.text_ids(part) for part in prompt.parts)
        return [[int(self.tokenizer.bos_token_id)] * prompt.starts + first, *others]

    def prompt_ids(self, prompt: WrappedPrompt) -> list[int]:
        """Return the ids of a whole prompt, with one placeholder id per visual token between its parts."""
        first, *others = self.segment_ids(prompt)
        image = [self.image_token_id] * self.visual_tokens
        return first + [item for segment in others for item in image + segment]

    def answer_ids(self, text: str, limit: int | None = None) -> list[int]:
        """Return the ids of an answer, closed by EOS and cut to `limit` as the official code does: EOS goes first."""
        return [*self.text_ids(text), int(self.tokenizer.eos_token_id)][:limit]

    @property
    def image_token_id(self) -> int:
        """Id of the image placeholder."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER))

    def __call__(self, text: Sequence[str], images: Sequence[Image.Image] = (), **_: Any) -> BatchFeature:
        """Return left-padded `input_ids` and `attention_mask` [B, L], and `pixel_values` [I, 3, S, S].

        The texts are wrapped prompts with `<ImageHere>` where an image goes, see `instruct`; images in that order.
        """
        return self._padded([WrappedPrompt(parts=tuple(prompt.split(IMAGE_PLACEHOLDER))) for prompt in text], images)

    def instruct(self, kind: Kind, instructions: Sequence[str], images: Sequence[Image.Image] = ()) -> BatchFeature:
        """Return the inputs of `generate` for instructions of a kind, without identifier and tags; `task_ids` included.

        ValueError if there is not one image per row, or one where the kind is `qa`.
        """
        if len(images) != (0 if kind == "qa" else len(instructions)):
            raise ValueError(f"{len(instructions)} instructions of kind {kind!r} came with {len(images)} images.")
        prompts = [wrap(kind, text, images=int(kind != "qa"), form=self.form) for text in instructions]
        features = self._padded(prompts, images)
        if images:
            features["task_ids"] = torch.full((len(images),), CONNECTOR_TASKS.index(CONNECTOR_TASK[kind]))
        return features

    def _padded(self, prompts: Sequence[WrappedPrompt], images: Sequence[Image.Image]) -> BatchFeature:
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        length, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        features: dict[str, torch.Tensor] = {
            "input_ids": torch.tensor([[pad] * (length - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
        }
        if images:
            features["pixel_values"] = torch.stack([self.pixels(image) for image in images])
        return BatchFeature(features)
