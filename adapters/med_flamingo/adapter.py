"""Med-Flamingo behind the adapter contract: prompts without visual tokens, and images by cross-attention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, cast

import torch
from PIL import Image

from medbench.adapters.base import ImageSlot, LocalAdapter, ModelCard, Pixels, Prompt, SizeOf, TextSegment
from medbench.adapters.med_flamingo.decoder import MedFlamingoLlama
from medbench.adapters.med_flamingo.examples import Example, ExampleShelf, ExampleSource
from medbench.adapters.med_flamingo.loading import LoadedMedFlamingo
from medbench.adapters.med_flamingo.looking import Media, MediaRule, seen_images
from medbench.adapters.med_flamingo.pictures import clip_pixels
from medbench.adapters.med_flamingo.prompts import (
    LONGEST_VQA_ANSWER,
    NAMES,
    Mark,
    Part,
    Words,
    example_parts,
    prompt_parts,
    question_of,
    stops_of,
)
from medbench.tasks.foundation.console import say
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.tokens import EOS_ID

_ROOM = 10
"""Examples of the longest allowed length that would fill the context: six of them, question and answer fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt(Prompt):
    """A prompt that begins with examples. No slots stand for their images, which are encoded once for all prompts.

    Attributes:
        examples_of: Name of the task whose examples these are.
    """

    examples_of: str


class MedFlamingoAdapter(LocalAdapter):
    """Med-Flamingo: examples and a question in one line, of which each text sees one image.

    Args:
        card: What the model is.
        loaded: The model, its tokenizer and its identity.
        media_rule: Which image a text sees.
        bos_id: Id that begins a prompt.
        examples: Where examples come from.
    """

    end_ids = frozenset({EOS_ID})
    has_row_states = True

    def __init__(
        self, card: ModelCard, loaded: LoadedMedFlamingo, *, media_rule: MediaRule, bos_id: int, examples: ExampleSource
    ) -> None:
        self.card = card
        self.decoder: MedFlamingoLlama = loaded.decoder
        self._vision = loaded.vision
        self._tokenizer = loaded.tokenizer
        self._media_rule = media_rule
        self._bos_id = bos_id
        self._vocabulary = int(loaded.decoder.config.vocab_size)
        self._side = int(cast("int", loaded.vision.clip.config.image_size))
        self.device = str(loaded.decoder.device)
        self.dtype = str(loaded.decoder.dtype).removeprefix("torch.")
        self.weights_fingerprint = loaded.fingerprint
        self.notices = loaded.notices
        self._examples = ExampleShelf(examples, self._fits)
        self._shown: dict[str, tuple[torch.Tensor, ...]] = {}

    def expect(self, specs: Sequence[TaskSpec]) -> None:
        """Choose the examples of tasks and say which they are.

        Raises:
            DataError: If six are insisted on and a train split does not have them.
        """
        for spec in specs:
            self._examples_of(spec)

    def _examples_of(self, spec: TaskSpec) -> tuple[Example, ...]:
        if spec.name not in self._examples:
            notice = self._examples.notice(spec)
            self.notices = (*self.notices, notice)
            say(notice)
        return self._examples.of(spec)

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return examples and the question; each of its images has a slot of no tokens behind its `<image>`."""
        del size_of
        examples = [example.words for example in self._examples_of(spec)]
        parts = prompt_parts(question_of(sample, spec), len(sample.images), examples)
        shown = sum(example.images for example in examples)
        segments = tuple(self._segments(parts, [None] * shown + list(sample.images)))
        return ShownPrompt(segments=segments, examples_of=spec.name)

    def _segments(self, parts: Sequence[Part], images: Sequence[ImageRef | None]) -> Iterator[TextSegment | ImageSlot]:
        """Yield the ids, cut behind every `<image>` that has a slot."""
        waiting = iter(images)
        ids: list[int] = [self._bos_id]
        for part in self._tokenizer.encode(parts):
            ids += [self._id_of(part)] if isinstance(part, Mark) else part
            image = next(waiting) if part is Mark.IMAGE else None
            if image is not None:
                yield TextSegment(ids=tuple(ids))
                yield ImageSlot(image=image, tokens=0)
                ids = []
        yield TextSegment(ids=tuple(ids))

    def _id_of(self, mark: Mark) -> int:
        return self._vocabulary + mark.value

    def _fits(self, words: Words) -> bool:
        encoded = self._tokenizer.encode(example_parts(words))
        length = sum(1 if isinstance(part, Mark) else len(part) for part in encoded)
        return length * _ROOM <= int(self.decoder.config.max_position_embeddings)

    def pixels(self, image: "Image.Image") -> torch.Tensor:
        """Return normalised pixels [3, S, S]."""
        return clip_pixels(image, self._side)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return latents [64, C] of pixels [3, S, S]."""
        together = torch.stack(list(pixels)).to(self.decoder.device, non_blocking=True)
        return list(self._vision(together))

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> NoReturn:
        """Refuse: no prompt has visual tokens.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("Med-Flamingo reads images by cross-attention.")

    def row_state(self, features: Sequence[torch.Tensor], prompt: Prompt, kind: Kind) -> Media:
        """Return keys and values of the images of examples and question, and which of them each token may see."""
        del kind
        shown = self._media_of_examples(prompt.examples_of) if isinstance(prompt, ShownPrompt) else ()
        own = tuple(self.decoder.media(torch.stack(list(features)))) if features else ()
        ids = [token for part in prompt.segments if isinstance(part, TextSegment) for token in part.ids]
        seen, behind = seen_images(ids, self._id_of(Mark.IMAGE), self._media_rule)
        return Media(images=(*shown, *own), seen=torch.tensor([*seen, behind]))

    def _media_of_examples(self, task: str) -> tuple[torch.Tensor, ...]:
        if task not in self._shown:
            images = [image for example in self._examples.chosen(task) for image in example.images]
            with torch.inference_mode():
                latents = self.encode_images([self.pixels(image) for image in images]) if images else ()
                self._shown[task] = tuple(self.decoder.media(torch.stack(list(latents)))) if latents else ()
        return self._shown[task]

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return self._tokenizer.decode(ids)

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt's ids with BOS, `<image>` and `<|endofchunk|>`."""
        return self._tokenizer.readable(ids, {self._id_of(mark): NAMES[mark] for mark in Mark})

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the authors' 10 for VQA, and the task's own limit for what they never asked."""
        return LONGEST_VQA_ANSWER if spec.kind == "vqa" else spec.max_new_tokens

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return the texts that end an answer, in place of the end mark that cannot be written."""
        return stops_of(spec.kind)
