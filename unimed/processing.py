"""From pictures and instructions to the model's inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

from unimed.prompts import IMAGE_PLACEHOLDER

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def pixels_of(image: Image.Image, size: int) -> torch.Tensor:
    """Return normalised pixels [3, size, size], float32.

    As official for training and evaluation alike: convert to RGB, resize to a square with PIL's bicubic filter
    (the aspect ratio is not kept), scale to 0..1, normalise with CLIP's mean and standard deviation.
    """
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(square, dtype=np.float32) / 255.0
    normalised = (values - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


class UniMedProcessor(ProcessorMixin):
    """Tokenizer and image transform of Uni-Med in one object.

    Args:
        tokenizer: A fast tokenizer that knows `<ImageHere>` as one token.
        image_size: Side of the square image in pixels.
        visual_tokens: Visual tokens per image.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 - transformers' protocol
    tokenizer_class = "PreTrainedTokenizerFast"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 224,
        visual_tokens: int = 64,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.visual_tokens = visual_tokens
        super().__init__(tokenizer, **kwargs)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S] of one picture."""
        return pixels_of(image, self.image_size)

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of plain text; words that look like special tokens stay words."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def segment_ids(self, parts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each part of a prompt, the first one begun by BOS."""
        first, *others = (self.text_ids(part) for part in parts)
        return [[int(self.tokenizer.bos_token_id), *first], *others]

    def prompt_ids(self, parts: Sequence[str]) -> list[int]:
        """Return the ids of a whole prompt, with one placeholder id per visual token between its parts."""
        first, *others = self.segment_ids(parts)
        picture = [self.image_token_id] * self.visual_tokens
        return first + [item for segment in others for item in picture + segment]

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer, closed by EOS."""
        return [*self.text_ids(text), int(self.tokenizer.eos_token_id)]

    @property
    def image_token_id(self) -> int:
        """Id of the image placeholder."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER))

    def __call__(self, text: Sequence[str], images: Sequence[Image.Image] = (), **_: Any) -> BatchFeature:
        """Return left-padded `input_ids` and `attention_mask` [B, L], and `pixel_values` [I, 3, S, S].

        Args:
            text: Prompts with `<ImageHere>` where an image goes.
            images: The pictures, in the order of their placeholders.
        """
        rows = [self.prompt_ids(prompt.split(IMAGE_PLACEHOLDER)) for prompt in text]
        length = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        features: dict[str, torch.Tensor] = {
            "input_ids": torch.tensor([[pad] * (length - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
        }
        if images:
            features["pixel_values"] = torch.stack([self.pixels(image) for image in images])
        return BatchFeature(features)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer stored in `folder`."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer
