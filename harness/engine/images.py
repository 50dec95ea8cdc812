"""Images on their way to embeddings: read by threads ahead of the decoder, encoded once, kept for all who ask again."""

import hashlib
import os
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from medbench.adapters.base import ImageSlot, LocalAdapter, Pixels, TextSegment, tokens_of
from medbench.adapters.guarding import one_sample
from medbench.harness.engine.requests import ImageKey, Outcome, PrefixedRequest, Request, Segments, SharedPrefix, failed
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import locate, open_image
from medbench.tasks.sample import ImageRef
from medbench.tasks.spec import Kind

AHEAD = 64
WORKERS = max(1, min(8, (os.cpu_count() or 1) - 1))
TOGETHER = 16
FEATURE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """One image on the CPU, known by its bytes; without pixels if an image of the same bytes was read before."""

    digest: str
    pixels: Pixels | None
    decoding_seconds: float = 0.0
    preprocessing_seconds: float = 0.0


class ImageLoader:
    """Reads images that are expected, `AHEAD` of them at most, and hands out each when asked; a context manager."""

    def __init__(self, adapter: LocalAdapter, phases: Phases) -> None:
        self._adapter = adapter
        self._phases = phases
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="images")
        self._expected: deque[ImageKey] = deque()
        self._reading: dict[ImageKey, Future[LoadedImage]] = {}
        self._read: dict[ImageKey, str] = {}
        self._lock = threading.Lock()
        self._first: dict[str, ImageKey] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def expect(self, keys: Iterable[ImageKey]) -> None:
        """Note what will be asked for next."""
        self._expected.extend(key for key in keys if key not in self._read)
        self._read_ahead()

    def digest(self, key: ImageKey) -> str | None:
        """Return the digest of an image that was handed out before."""
        return self._read.get(key)

    def first(self, digest: str) -> ImageKey:
        """Return the first image with these bytes."""
        return self._first[digest]

    def take(self, key: ImageKey) -> LoadedImage:
        """Return an image, waiting for it if it is still being read. Raises SampleError if it is missing or broken."""
        reading = self._reading.pop(key, None) or self._pool.submit(self._load, key)
        with self._phases.time("wait for images"):
            image = reading.result()
        self._read[key] = image.digest
        first = self.first(image.digest)
        if image.pixels is None and first in self._reading:
            return self.take(first)
        self._phases.background["decode image"] += image.decoding_seconds
        self._phases.background["preprocess"] += image.preprocessing_seconds
        self._read_ahead()
        return image

    def ready(self) -> list[ImageKey]:
        """Return the images that are read and not yet taken, in the order of their reading."""
        return [key for key, reading in self._reading.items() if reading.done() and reading.exception() is None]

    def _read_ahead(self) -> None:
        while self._expected and len(self._reading) < AHEAD:
            key = self._expected.popleft()
            if key not in self._read and key not in self._reading:
                self._reading[key] = self._pool.submit(self._load, key)

    def _load(self, key: ImageKey) -> LoadedImage:
        source, ref = key
        started = time.perf_counter()
        digest = _digest(source, ref)
        with self._lock:
            first = self._first.setdefault(digest, key)
        if first != key:
            return LoadedImage(digest=digest, pixels=None)
        image = open_image(source, ref)
        decoded = time.perf_counter()
        with one_sample(self._adapter, f"pixels() of {ref.path}"):
            pixels = self._adapter.pixels(image)
        spent = time.perf_counter() - decoded
        return LoadedImage(
            digest=digest, pixels=pixels, decoding_seconds=decoded - started, preprocessing_seconds=spent
        )


def _digest(source: Path, ref: ImageRef) -> str:
    """Return a digest of an image's file and its place therein."""
    path = locate(source, ref.path)
    if ref.member:
        # Rows of one array differ by their place; the array itself may be gigabytes.
        return hashlib.sha256(f"{path}/{ref.member}/{ref.index}".encode()).hexdigest()
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SampleError(f"The image {path} cannot be read: {error.strerror or error}.") from error


class Uploads:
    """Copies of pixels to a GPU, on a stream of their own, while the decoder computes; elsewhere pixels stay."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.startswith("cuda") else None

    @property
    def ahead(self) -> bool:
        """Whether it is worth to start before pixels are needed."""
        return self._stream is not None

    def start(self, pixels: Pixels) -> Callable[[], Pixels]:
        """Begin a copy, from pinned memory, without which the CPU would wait for it; return what waits for its end."""
        if self._stream is None:
            return lambda: pixels
        with torch.cuda.stream(self._stream):
            copied = _each(lambda tensor: tensor.pin_memory().to(self._device, non_blocking=True), pixels)
            event = torch.cuda.Event()
            event.record(self._stream)

        def awaited(tensor: torch.Tensor) -> torch.Tensor:
            # What is computed with it next waits for the copy, the CPU does not; and the allocator may not give the
            # memory away before the current stream is done with it.
            current = torch.cuda.current_stream(tensor.device)
            current.wait_event(event)
            tensor.record_stream(current)
            return tensor

        return lambda: _each(awaited, copied)


def _each(change: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels) -> Pixels:
    """Return the tensors of an image changed; what is no tensor stays."""
    if isinstance(pixels, torch.Tensor):
        return change(pixels)
    if isinstance(pixels, Mapping):
        return {name: _each(change, part) for name, part in pixels.items()}
    return pixels


class FeatureCache:
    """Keeps feature tensors of images: up to `capacity` bytes in memory, those used longest ago in a folder."""

    def __init__(self, capacity: int = FEATURE_BYTES) -> None:
        self._capacity = capacity
        self._near: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._far: dict[str, torch.device] = {}
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.spilled = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._near or digest in self._far

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Keep the features of an image; those used longest ago make room."""
        self._near[digest] = features
        self._bytes += features.nbytes
        while self._bytes > self._capacity and len(self._near) > 1:
            self._spill(*self._near.popitem(last=False))

    def get(self, digest: str) -> torch.Tensor:
        """Return features that were put."""
        if digest in self._near:
            self._near.move_to_end(digest)
            return self._near[digest]
        device = self._far[digest]
        return load_file(self._path(digest))["features"].to(device)

    def _spill(self, digest: str, features: torch.Tensor) -> None:
        self._bytes -= features.nbytes
        if digest in self._far:
            return
        save_file({"features": features.cpu().contiguous()}, self._path(digest))
        self._far[digest] = features.device
        self.spilled += 1

    def _path(self, digest: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="medbench-features-")
        return Path(self._folder.name) / f"{digest}.safetensors"


class ImageEncoder:
    """Encodes every image once, with others that are ready.

    Features do not depend on the task; visual tokens do, and are projected for those who share them.
    """

    def __init__(self, adapter: LocalAdapter, loader: ImageLoader, phases: Phases) -> None:
        self._adapter = adapter
        self._loader = loader
        self._phases = phases
        self._features = FeatureCache()
        self._uploads = Uploads(adapter.device)
        self._pixels: dict[str, Callable[[], Pixels]] = {}
        self._broken: dict[ImageKey, str] = {}

    def sound(self, requests: Sequence[PrefixedRequest]) -> tuple[list[PrefixedRequest], list[Outcome]]:
        """Encode the new images of requests; return those that can be answered, and the errors of the others."""
        keys = list(dict.fromkeys(key for one in requests for key in one.request.images))
        for key in keys:
            self._take(key)
        if any(self._digest(key) in self._pixels for key in keys if key not in self._broken):
            self._take_ready()
            waiting = list(self._pixels)
            for start in range(0, len(waiting), TOGETHER):
                self._encode(waiting[start : start + TOGETHER])
            if self._uploads.ahead:
                self._take_ready()
        broken = [next((key for key in one.request.images if key in self._broken), None) for one in requests]
        pairs = list(zip(requests, broken, strict=True))
        errors = [failed(one.request, self._broken[key]) for one, key in pairs if key is not None]
        return [one for one, key in pairs if key is None], errors

    def features(self, request: Request) -> list[torch.Tensor]:
        """Return the features of a request's images, which must be prepared, in order."""
        return [self._features.get(self._digest(key)) for key in request.images]

    def visual_tokens(self, keys: Iterable[ImageKey], kind: Kind) -> dict[ImageKey, torch.Tensor]:
        """Return visual tokens [V, D] of prepared images for a kind of task."""
        unique = list(dict.fromkeys(keys))
        if not unique:
            return {}
        with self._phases.time("connector"):
            tokens = self._adapter.project([self._features.get(self._digest(key)) for key in unique], kind)
        self._phases.count("images projected", len(unique))
        return dict(zip(unique, tokens, strict=True))

    def _take_ready(self) -> None:
        for key in self._loader.ready()[:TOGETHER]:
            self._take(key)

    def _take(self, key: ImageKey) -> None:
        if key in self._broken or self._loader.digest(key) is not None:
            return
        try:
            image = self._loader.take(key)
        except SampleError as error:
            self._broken[key] = str(error)
            return
        if image.pixels is not None:
            self._pixels[image.digest] = self._uploads.start(image.pixels)
        elif image.digest not in self._features and image.digest not in self._pixels:
            self._broken[key] = self._broken[self._loader.first(image.digest)]

    def _digest(self, key: ImageKey) -> str:
        digest = self._loader.digest(key)
        if digest is None:
            raise KeyError(key)
        return digest

    def _encode(self, digests: list[str]) -> None:
        encoded = self._encoded(digests)
        if encoded is None:
            half = len(digests) // 2
            self._encode(digests[:half])
            self._encode(digests[half:])
            return
        self._phases.count("images encoded", len(digests))
        for digest, features in zip(digests, encoded, strict=True):
            # A slice of a batch would keep the whole batch alive.
            whole = features.untyped_storage().nbytes() == features.nbytes
            self._features.put(digest, features if whole else features.clone())
            del self._pixels[digest]

    def _encoded(self, digests: Sequence[str]) -> Sequence[torch.Tensor] | None:
        """Return features, or None if memory ran out on several; what was tried is let go before fewer are."""
        try:
            with self._phases.time("encode"):
                return self._adapter.encode_images([self._pixels[digest]() for digest in digests])
        except torch.OutOfMemoryError:
            if len(digests) == 1:
                raise
        torch.cuda.empty_cache()
        return None


class Embedder:
    """Makes embeddings [L, D] of segments; images must be prepared."""

    def __init__(self, adapter: LocalAdapter, encoder: ImageEncoder) -> None:
        self._adapter = adapter
        self._encoder = encoder

    def prefixes(self, prefixes: Sequence[SharedPrefix]) -> list[torch.Tensor]:
        """Return the embeddings of what is shared."""
        return self._embed([(one.source, one.kind, one.segments) for one in prefixes])

    def own(self, requests: Sequence[PrefixedRequest]) -> list[torch.Tensor]:
        """Return the embeddings of what is each one's own."""
        return self._embed([(one.request.source, one.request.spec.kind, one.own) for one in requests])

    def whole(self, requests: Sequence[PrefixedRequest]) -> list[torch.Tensor]:
        """Return the embeddings of whole prompts, what they share included."""
        prompts = [(one.request.source, one.request.spec.kind, one.request.prompt.segments) for one in requests]
        return self._embed(prompts)

    def states(self, requests: Sequence[PrefixedRequest]) -> list[object]:
        """Return what requests read by cross-attention; None for each if the decoder has none."""
        if not self._adapter.has_row_states:
            return [None] * len(requests)
        return [
            self._adapter.row_state(self._encoder.features(one.request), one.request.prompt, one.request.spec.kind)
            for one in requests
        ]

    def _embed(self, parts: Sequence[tuple[Path, Kind, Segments]]) -> list[torch.Tensor]:
        texts, images = [], dict[Kind, list[ImageKey]]()
        for source, kind, segments in parts:
            texts += [one.ids for one in segments if isinstance(one, TextSegment) and one.ids]
            slots = (one for one in segments if isinstance(one, ImageSlot) and one.tokens)
            images.setdefault(kind, []).extend((source, slot.image) for slot in slots)
        visual = {kind: self._encoder.visual_tokens(keys, kind) for kind, keys in images.items()}
        written: Iterator[torch.Tensor] = iter(())
        if texts:
            together = self._adapter.embed_tokens(torch.tensor([token for own in texts for token in own]))
            written = iter(together.split([len(own) for own in texts]))
        return [
            torch.cat(
                [
                    next(written)
                    if isinstance(one, TextSegment)
                    else visual[kind][source, one.image][one.first : one.first + one.tokens]
                    for one in segments
                    if tokens_of(one)
                ]
            )
            for source, kind, segments in parts
        ]
