"""The images of a report: small copies as data URIs, each once, as many as a budget allows."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image, size_of_image
from medbench.tasks.sample import ImageRef

MEGABYTE = 1_000_000
_LONGEST_SIDE = 320
_TINY = 72
_QUALITY = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBudget:
    """How much may be embedded.

    Attributes:
        size: Characters of all data URIs together.
        pixels: Pixels that may be decoded for it; None for any number.
    """

    size: int = 24 * MEGABYTE
    pixels: int | None = None


AT_THE_END_OF_A_RUN = ImageBudget(size=4 * MEGABYTE, pixels=100 * MEGABYTE)
"""Seconds at most; `medbench report` embeds more."""

_Key = tuple[Path, ImageRef]


@dataclass(slots=True)
class Pictures:
    """Images by number; which of them are embedded is decided by `embed`, when all are known.

    Attributes:
        names: By number, what the image is called in its dataset.
        wanted: By task, the numbers in the order of its samples.
    """

    names: list[str] = field(default_factory=list)
    wanted: dict[str, list[int]] = field(default_factory=dict)
    _keys: list[_Key] = field(default_factory=list)
    _places: dict[_Key, int] = field(default_factory=dict)

    def place(self, task: str, source: Path, ref: ImageRef) -> int:
        """Return the number of an image of a task's sample."""
        key = (source, ref)
        if key not in self._places:
            self._places[key] = len(self._keys)
            self._keys.append(key)
            self.names.append(f"{ref.path}: {ref.member}[{ref.index}]" if ref.member else ref.path)
        self.wanted.setdefault(task, []).append(self._places[key])
        return self._places[key]

    def embed(self, budget: ImageBudget) -> "Embedded":
        """Return small copies of as many images as fit, the first of every task before the second of any."""
        uris: dict[str, int] = {}
        shown: dict[int, tuple[int, int, int]] = {}
        broken: list[int] = []
        size = pixels = 0
        for number in self._in_turns():
            try:
                width, height = size_of_image(*self._keys[number])
                pixels += width * height
                if budget.pixels is not None and pixels > budget.pixels:
                    break
                uri = thumbnail(open_image(*self._keys[number]))
            except SampleError:
                broken.append(number)
                continue
            size += 0 if uri in uris else len(uri)
            if size > budget.size:
                break
            shown[number] = (uris.setdefault(uri, len(uris)), width, height)
        return Embedded(uris=tuple(uris), shown=shown, broken=tuple(broken))

    def _in_turns(self) -> Iterator[int]:
        turns = zip_longest(*self.wanted.values())
        yield from dict.fromkeys(number for turn in turns for number in turn if number is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What came of the images.

    Attributes:
        uris: Data URIs, each once.
        shown: By image, the place of its URI, and its own width and height in pixels.
        broken: Images that could not be read.
    """

    uris: Sequence[str]
    shown: Mapping[int, tuple[int, int, int]]
    broken: Sequence[int]


def thumbnail(image: Image.Image) -> str:
    """Return an RGB image, at most 320 pixels long, as a data URI: tiny ones as PNG, others as JPEG."""
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    if max(small.size) <= _TINY:
        small.save(stream, "PNG", optimize=True)
        kind = "png"
    else:
        small.save(stream, "JPEG", quality=_QUALITY, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
