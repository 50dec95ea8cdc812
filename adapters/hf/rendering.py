"""Token ids of a prompt whose images are known by their sizes alone."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

from medbench.adapters.base import ImageSlot, Size, TextSegment
from medbench.adapters.hf.processing import ChatTemplate, Processor
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.sample import ImageRef

_SIZES = 512
Segment = TextSegment | ImageSlot
Images = Any
"""Images, nested as a processor likes."""
Shape = tuple[int, tuple[int, int, int] | None]
"""What an image of some size becomes: visual tokens, and frames, rows and columns of them where positions have three
dimensions."""


class Renderer:
    """Lets a processor write prompts, with blank images whose pixels are computed once per size.

    `image_token_id` stands once for every visual token; `in_grids`: they have positions in three dimensions; `options`
    are more for the image processor.
    """

    def __init__(
        self, processor: Processor, image_token_id: int, *, in_grids: bool, template: ChatTemplate,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._processor = processor
        self._blank = copy.copy(processor)
        self._blank.image_processor = _SizesOnly(processor.image_processor)
        self._image_token_id = image_token_id
        self._in_grids = in_grids
        self._template = template
        self._options = options
        self.text = template.text
        self.shape = lru_cache(maxsize=_SIZES)(self._shape)

    def inputs(
        self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], processor: Processor = None
    ) -> dict[str, Any]:
        """Return what the model takes for prompts with their images, or SampleError if the processor does not."""
        processor = processor or self._processor
        given = [list(own) for own in images]
        bos = self._processor.tokenizer.bos_token
        # The tokenizer would write again what a template has written.
        brings_bos = self._template.exists and bos is not None and texts[0].startswith(bos)
        try:
            inputs = processor(
                text=list(texts), images=given if any(given) else None, padding=True, return_tensors="pt",
                **({"add_special_tokens": False} if brings_bos else {}), **(self._options if any(given) else {}),
            )  # fmt: skip
        except (ValueError, TypeError, IndexError) as error:
            # Each says in its own way what it does not take, such as a question without an image.
            raise SampleError(f"The model's processor does not take this prompt: {error}") from error
        return {name: value for name, value in inputs.items() if name != "labels"}

    def takes_text_alone(self) -> bool:
        """Whether a question may come without an image."""
        try:
            self.inputs([self.text("?", 0)], [[]], self._blank)
        except SampleError:
            return False
        return True

    def whole(self, question: str, images: Sequence[ImageRef], sizes: Sequence[Size]) -> tuple[Segment, ...]:
        """Return a prompt as one text with its images before it: of the right length, but not to be driven."""
        slots = (ImageSlot(image=image, tokens=0) for image in images)
        return (*slots, TextSegment(ids=tuple(self._ids(question, sizes))))

    def segments(self, question: str, images: Sequence[ImageRef], sizes: Sequence[Size]) -> tuple[Segment, ...]:
        """Return a prompt in parts: text, and slots of images of these sizes.

        SampleError if the processor does not take it, or writes other visual tokens than the sizes promise.
        """
        ids = self._ids(question, sizes)
        shapes = [self.shape(size) for size in sizes]
        promised = sum(tokens for tokens, _ in shapes)
        if ids.count(self._image_token_id) != promised:
            raise SampleError(
                f"The model's processor writes {ids.count(self._image_token_id)} visual tokens for pictures of "
                f"{list(sizes)}, not the {promised} that it writes for each alone."
            )
        return tuple(_cut(ids, self._image_token_id, list(zip(images, shapes, strict=True))))

    def _ids(self, question: str, sizes: Sequence[Size]) -> list[int]:
        blanks = [[Image.new("RGB", size) for size in sizes]]
        inputs = self.inputs([self.text(question, len(sizes))], blanks, self._blank)
        ids: list[int] = inputs["input_ids"][0].tolist()
        return ids

    def _shape(self, size: Size) -> Shape:
        inputs = self.inputs([self.text("", 1)], [[Image.new("RGB", size)]], self._blank)
        tokens = int((inputs["input_ids"] == self._image_token_id).sum())
        if not self._in_grids:
            return tokens, None
        frames, rows, columns = inputs["image_grid_thw"][0].tolist()
        side = int(self._processor.image_processor.merge_size)
        return tokens, (frames, rows // side, columns // side)


def _cut(ids: Sequence[int], image_token_id: int, images: Sequence[tuple[ImageRef, Shape]]) -> Iterator[Segment]:
    """Yield texts and slots; an image whose tokens stand apart gets a slot for each stretch."""
    waiting = iter(images)
    taken = tokens = 0
    for is_image, run in groupby(ids, key=lambda one: one == image_token_id):
        stretch = tuple(run)
        left = len(stretch)
        if not is_image:
            yield TextSegment(ids=stretch)
            continue
        while left:
            if taken == tokens:
                image, (tokens, grid) = next(waiting)
                taken = 0
            here = min(left, tokens - taken)
            yield ImageSlot(image=image, tokens=here, first=taken, grid=grid)
            taken, left = taken + here, left - here


class _SizesOnly:
    """Stands before an image processor and computes once for images of the same sizes; pixels become zeros.

    A prompt's tokens depend on nothing else.
    """

    def __init__(self, real: Processor) -> None:
        self._real = real
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        return getattr(self._real, name)

    def __call__(self, images: Images, **options: object) -> BatchFeature:
        """Return what the real one returns, with pixels that take no memory."""
        key = repr((_sizes(images), sorted(options.items(), key=lambda item: item[0])))
        if key not in self._known:
            self._known[key] = {name: _weightless(value) for name, value in self._real(images, **options).items()}
            if len(self._known) > _SIZES:
                self._known.popitem(last=False)
        return BatchFeature(dict(self._known[key]))


def _sizes(images: Images) -> Images:
    if isinstance(images, Image.Image):
        return images.size
    return [_sizes(image) for image in images] if isinstance(images, Sequence) else type(images).__name__


def _weightless(value: Any) -> Any:  # noqa: ANN401 - as it comes
    """Return floating numbers as zeros of the same shape that share one place; whatever else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.new_zeros(()).expand(value.shape)
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        return np.broadcast_to(np.zeros((), dtype=value.dtype), value.shape)
    return [_weightless(part) for part in value] if isinstance(value, list) else value
