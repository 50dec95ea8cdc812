"""What a served model is sent: the chat with its images, and the fields that its server understands."""

import base64
import io
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from medbench.adapters.base import Size
from medbench.adapters.openai.entry import STREAM, Options, Profile
from medbench.adapters.remote import Scaled
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef

IMAGE_CACHE_BYTES = 256 * 2**20
# Level 2 is three times as fast as Pillow's own 6 and a tenth larger; the pixels are the same.
_COMPRESSION = 2
_LOCKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question ready to be sent."""

    body: dict[str, Any]  # The request's body; questions of one image share its text.
    scaled: tuple[Scaled, ...] = ()  # Images that were made smaller.
    length_field: str = "max_tokens"  # The field of the body that limits the answer.
    user_fields: frozenset[str] = field(default_factory=frozenset)  # Names of the fields that the user added.

    @property
    def limit(self) -> int:
        """Longest answer in tokens that is asked for; 0 where nothing is said."""
        return int(self.body.get(self.length_field, 0))

    @property
    def images(self) -> int:
        """How many images it holds."""
        contents = (message["content"] for message in self.body["messages"])
        parts = [part for content in contents if isinstance(content, list) for part in content]
        return sum(part.get("type") == "image_url" for part in parts)

    def readable(self) -> str:
        """Return the body for people: JSON, with the kind and size of an image in its place."""
        return json.dumps(_without_images(self.body), ensure_ascii=False, indent=2)


def make_request(
    model: str, question: str, images: Sequence["EncodedImage"], options: Options, profile: Profile, *,
    length: int, seed: int,
) -> ChatRequest:  # fmt: skip
    """Return the request for one answer to the user's words of at most `length` tokens."""
    numbers = {"temperature": options.temperature, "top_p": options.top_p}
    chosen: dict[str, Any] = {
        **{name: int(one) if one is not None and one.is_integer() else one for name, one in numbers.items()},
        "seed": seed if options.send_seed == "yes" else None,
        "stop": (list(options.stop) or None) if profile.takes_stop else None,
    }
    body: dict[str, Any] = {
        "model": model,
        "messages": messages_of(question, [image.uri for image in images], options.system),
        profile.length_field: length,
        # Some servers stream unless they are told not to.
        STREAM: False,
        **profile.neutral,
        **{name: value for name, value in chosen.items() if value is not None},
        **options.extra_body,
    }
    if body[STREAM] is None:
        del body[STREAM]
    return ChatRequest(
        body=body, scaled=tuple(image.scaled for image in images if image.scaled), length_field=profile.length_field,
        user_fields=frozenset(options.extra_body),
    )  # fmt: skip


def messages_of(question: str, images: Sequence[str], system: str) -> list[dict[str, Any]]:
    """Return the chat: the system prompt if there is one, then the images, as data URIs, before the text.

    So all questions about an image begin alike, and a server that remembers beginnings reads it once.
    """
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in images]
    # Text alone is sent as text: not every template of a text model takes a list of parts.
    content: Any = [*parts, {"type": "text", "text": question}] if parts else question
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": content}]


def _without_images(part: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(part, Mapping):
        return {name: _without_images(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_without_images(value) for value in part]
    if isinstance(part, str) and part.startswith("data:"):
        kind, _, content = part.partition(",")
        return f"{kind},⟨{len(content):,} characters⟩"
    return part


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """One image as a data URI, and its sizes if it was made smaller."""

    uri: str
    scaled: Scaled | None = None


class ImageEncoder:
    """Encodes each image once, as long as there is room (in bytes of data URIs) to keep it; for many threads.

    Images of more than `max_pixels` are scaled down. Those that were asked for longest ago are dropped first.
    """

    def __init__(self, max_pixels: int | None = None, room: int = IMAGE_CACHE_BYTES) -> None:
        self._max_pixels = max_pixels
        self._room = room
        self._kept: OrderedDict[tuple[Path, ImageRef], EncodedImage] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # The same image waits for itself, others do not: one lock for each would grow with the data.
        self._encoding = [threading.Lock() for _ in range(_LOCKS)]
        self.encoded = 0

    def encode(self, source: Path, ref: ImageRef) -> EncodedImage:
        """Return an image as it is sent; SampleError if it is missing or broken."""
        key = (source, ref)
        with self._encoding[hash(key) % _LOCKS]:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            image = self._encode(open_image(source, ref))
            with self._lock:
                self.encoded += 1
                self._kept[key] = image
                self._size += len(image.uri)
                while self._size > self._room:
                    _, dropped = self._kept.popitem(last=False)
                    self._size -= len(dropped.uri)
            return image

    def _encode(self, image: Image.Image) -> EncodedImage:
        sent = image.size if self._max_pixels is None else size_within(image.size, self._max_pixels)
        if sent == image.size:
            return EncodedImage(uri=data_uri(image))
        smaller = image.resize(sent, Image.Resampling.LANCZOS)
        return EncodedImage(uri=data_uri(smaller), scaled=Scaled(original=image.size, sent=sent))


def size_within(size: Size, pixels: int) -> Size:
    """Return the largest size of about the same shape that has no more than so many pixels."""
    width, height = size
    if width * height <= pixels:
        return size
    factor = math.sqrt(pixels / (width * height))
    narrow = min(max(1, int(width * factor)), pixels)
    return narrow, max(1, min(int(height * factor), pixels // narrow))


def data_uri(image: Image.Image) -> str:
    """Return an RGB image as a data URI: PNG, without loss; comments, names and dates in its file are left behind."""
    image.info.clear()
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=_COMPRESSION)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
