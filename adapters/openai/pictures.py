"""Pictures as data URIs: PNG, without loss, RGB with 8 bits, and nothing of the file but its pixels."""

import base64
import io
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medbench.adapters.base import Size
from medbench.adapters.remote import Scaled
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef

_Key = tuple[Path, ImageRef]
ROOM = 256 * 2**20
_PREFIX = "data:image/png;base64,"
# Level 2 is three times as fast as Pillow's own 6 and a tenth larger; the pixels are the same.
_COMPRESSION = 2
_LOCKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture, ready to be sent.

    Attributes:
        uri: The data URI.
        scaled: Its sizes, if it was made smaller.
    """

    uri: str
    scaled: Scaled | None = None


class Pictures:
    """Encodes each picture once, as long as there is room to keep it; may be asked from many threads.

    Args:
        max_pixels: Larger pictures are scaled down to so many; None for no limit.
        room: Bytes of data URIs that are kept; those that were asked for longest ago are dropped first.
    """

    def __init__(self, max_pixels: int | None = None, room: int = ROOM) -> None:
        self._max_pixels = max_pixels
        self._room = room
        self._kept: OrderedDict[_Key, Picture] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # The same picture waits for itself, others do not: one lock for each would grow with the data.
        self._encoding = [threading.Lock() for _ in range(_LOCKS)]
        self.encoded = 0

    def picture(self, source: Path, ref: ImageRef) -> Picture:
        """Return a picture as it is sent.

        Raises:
            SampleError: If it is missing or broken.
        """
        key = (source, ref)
        with self._encoding[hash(key) % _LOCKS]:
            return self._found(key) or self._keep(key, self._encode(open_image(source, ref)))

    def _found(self, key: _Key) -> Picture | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: _Key, picture: Picture) -> Picture:
        with self._lock:
            self.encoded += 1
            self._kept[key] = picture
            self._size += len(picture.uri)
            while self._size > self._room:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped.uri)
        return picture

    def _encode(self, image: Image.Image) -> Picture:
        sent = image.size if self._max_pixels is None else size_within(image.size, self._max_pixels)
        if sent == image.size:
            return Picture(uri=data_uri(image))
        smaller = image.resize(sent, Image.Resampling.LANCZOS)
        return Picture(uri=data_uri(smaller), scaled=Scaled(original=image.size, sent=sent))


def size_within(size: Size, pixels: int) -> Size:
    """Return the largest size of about the same shape that has no more than so many pixels."""
    width, height = size
    if width * height <= pixels:
        return size
    factor = math.sqrt(pixels / (width * height))
    narrow = min(max(1, int(width * factor)), pixels)
    return narrow, max(1, min(int(height * factor), pixels // narrow))


def data_uri(image: Image.Image) -> str:
    """Return an RGB picture as a data URI; comments, names and dates in its file are left behind."""
    image.info.clear()
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=_COMPRESSION)
    return _PREFIX + base64.b64encode(stream.getvalue()).decode("ascii")
