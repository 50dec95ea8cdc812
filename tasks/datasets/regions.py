"""Objects with boxes: one native region gives a REC sample (find the box) or a REG sample (name the object).

The two kinds ask about the same regions with the question and the answer swapped (paper section 4.1).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from medbench.tasks.sample import Box, ImageRef, Sample, Split
from medbench.tasks.spec import Skipped

_NUMBERS_IN_A_BOX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One object in one image.

    Attributes:
        region_id: Becomes the sample id.
        split: `train` or `test`.
        image: The image.
        image_size: Its width and height in pixels.
        name: What the object is called.
        box: Where it is, in pixels of the image.
        labels: Labels beside the name.
        groups: Group ids.
    """

    region_id: str
    split: Split
    image: ImageRef
    image_size: tuple[int, int]
    name: str
    box: Box
    labels: Mapping[str, str]
    groups: Mapping[str, str]

    def sample(self, task: str, kind: Literal["rec", "reg"]) -> Sample:
        """Return the question about this region; the name is an input of REC only."""
        return Sample(
            sample_id=self.region_id,
            task=task,
            split=self.split,
            images=(self.image,),
            inputs={"object": self.name} if kind == "rec" else {},
            reference=self.name,
            box=self.box,
            image_size=self.image_size,
            labels={"object": self.name, **self.labels},
            groups=self.groups,
        )


def region_samples(
    found: Iterable[Region | Skipped], task: str, kind: Literal["rec", "reg"]
) -> Iterator[Sample | Skipped]:
    """Turn regions into samples of `task`; skipped items pass through."""
    for item in found:
        yield item.sample(task, kind) if isinstance(item, Region) else item


def parse_box(value: object) -> Box | str:
    """Return the box of `[x, y, width, height]` in pixels, or why it is none.

    A box of zero width or height is kept, as in the official code.
    """
    if not isinstance(value, list) or len(value) != _NUMBERS_IN_A_BOX:
        return "box is not a list of four numbers"
    try:
        numbers = [float(number) for number in value if isinstance(number, int | float)]
    except OverflowError:
        return "box is not four finite numbers"
    if len(numbers) != _NUMBERS_IN_A_BOX or not all(map(math.isfinite, numbers)):
        return "box is not four finite numbers"
    left, top, width, height = numbers
    if width < 0 or height < 0:
        return "box has a negative size"
    return Box.from_xywh(left, top, width, height)


def first_object(entry: Mapping[str, object]) -> tuple[str, Box] | str:
    """Return name and box of a one-key detection entry, or why there is none.

    Of an entry with several keys the first counts, as in the official code.
    """
    for name, value in entry.items():
        box = parse_box(value)
        return box if isinstance(box, str) else (name, box)
    return "entry names no object"
