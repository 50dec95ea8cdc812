"""Images become features once, however many questions are asked about them."""

from collections.abc import Iterable, Sequence

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.features import Features
from medbench.harness.engine.grouping import Member
from medbench.harness.engine.pictures import ImageKey, Pictures
from medbench.harness.engine.request import Outcome, Request, failed
from medbench.harness.engine.uploads import Upload, Uploads
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.spec import Kind

TOGETHER = 16


def image_keys(requests: Iterable[Request]) -> list[ImageKey]:
    """Return the images of requests, one after another."""
    return [(request.source, image) for request in requests for image in request.prompt.images()]


class Vision:
    """Encodes every picture once, with others that are ready.

    Features do not depend on the task; visual tokens do, and are projected for those who share them.
    """

    def __init__(self, adapter: LocalAdapter, pictures: Pictures, phases: Phases) -> None:
        self._adapter = adapter
        self._pictures = pictures
        self._phases = phases
        self._features = Features()
        self._uploads = Uploads(adapter.device)
        self._pixels: dict[str, Upload] = {}
        self._broken: dict[ImageKey, str] = {}

    def prepare(self, keys: Sequence[ImageKey]) -> dict[ImageKey, str]:
        """Encode images that are new; return the error of each that is broken."""
        unique = list(dict.fromkeys(keys))
        for key in unique:
            self._take(key)
        if any(self._digest(key) in self._pixels for key in unique if key not in self._broken):
            self._take_ready()
            self._encode_all()
            if self._uploads.ahead:
                self._take_ready()
        return {key: self._broken[key] for key in unique if key in self._broken}

    def sound(self, members: Sequence[Member]) -> tuple[list[Member], list[Outcome]]:
        """Encode the images of members; return those that can be answered, and the errors of the others."""
        broken = self.prepare(image_keys(member.request for member in members))
        sound: list[Member] = []
        errors: list[Outcome] = []
        for member in members:
            own = [broken[key] for key in image_keys([member.request]) if key in broken]
            if own:
                errors.append(failed(member.request, own[0]))
            else:
                sound.append(member)
        return sound, errors

    def features(self, request: Request) -> list[torch.Tensor]:
        """Return the features of a request's images, which must be prepared, in order."""
        return [self._features.get(self._digest(key)) for key in image_keys([request])]

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
        for key in self._pictures.ready()[:TOGETHER]:
            self._take(key)

    def _take(self, key: ImageKey) -> None:
        if key in self._broken or self._pictures.digest(key) is not None:
            return
        try:
            picture = self._pictures.take(key)
        except SampleError as error:
            self._broken[key] = str(error)
            return
        if picture.pixels is not None:
            self._pixels[picture.digest] = self._uploads.start(picture.pixels)
        elif picture.digest not in self._features and picture.digest not in self._pixels:
            self._broken[key] = self._broken[self._pictures.first(picture.digest)]

    def _digest(self, key: ImageKey) -> str:
        digest = self._pictures.digest(key)
        if digest is None:
            raise KeyError(key)
        return digest

    def _encode_all(self) -> None:
        waiting = list(self._pixels)
        for start in range(0, len(waiting), TOGETHER):
            self._encode(waiting[start : start + TOGETHER])

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
                return self._adapter.encode_images([self._pixels[digest].arrived() for digest in digests])
        except torch.OutOfMemoryError:
            if len(digests) == 1:
                raise
        torch.cuda.empty_cache()
        return None
