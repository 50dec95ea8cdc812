"""Boxes as models write them: the coordinate space is declared by the adapter and never guessed from an answer.

The notation is read tolerantly, since models vary it (`box_text`). What the numbers mean is not: the same four numbers
are other boxes in pixels than in thousandths, and choosing per answer whichever fits better would be scoring by the
reference. What an answer itself says of its numbers counts: names go before the order of the space, a percent is a
hundredth of the image's side in every space, and pixels in a space that counts none are no box.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal

from medbench.tasks.answers.box_text import find_box
from medbench.tasks.answers.box_tokens import Numbers
from medbench.tasks.sample import Box

Order = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
_IN_WORDS: Mapping[Order, tuple[str, str, str, str]] = {
    "xyxy": ("left", "top", "right", "bottom"),
    "yxyx": ("top", "left", "bottom", "right"),
    "xywh": ("left", "top", "width", "height"),
    "cxcywh": ("horizontal centre", "vertical centre", "width", "height"),
}

_LEAST_SQUARES, _MOST_SQUARES = 4, 16_384
_OFFICIAL = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSpace:
    """How one model family writes a box."""

    name: str  # On the command line and in files.
    units: float | None  # The number that means the whole width or height, e.g. 100; None for pixels of the image.
    order: Order = "xyxy"  # What the four numbers are; `x` runs to the right, `y` down, `c` is a centre.
    template: str = "[{}, {}, {}, {}]"
    digits: int = 0  # Decimals that are written, and what happens to further ones.
    rounding: Literal["truncate", "nearest"] = "nearest"
    highest: float | None = None  # The largest number that can be written, where that is less than `units`.
    # Pixels are those of the image scaled to sides of multiples of this number (Qwen2.5-VL: 28), with at least 4 and at
    # most 16,384 such squares; 0 for pixels of the original.
    multiple: int = 0
    notation: Literal["any", "official"] = "any"  # `official` reads only what the official Uni-Med evaluation reads.

    @property
    def scaled_pixels(self) -> tuple[int, int] | None:
        """Fewest and most pixels of an image that was scaled to whole squares; None where it is not scaled."""
        area = self.multiple**2
        return (_LEAST_SQUARES * area, _MOST_SQUARES * area) if area else None

    def write(self, box: Box, image_size: tuple[int, int]) -> str:
        """Return a box in pixels of an image of this size (width, height) as text of this space."""
        numbers = _ordered(self._scaled(box, image_size), self.order)
        return self.template.format(*(self._rounded(number) for number in numbers))

    def read(self, text: str, image_size: tuple[int, int]) -> Box | None:
        """Return the box that an answer tells, in pixels of an image of this size (width, height), or None.

        Numbers outside the space (1.5 where 1 is the whole width) are no box. An inverted box is one.
        """
        if self.notation == "official":
            # As `eval_ref.py` reads it: without `<unk>` and spaces, at the very start; what follows is ignored.
            match = _OFFICIAL.match(text.strip().replace("<unk>", "").replace(" ", ""))
            return self.in_pixels(Box(*map(float, match.groups())), image_size) if match else None
        told = find_box(text, y_first=self.order == "yxyx")
        if told is None or told.unit == "?" or (told.unit == "px" and self.units is not None):
            return None
        points: Order = "yxyx" if self.order == "yxyx" else "xyxy"
        order = self.order if told.order == "space" else points if told.order == "points" else told.order
        corners, space = _corners_of(told.numbers, order), _PERCENTS if told.unit == "%" else self
        inside = all(math.isfinite(edge) and (not space.units or 0 <= edge <= space.units) for edge in corners)
        return space.in_pixels(Box(*corners), image_size) if inside else None

    def in_words(self, image_size: tuple[int, int] | None = None) -> str:
        """Return how a box is written, as a model is told that may know many ways; pixels are those of `image_size`."""
        form = "".join(_written_out(self.template, _IN_WORDS[self.order]))
        if self.units is None:
            # Scaled to whole squares, the image has a size that only such a model knows.
            wide, high = image_size or (0, 0)
            size = f", which is {wide} wide and {high} high" if image_size and not self.multiple else ""
            return f"{form} in pixels of the image{size}, counted from its top left corner"
        numbers = "numbers" if self.digits else "whole numbers"
        return (
            f"{form} in {numbers} from 0 to {self.highest or self.units:g}, where {self.units:g} is the image's whole "
            "width or height, counted from its top left corner"
        )

    def as_written(self, box: Box, image_size: tuple[int, int]) -> Box | None:
        """Return what is left of a box in pixels after it was written and read: the best that a model can score."""
        return self.read(self.write(box, image_size), image_size)

    def _scaled(self, box: Box, image_size: tuple[int, int]) -> Box:
        if self.multiple:
            return box.scaled(*self._scale(image_size))
        if self.units is None:
            return box
        # Divided first, as the official code does: 29 of 100 pixels is 28.999..., which truncates to 28.
        return Box(*(edge / side * self.units for edge, side in zip(box, image_size * 2, strict=True)))

    def in_pixels(self, box: Box, image_size: tuple[int, int]) -> Box:
        """Return a box of numbers of this space in pixels of an image of this size."""
        if self.multiple:
            wide, high = self._scale(image_size)
            return box.scaled(1 / wide, 1 / high)
        if self.units is None:
            return box
        return Box(*(edge / self.units * side for edge, side in zip(box, image_size * 2, strict=True)))

    def _scale(self, image_size: tuple[int, int]) -> tuple[float, float]:
        # The order of operations is the library's: the other way round some sides come out a square smaller.
        width, height = image_size
        columns, rows = (round(side / self.multiple) for side in image_size)
        fewest, most = _LEAST_SQUARES * self.multiple**2, _MOST_SQUARES * self.multiple**2
        if columns * rows > _MOST_SQUARES:
            shrink = math.sqrt(width * height / most)
            columns, rows = (max(1, math.floor(side / shrink / self.multiple)) for side in image_size)
        elif columns * rows < _LEAST_SQUARES:
            grow = math.sqrt(fewest / (width * height))
            columns, rows = (math.ceil(side * grow / self.multiple) for side in image_size)
        return columns * self.multiple / width, rows * self.multiple / height

    def _rounded(self, number: float) -> float | int:
        number = number if self.highest is None else min(number, self.highest)
        if self.digits:
            return round(number, self.digits)
        return int(number) if self.rounding == "truncate" else round(number)


def _written_out(template: str, words: Sequence[str]) -> Iterator[str]:
    """Yield a template's parts, with words in place of the numbers; what is padded stands in braces."""
    left = iter(words)
    for literal, field, digits, _ in Formatter().parse(template):
        yield literal
        if field is not None:
            yield f"{{{next(left)}, {int(digits.rstrip('d'))} digits}}" if digits else next(left)


def _ordered(box: Box, order: Order) -> Numbers:
    left, top, right, bottom = box
    if order in {"xyxy", "yxyx"}:
        return (left, top, right, bottom) if order == "xyxy" else (top, left, bottom, right)
    first, second = (left, top) if order == "xywh" else ((left + right) / 2, (top + bottom) / 2)
    return first, second, right - left, bottom - top


def _corners_of(numbers: Numbers, order: Order) -> Numbers:
    first, second, third, fourth = numbers
    if order in {"xyxy", "yxyx"}:
        return (first, second, third, fourth) if order == "xyxy" else (second, first, fourth, third)
    if order == "xywh":
        return first, second, first + third, second + fourth
    return first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2


_PERCENTS = BoxSpace(name="percent", units=100)
UNI_MED = BoxSpace(name="uni-med", units=100, template="{{<{}><{}><{}><{}>}}", rounding="truncate", notation="official")
"""Whole hundredths of the image's size, truncated, in braces (official code; the paper shows no braces)."""

_SPACES = [
    UNI_MED,
    BoxSpace(name="fraction", units=1, digits=3),
    _PERCENTS,
    BoxSpace(name="permille", units=1000),
    BoxSpace(name="permille-yxyx", units=1000, order="yxyx"),
    BoxSpace(name="pixels", units=None),
    BoxSpace(name="pixels-28", units=None, multiple=28),
    BoxSpace(name="pixels-xywh", units=None, order="xywh"),
    BoxSpace(name="loc1024", units=1024, order="yxyx", template="<loc{:04d}>" * 4, highest=1023),
]
BOX_SPACES: Mapping[str, BoxSpace] = {space.name: space for space in _SPACES}
"""Spaces by name: LLaVA and Shikra write fractions, Qwen2-VL, InternVL and CogVLM thousandths, Qwen2.5-VL pixels of the
image as it was scaled to whole squares of 28, Gemini and Gemma thousandths with y first, PaliGemma location tokens out
of 1024 with y first."""


def degenerate_share(boxes: Sequence[tuple[Box, tuple[int, int]]]) -> float:
    """Return the share of boxes (in pixels, each with its image's size) that cover (nearly) nothing of it; 0 of none.

    Most of them without area are a sign of the wrong space. Fractions read as thousandths give boxes of a thousandth of
    the image at most, thousandths read as pixels give some that lie outside.
    """
    return sum(_is_degenerate(box, *size) for box, size in boxes) / len(boxes) if boxes else 0.0


def _is_degenerate(box: Box, width: int, height: int) -> bool:
    across, down = min(box.right, width) - max(box.left, 0), min(box.bottom, height) - max(box.top, 0)
    return across <= 0 or down <= 0 or (across <= max(1.0, 0.01 * width) and down <= max(1.0, 0.01 * height))


def doubt_about_boxes(task: str, boxes: Sequence[tuple[Box, tuple[int, int]]], *, space: str, declared_by: str) -> str:
    """Return a warning if most boxes of a task (in pixels, with the image's size) cover nothing of it; else nothing."""
    share = degenerate_share(boxes)
    if 2 * share <= 1:
        return ""
    return (
        f"{task}: {round(share * len(boxes))} of {len(boxes)} boxes have no area inside their image, read as {space}. "
        f"Does the model write boxes that way? The space is declared by {declared_by}."
    )
