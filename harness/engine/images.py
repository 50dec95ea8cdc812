"""Images on their way to embeddings: read by threads ahead of the decoder, encoded once, kept for all who ask again."""

import hashlib
import os
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medbench.adapters.base import ImageSlot, LocalAdapter, Pixels, TextSegment, tokens_of
from medbench.adapters.guarding import one_sample
from medbench.harness.engine.faults import Survived
from medbench.harness.engine.requests import ImageKey, Outcome, PrefixedRequest, Segments, failed
from medbench.harness.engine.timing import WAITED, timed
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import FailureKind, PictureError, RunError, SampleError
from medbench.tasks.images import locate, open_image
from medbench.tasks.sample import ImageRef
from medbench.tasks.spec import Kind

AHEAD = 64
WORKERS = max(1, min(8, (os.cpu_count() or 1) - 1))
TOGETHER = 16
FEATURE_BYTES = 1 << 30


def digest_of(source: Path, ref: ImageRef) -> str:
    """Return what an image is known by: the bytes of its file; PictureError if it cannot be read."""
    path = locate(source, ref.path)
    if ref.member:
        # Rows of one array differ by their place; the array itself may be gigabytes.
        return hashlib.sha256(f"{path}/{ref.member}/{ref.index}".encode()).hexdigest()
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise PictureError(f"The image {path} cannot be read: {error.strerror or error}.") from error


def _on_host(features: torch.Tensor) -> torch.Tensor:
    """Return features in the host's memory; a GPU copies them while the host goes on, in the order of its work."""
    if features.device.type != "cuda":
        return features.cpu()
    return torch.empty_like(features, device="cpu", pin_memory=True).copy_(features, non_blocking=True)


def _is_sound(future: Future[Any]) -> bool:
    return future.done() and future.exception() is None


class FeatureCache:
    """Keeps feature tensors of images: up to `capacity` bytes in the host's memory, those used longest ago in a folder.

    A GPU's own memory is for keys and values: features come from it, and go back to it when they are asked for.
    """

    def __init__(self, capacity: int = FEATURE_BYTES) -> None:
        self._capacity = capacity
        self._near: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.far: set[str] = set()
        self._devices: dict[str, torch.device] = {}
        self._bytes = 0

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Keep the features of an image; those used longest ago make room."""
        self._devices[digest] = features.device
        self._near[digest] = _on_host(features)
        self._bytes += features.nbytes
        while self._bytes > self._capacity and len(self._near) > 1:
            oldest, features = self._near.popitem(last=False)
            self._bytes -= features.nbytes
            self._spill(oldest, features)
            self.far.add(oldest)

    def get(self, digest: str) -> torch.Tensor:
        """Return features that were put, on the device that they came from."""
        device = self._devices[digest]
        if digest in self._near:
            self._near.move_to_end(digest)
            return self._near[digest].to(device, non_blocking=True)
        return load_file(Path(self._folder.name, digest))["features"].to(device)

    def _spill(self, digest: str, features: torch.Tensor) -> None:
        device = self._devices[digest]
        if device.type == "cuda":
            # They may still be on their way from it.
            torch.cuda.current_stream(device).synchronize()
        try:
            save_file({"features": features.contiguous()}, Path(self._folder.name, digest))
        except (OSError, SafetensorError) as error:
            problem = f"Features of images do not fit into the temporary folder {tempfile.gettempdir()}: {error}."
            way_out = "Make room there, or set TMPDIR to another folder; the same command continues."
            raise RunError(problem, way_out) from error

    @cached_property
    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="medbench-features-")


class Images(AbstractContextManager["Images"]):
    """Reads expected images in threads, encodes every one once, with others that are ready, and embeds segments [L, D].

    Features do not depend on the task; visual tokens do, and are projected for those who share them. Images are known
    by the bytes of their files.
    """

    def __init__(self, adapter: LocalAdapter, phases: Phases) -> None:
        self._adapter = adapter
        self._phases = phases
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="images")
        self._lock = threading.Lock()
        self._expected: deque[ImageKey] = deque()
        self._reading: dict[ImageKey, Future[str]] = {}
        # By digest: twins wait for the pixels of the first, of which none are left once its features are there.
        self._decoded: dict[str, Future[Pixels] | None] = {}
        self._digests: dict[ImageKey, str] = {}
        self._broken: dict[ImageKey, tuple[str, FailureKind]] = {}
        self._pixels: dict[str, Pixels] = {}
        self._features = FeatureCache()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._phases.settle(WAITED)

    def expect(self, keys: Iterable[ImageKey]) -> None:
        """Note what will be asked for next; `AHEAD` images are read at most."""
        self._expected.extend(key for key in keys if key not in self._digests)
        self._read_ahead()

    def take(self, key: ImageKey) -> str:
        """Wait for the pixels of an image, which are encoded with those of the next requests; return its digest.

        Raises SampleError if it is missing or broken.
        """
        reading = self._reading.pop(key, None) or self._pool.submit(self._read, key)
        with self._phases.time("wait for images"):
            digest = reading.result()
            decoded = self._decoded[digest]
            pixels = None if decoded is None else decoded.result()
        self._digests[key] = digest
        if pixels is not None and digest not in self._pixels:
            self._pixels[digest] = pixels
        self._read_ahead()
        return digest

    def sound(self, requests: Sequence[PrefixedRequest]) -> tuple[list[PrefixedRequest], list[Outcome]]:
        """Encode the new images of requests; return those that can be answered, and the errors of the others."""
        keys = dict.fromkeys(key for one in requests for key in one.request.images)
        self._take(keys)
        if any(self._digests.get(key) in self._pixels for key in keys):
            self._take(self._ready())
            waiting, asked = list(self._pixels), {self._digests.get(key) for key in keys}
            for start in range(0, len(waiting), TOGETHER):
                self._encode(waiting[start : start + TOGETHER], asked)
        problems = [next(filter(None, map(self._broken.get, one.request.images)), None) for one in requests]
        pairs = list(zip(requests, problems, strict=True))
        errors = [failed(one.request, *problem) for one, problem in pairs if problem]
        return [one for one, problem in pairs if not problem], errors

    def states(self, requests: Sequence[PrefixedRequest]) -> list[object]:
        """Return what requests read by cross-attention; None for each if the decoder has none."""
        if not self._adapter.has_row_states:
            return [None] * len(requests)
        return [
            self._adapter.row_state(self._features_of(request.images), request.prompt, request.spec.kind)
            for request in (one.request for one in requests)
        ]

    def own(self, requests: Sequence[PrefixedRequest]) -> list[torch.Tensor]:
        """Return the embeddings of what is each one's own."""
        return self.embed([(one.request.source, one.request.spec.kind, one.own) for one in requests])

    def embed(self, parts: Sequence[tuple[Path, Kind, Segments]]) -> list[torch.Tensor]:
        """Return the embeddings of segments, whose images must be encoded: texts in one call, images in one by kind."""
        texts, images = [], dict[Kind, dict[ImageKey, None]]()
        for source, kind, segments in parts:
            texts += [one.ids for one in segments if isinstance(one, TextSegment) and one.ids]
            slots = (one for one in segments if isinstance(one, ImageSlot) and one.tokens)
            images.setdefault(kind, {}).update({(source, slot.image): None for slot in slots})
        visual: dict[tuple[Kind, ImageKey], torch.Tensor] = {}
        for kind, keys in images.items():
            if keys:
                with timed(self._phases, self._adapter.device, {"connector": 1}):
                    tokens = self._adapter.project(self._features_of(keys), kind)
                self._phases.count("images projected", len(keys))
                visual |= {(kind, key): own for key, own in zip(keys, tokens, strict=True)}
        written: Iterator[torch.Tensor] = iter(())
        if texts:
            together = self._adapter.embed_tokens(torch.tensor([token for own in texts for token in own]))
            written = iter(together.split([len(own) for own in texts]))
        return [
            torch.cat([
                next(written)
                if isinstance(one, TextSegment)
                else visual[kind, (source, one.image)][one.first : one.first + one.tokens]
                for one in segments
                if tokens_of(one)
            ])
            for source, kind, segments in parts
        ]  # fmt: skip

    def _features_of(self, keys: Iterable[ImageKey]) -> list[torch.Tensor]:
        return [self._features.get(self._digests[key]) for key in keys]

    def _take(self, keys: Iterable[ImageKey]) -> None:
        for key in keys:
            if key not in self._broken and key not in self._digests:
                try:
                    self.take(key)
                except SampleError as error:
                    self._broken[key] = str(error), error.kind

    def _ready(self) -> list[ImageKey]:
        read = [(key, self._decoded[one.result()]) for key, one in self._reading.items() if _is_sound(one)]
        return [key for key, decoded in read if decoded is None or _is_sound(decoded)][:TOGETHER]

    def _read_ahead(self) -> None:
        while self._expected and len(self._reading) < AHEAD:
            key = self._expected.popleft()
            if key not in self._digests and key not in self._reading:
                self._reading[key] = self._pool.submit(self._read, key)

    def _read(self, key: ImageKey) -> str:
        digest = digest_of(*key)
        with self._lock:
            if digest not in self._decoded:
                self._decoded[digest] = self._pool.submit(self._decode, *key)
        return digest

    def _decode(self, source: Path, ref: ImageRef) -> Pixels:
        started = time.perf_counter()
        image = open_image(source, ref)
        decoded = time.perf_counter()
        with one_sample(self._adapter, f"pixels() of {ref.path}"):
            pixels = self._adapter.pixels(image)
        with self._lock:
            self._phases.background["decode image"] += decoded - started
            self._phases.background["preprocess"] += time.perf_counter() - decoded
        return pixels

    def _encode(self, digests: list[str], asked: Container[str | None]) -> None:
        """Encode images together, or in halves where that fails; one that fails alone takes no other along."""
        encoded = None
        with Survived(self._adapter.device) as fault, timed(self._phases, self._adapter.device, {"encode": 1}):
            encoded = self._adapter.encode_images([self._pixels[digest] for digest in digests])
        if encoded is None and len(digests) == 1:
            self._leave_out(digests[0], fault, asked=digests[0] in asked)
            return
        if encoded is None:
            # What was tried is let go before fewer are.
            torch.cuda.empty_cache()
            half = len(digests) // 2
            self._encode(digests[:half], asked)
            self._encode(digests[half:], asked)
            return
        self._phases.count("images encoded", len(digests))
        for digest, features in zip(digests, encoded, strict=True):
            # A slice of a batch would keep the whole batch alive.
            whole = features.untyped_storage().nbytes() == features.nbytes
            self._features.put(digest, features if whole else features.clone())
            del self._pixels[digest]
            self._decoded[digest] = None

    def _leave_out(self, digest: str, fault: Survived, *, asked: bool) -> None:
        """Let an image be read anew by who asks for it, or be broken; OutOfMemoryError if it is `asked` for now."""
        del self._pixels[digest]
        for key in [key for key, own in self._digests.items() if own == digest]:
            del self._digests[key]
            if fault.problem:
                self._broken[key] = f"The model failed on the image {key[1].path}: {fault.problem}.", "model"
        if asked and fault.memory:
            raise torch.OutOfMemoryError("Memory ran out on an image alone.")
