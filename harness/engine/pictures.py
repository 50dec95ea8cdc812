"""Pictures read, decoded and preprocessed in the background, a bounded number ahead of the decoder."""

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from medbench.adapters.base import LocalAdapter, Pixels
from medbench.adapters.guarding import one_sample
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import locate, open_image
from medbench.tasks.sample import ImageRef

ImageKey = tuple[Path, ImageRef]
AHEAD = 64
WORKERS = max(1, min(8, (os.cpu_count() or 1) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture on the CPU.

    Attributes:
        digest: Of its bytes; equal for the same picture under another name.
        pixels: As the vision tower wants them; None if a picture of the same bytes was read before.
        seconds: Reading and decoding, preprocessing.
    """

    digest: str
    pixels: Pixels | None
    seconds: tuple[float, float] = (0.0, 0.0)


class Pictures:
    """Reads pictures that are expected, `AHEAD` of them at most, and hands out each when asked; a context manager."""

    def __init__(self, adapter: LocalAdapter, phases: Phases) -> None:
        self._adapter = adapter
        self._phases = phases
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="pictures")
        self._expected: deque[ImageKey] = deque()
        self._reading: dict[ImageKey, Future[Picture]] = {}
        self._read: dict[ImageKey, str] = {}
        self._lock = threading.Lock()
        self._first: dict[str, ImageKey] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._pool.shutdown(wait=True, cancel_futures=True)

    def expect(self, keys: Iterable[ImageKey]) -> None:
        """Note what will be asked for next."""
        self._expected.extend(key for key in keys if key not in self._read)
        self._read_ahead()

    def digest(self, key: ImageKey) -> str | None:
        """Return the digest of a picture that was handed out before."""
        return self._read.get(key)

    def first(self, digest: str) -> ImageKey:
        """Return the first picture with these bytes."""
        return self._first[digest]

    def take(self, key: ImageKey) -> Picture:
        """Return a picture, waiting for it if it is still being read.

        Raises:
            SampleError: If it is missing or broken.
        """
        reading = self._reading.pop(key, None) or self._pool.submit(self._load, key)
        with self._phases.time("wait for images"):
            picture = reading.result()
        self._read[key] = picture.digest
        first = self.first(picture.digest)
        if picture.pixels is None and first in self._reading:
            return self.take(first)
        decoding, preprocessing = picture.seconds
        self._phases.add_background("decode image", decoding)
        self._phases.add_background("preprocess", preprocessing)
        self._read_ahead()
        return picture

    def ready(self) -> list[ImageKey]:
        """Return the pictures that are read and not yet taken, in the order of their reading."""
        return [key for key, reading in self._reading.items() if reading.done() and reading.exception() is None]

    def _read_ahead(self) -> None:
        while self._expected and len(self._reading) < AHEAD:
            key = self._expected.popleft()
            if key not in self._read and key not in self._reading:
                self._reading[key] = self._pool.submit(self._load, key)

    def _load(self, key: ImageKey) -> Picture:
        source, ref = key
        started = time.perf_counter()
        digest = _digest(source, ref)
        with self._lock:
            first = self._first.setdefault(digest, key)
        if first != key:
            return Picture(digest=digest, pixels=None)
        image = open_image(source, ref)
        decoded = time.perf_counter()
        with one_sample(self._adapter, f"pixels() of {ref.path}"):
            pixels = self._adapter.pixels(image)
        return Picture(digest=digest, pixels=pixels, seconds=(decoded - started, time.perf_counter() - decoded))


def _digest(source: Path, ref: ImageRef) -> str:
    """Return a digest of a picture's file and its place therein."""
    path = locate(source, ref.path)
    if ref.member:
        # Rows of one array differ by their place; the array itself may be gigabytes.
        return hashlib.sha256(f"{path}/{ref.member}/{ref.index}".encode()).hexdigest()
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SampleError(f"The image {path} cannot be read: {error.strerror or error}.") from error
