"""Features of a frozen vision tower on disk: computed once per image, whatever run or epoch asks."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.files import fingerprint

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class FeatureCache:
    """Feature tensors by the digest of their image.

    One file per image, written whole or not at all, so that several processes and trainings may share the folder.
    When the limit is reached nothing more is stored: every image comes equally often, so there is none to forget.
    A file of the wrong size is computed again; a full disk ends the storing, not the training.
    """

    folder: Path  # Of this tower, see `feature_folder`.
    shape: tuple[int, ...]  # Of one image's features.
    dtype: torch.dtype  # Of the stored values.
    limit: int  # Bytes that the folder may hold.
    _used: int = -1

    def get(self, digest: str) -> torch.Tensor | None:
        """Return the features of an image, or None."""
        try:
            values = np.fromfile(self._path(digest), dtype=np.uint8)
        except OSError:
            return None
        whole = len(values) == self._bytes_each()
        return torch.from_numpy(values).view(self.dtype).reshape(self.shape) if whole else None

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Store the features of an image if there is room."""
        if self._used < 0:
            self._used = sum(file.stat().st_size for file in self.folder.rglob("*.bin")) if self.limit else 0
        if self._used + self._bytes_each() > self.limit:
            return
        path = self._path(digest)
        partial = path.with_name(f".{digest}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            features.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(partial)
            partial.replace(path)
            self._used += self._bytes_each()
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            self.limit = 0
            warn(f"Features are no longer stored in {self.folder}: {error.strerror or error}. The training goes on.")

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.bin"

    def _bytes_each(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def feature_folder(root: Path, tower: torch.nn.Module, settings: Mapping[str, object]) -> Path:
    """Return the folder of a tower's features: another weight or setting (size, resampler, type) is another folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return root / "features" / fingerprint({"weights": digest.hexdigest(), **settings})


@torch.no_grad()
def features_of(
    digests: Sequence[str], found: Sequence[torch.Tensor | None], pixels: torch.Tensor, encode: Encode,
    cache: FeatureCache
) -> torch.Tensor:  # fmt: skip
    """Return the features [I, ...] of images: what the cache had (`found`), and the others computed and stored.

    Those are encoded from their `pixels` [J, 3, S, S].
    """
    computed = iter(encode(pixels).to(cache.dtype) if len(pixels) else ())
    rows = []
    for digest, known in zip(digests, found, strict=True):
        features = next(computed) if known is None else known
        if known is None:
            cache.put(digest, features)
        rows.append(features.to(pixels.device))
    return torch.stack(rows)
