"""Images become features once, however many questions are asked about them."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from adapters.base import LocalAdapter
from harness.engine.request import Request
from harness.phases import Phases
from tasks.foundation.errors import SampleError
from tasks.images import open_image
from tasks.sample import ImageRef
from tasks.spec import Kind

ImageKey = tuple[Path, ImageRef]
FEATURE_CACHE_BYTES = 1 << 30


class VisionCache:
    """Features of images, encoded in batches and kept until the memory bound is reached.

    Features do not depend on the task; visual tokens do and are computed per batch from them.
    """

    def __init__(self, adapter: LocalAdapter, phases: Phases, capacity: int = FEATURE_CACHE_BYTES) -> None:
        self._adapter = adapter
        self._phases = phases
        self._capacity = capacity
        self._features: OrderedDict[ImageKey, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def prepare(self, requests: Sequence[Request]) -> dict[str, str]:
        """Encode the images of `requests` that are new; return an error text by sample id where one is broken."""
        broken: dict[ImageKey, str] = {}
        pixels: dict[ImageKey, torch.Tensor] = {}
        for key in dict.fromkeys(_keys(requests)):
            if key in self._features:
                self._features.move_to_end(key)
                continue
            try:
                pixels[key] = self._pixels(key)
            except SampleError as error:
                broken[key] = str(error)
        self._encode(pixels)
        failed = {}
        for request in requests:
            errors = [broken[key] for key in _keys([request]) if key in broken]
            if errors:
                failed[request.sample.sample_id] = errors[0]
        return failed

    def _pixels(self, key: ImageKey) -> torch.Tensor:
        source, ref = key
        with self._phases.time("decode image"):
            image = open_image(source, ref)
        with self._phases.time("preprocess"):
            return self._adapter.pixels(image)

    def _encode(self, pixels: dict[ImageKey, torch.Tensor]) -> None:
        if not pixels:
            return
        try:
            with self._phases.time("encode"):
                features = self._adapter.encode_images(torch.stack(list(pixels.values())))
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
            self._encode_halves(pixels)
            return
        self._phases.count("images encoded", len(pixels))
        for key, feature in zip(pixels, features, strict=True):
            self._features[key] = feature
            self._bytes += feature.nbytes

    def _encode_halves(self, pixels: dict[ImageKey, torch.Tensor]) -> None:
        torch.cuda.empty_cache()
        items = list(pixels.items())
        for half in (items[: len(items) // 2], items[len(items) // 2 :]):
            self._encode(dict(half))

    def visual_tokens(self, keys: Sequence[ImageKey], kind: Kind) -> dict[ImageKey, torch.Tensor]:
        """Return visual tokens [V, D] of prepared images for a kind of task."""
        unique = list(dict.fromkeys(keys))
        if not unique:
            return {}
        with self._phases.time("connector"):
            tokens = self._adapter.project(torch.stack([self._features[key] for key in unique]), kind)
        return dict(zip(unique, tokens, strict=True))

    def trim(self) -> None:
        """Forget the images that were used longest ago until the bound holds; called between batches."""
        while self._bytes > self._capacity and self._features:
            _, feature = self._features.popitem(last=False)
            self._bytes -= feature.nbytes


def _keys(requests: Iterable[Request]) -> list[ImageKey]:
    return [(request.source, image) for request in requests for image in request.prompt.images()]
