"""Features of a frozen vision tower on disk: computed once per picture, whatever run or epoch asks."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.files import fingerprint

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class Counts:
    """What the cache did."""

    found: int = 0
    computed: int = 0
    stored: int = 0


@dataclass(slots=True)
class FeatureCache:
    """Feature tensors by the digest of their picture.

    One file per picture, written whole or not at all, so that several processes and trainings may share the folder.
    When the limit is reached nothing more is stored: every picture comes equally often, so there is none to forget.
    A file of the wrong size is computed again; a full disk ends the storing, not the training.

    Attributes:
        folder: Of this tower, see `feature_folder`.
        shape: Of one picture's features.
        dtype: Of the stored values.
        limit: Bytes that the folder may hold.
        counts: What was found, computed and stored.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    limit: int
    counts: Counts = field(default_factory=Counts)
    _used: int = -1

    def get(self, digest: str) -> torch.Tensor | None:
        """Return the features of a picture, or None."""
        path = self._path(digest)
        try:
            values = np.fromfile(path, dtype=np.uint8)
        except OSError:
            return None
        if len(values) != self._bytes_each():
            return None
        self.counts.found += 1
        return torch.from_numpy(values).view(self.dtype).reshape(self.shape)

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Store the features of a picture if there is room."""
        size = self._bytes_each()
        if self._used < 0:
            self._used = sum(file.stat().st_size for file in self.folder.rglob("*.bin")) if self.limit else 0
        if self._used + size > self.limit:
            return
        path = self._path(digest)
        partial = path.with_name(f".{digest}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            features.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(partial)
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            self.limit = 0
            warn(f"Features are no longer stored in {self.folder}: {error.strerror or error}. The training goes on.")
            return
        self._used += size
        self.counts.stored += 1

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.bin"

    def _bytes_each(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def feature_folder(root: Path, tower: torch.nn.Module, settings: Mapping[str, object]) -> Path:
    """Return the folder of a tower's features: another weight or setting (size, resampler, type) is another folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    identity = fingerprint({"weights": digest.hexdigest(), **settings})
    return root / "features" / identity


@torch.no_grad()
def features_of(
    digests: Sequence[str],
    found: Sequence[torch.Tensor | None],
    pixels: torch.Tensor,
    encode: Encode,
    cache: FeatureCache,
) -> torch.Tensor:
    """Return the features [I, ...] of pictures: those that were found, and the others computed and stored.

    Args:
        digests: Of every picture.
        found: What the cache had for it.
        pixels: Of the pictures that it had not, [J, 3, S, S].
        encode: Pixels to features [J, ...].
        cache: Where new ones go.
    """
    missing = [place for place, features in enumerate(found) if features is None]
    computed = iter(encode(pixels).to(cache.dtype) if missing else ())
    rows = []
    for place, features in enumerate(found):
        if features is None:
            features = next(computed)  # noqa: PLW2901 - what the cache lacked
            cache.put(digests[place], features)
        rows.append(features.to(pixels.device))
    cache.counts.computed += len(missing)
    return torch.stack(rows)
