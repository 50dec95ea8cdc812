"""Token ids of a prompt whose pictures are known by their sizes alone."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from medbench.adapters.base import ImageSlot, Size, TextSegment
from medbench.adapters.hf.remembering import RememberingImageProcessor
from medbench.adapters.hf.templates import ChatTemplate
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.sample import ImageRef

_SIZES = 512
Segment = TextSegment | ImageSlot


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a picture of some size becomes.

    Attributes:
        tokens: Its visual tokens.
        grid: Frames, rows and columns of them, for positions in three dimensions.
    """

    tokens: int
    grid: tuple[int, int, int] | None = None


class Renderer:
    """Lets a processor write prompts, with blank pictures whose pixels are computed once per size.

    Args:
        processor: Of transformers.
        image_token_id: Stands once for every visual token.
        in_grids: Whether visual tokens have positions in three dimensions.
        template: Writes prompts as texts.
        images: More for the image processor.
    """

    def __init__(
        self,
        processor: Any,  # noqa: ANN401 - any of transformers
        image_token_id: int,
        *,
        in_grids: bool,
        template: ChatTemplate,
        images: dict[str, Any],
    ) -> None:
        self._processor = processor
        self._blank = copy.copy(processor)
        self._blank.image_processor = RememberingImageProcessor(processor.image_processor)
        self._image_token_id = image_token_id
        self._in_grids = in_grids
        self._template = template
        self._images = images
        self.shape = lru_cache(maxsize=_SIZES)(self._shape)

    def text(self, question: str, images: int) -> str:
        """Return the prompt as text, with one mark per picture, pictures first.

        Raises:
            SampleError: If the chat template refuses it.
        """
        return self._template.text(question, images)

    def inputs(self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]]) -> dict[str, Any]:
        """Return what the model itself takes for prompts with their pictures, padded on the left."""
        return self._inputs(self._processor, texts, images)

    def _inputs(
        self,
        processor: Any,  # noqa: ANN401 - any of transformers
        texts: Sequence[str],
        images: Sequence[Sequence[Image.Image]],
    ) -> dict[str, Any]:
        given = [list(own) for own in images]
        try:
            inputs = processor(
                text=list(texts),
                images=given if any(given) else None,
                padding=True,
                return_tensors="pt",
                **({"add_special_tokens": False} if self._brings_bos(texts[0]) else {}),
                **(self._images if any(given) else {}),
            )
        except (ValueError, TypeError, IndexError) as error:
            # Each says in its own way what it does not take, such as a question without a picture.
            raise SampleError(f"The model's processor does not take this prompt: {error}") from error
        return {name: value for name, value in inputs.items() if name != "labels"}

    def takes_text_alone(self) -> bool:
        """Whether a question may come without a picture."""
        try:
            self._inputs(self._blank, [self.text("?", 0)], [[]])
        except SampleError:
            return False
        return True

    def whole(self, question: str, images: Sequence[ImageRef], sizes: Sequence[Size]) -> tuple[Segment, ...]:
        """Return a prompt as one text with its pictures before it: of the right length, but not to be driven.

        Raises:
            SampleError: If the processor does not take it.
        """
        slots = (ImageSlot(image=image, tokens=0) for image in images)
        return (*slots, TextSegment(ids=tuple(self._ids(question, sizes))))

    def segments(self, question: str, images: Sequence[ImageRef], sizes: Sequence[Size]) -> tuple[Segment, ...]:
        """Return a prompt in parts: text, and slots of pictures of these sizes.

        Raises:
            SampleError: If the processor does not take it, or wrote another number of visual tokens than the sizes
                promise.
        """
        ids = self._ids(question, sizes)
        shapes = [self.shape(size) for size in sizes]
        if ids.count(self._image_token_id) != sum(shape.tokens for shape in shapes):
            raise SampleError(
                f"The model's processor writes {ids.count(self._image_token_id)} visual tokens for pictures of "
                f"{list(sizes)}, not the {sum(shape.tokens for shape in shapes)} that it writes for each alone."
            )
        return tuple(_cut(ids, self._image_token_id, list(zip(images, shapes, strict=True))))

    def _ids(self, question: str, sizes: Sequence[Size]) -> list[int]:
        blanks = [[Image.new("RGB", size) for size in sizes]]
        ids: list[int] = self._inputs(self._blank, [self.text(question, len(sizes))], blanks)["input_ids"][0].tolist()
        return ids

    def _shape(self, size: Size) -> Shape:
        inputs = self._inputs(self._blank, [self.text("", 1)], [[Image.new("RGB", size)]])
        tokens = int((inputs["input_ids"] == self._image_token_id).sum())
        if not self._in_grids:
            return Shape(tokens=tokens)
        frames, rows, columns = inputs["image_grid_thw"][0].tolist()
        side = int(self._processor.image_processor.merge_size)
        return Shape(tokens=tokens, grid=(frames, rows // side, columns // side))

    def _brings_bos(self, text: str) -> bool:
        """Whether a template has written the token that the tokenizer would write again."""
        bos = self._processor.tokenizer.bos_token
        return self._template.exists and bos is not None and text.startswith(bos)


def _cut(ids: Sequence[int], image_token_id: int, pictures: list[tuple[ImageRef, Shape]]) -> Iterator[Segment]:
    """Yield texts and slots; a picture whose tokens stand apart gets a slot for each stretch."""
    text: list[int] = []
    place = taken = 0
    while place < len(ids):
        if ids[place] != image_token_id:
            text.append(ids[place])
            place += 1
            continue
        if text:
            yield TextSegment(ids=tuple(text))
            text = []
        ref, shape = pictures[0]
        end = place
        while end < len(ids) and ids[end] == image_token_id and end - place < shape.tokens - taken:
            end += 1
        yield ImageSlot(image=ref, tokens=end - place, first=taken, grid=shape.grid)
        taken += end - place
        place = end
        if taken == shape.tokens:
            pictures.pop(0)
            taken = 0
    if text:
        yield TextSegment(ids=tuple(text))
