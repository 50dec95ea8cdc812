"""The pictures of a corpus: decoded when needed, kept in memory while they fit, known by their content."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.images import locate, open_image
from medbench.tasks.sample import ImageRef
from medbench.unimed.processing import CLIP_MEAN, CLIP_STD

MEMORY_LIMIT = 2 << 30
"""Bytes of decoded pictures that are kept; what is above is decoded again."""


class Pictures:
    """Square 8-bit RGB pictures by row.

    Args:
        size: Side in pixels.
        memory: Bytes to keep decoded.
    """

    def __init__(self, size: int, memory: int = MEMORY_LIMIT) -> None:
        self.size = size
        self._rows: dict[tuple[Path, ImageRef], int] = {}
        self._places: list[tuple[Path, ImageRef]] = []
        self._digests: dict[Path, dict[str, str]] = {}
        self._kept: dict[int, torch.Tensor] = {}
        self._room = memory // (3 * size * size)

    @classmethod
    def of_tensor(cls, pictures: torch.Tensor) -> "Pictures":
        """Return pictures that are there already, bytes [N, 3, S, S]."""
        ready = cls(pictures.shape[-1])
        ready._places = [(Path(), ImageRef(path=str(row))) for row in range(len(pictures))]
        ready._kept = dict(enumerate(pictures))
        return ready

    def without_memory(self) -> "Pictures":
        """Return the same pictures, decoded anew whenever they are asked for."""
        forgetful = Pictures(self.size, memory=0)
        for place in self._places:
            forgetful.add(*place)
        return forgetful

    def __len__(self) -> int:
        return len(self._places)

    def learn_digests(self, source: Path, digests: Mapping[str, str]) -> None:
        """Remember the hashes of image files, by path relative to `source`; others are hashed when asked for."""
        self._digests.setdefault(source, {}).update(digests)

    def add(self, source: Path, ref: ImageRef) -> int:
        """Return the row of an image, the same for the same image."""
        key = (source, ref)
        if key not in self._rows:
            self._rows[key] = len(self._places)
            self._places.append(key)
        return self._rows[key]

    def place(self, row: int) -> tuple[Path, ImageRef]:
        """Return source folder and reference of a row."""
        return self._places[row]

    def digest(self, row: int) -> str:
        """Return the identity of a picture's content: its file's hash and its place inside."""
        source, ref = self._places[row]
        of_file = self._digests.get(source, {}).get(ref.path) or _file_digest(locate(source, ref.path))
        return hashlib.sha256(f"{of_file}/{ref.member}/{ref.index}".encode()).hexdigest()

    def bytes_of(self, rows: Sequence[int]) -> torch.Tensor:
        """Return pictures [B, 3, S, S], uint8.

        Raises:
            SampleError: If a picture is missing or damaged.
        """
        return torch.stack([self._decoded(row) for row in rows])

    def pixels(self, rows: Sequence[int]) -> torch.Tensor:
        """Return pictures [B, 3, S, S], float32, normalised as `pixels_of` does it."""
        return normalised(self.bytes_of(rows))

    def _decoded(self, row: int) -> torch.Tensor:
        if row in self._kept:
            return self._kept[row]
        square = open_image(*self._places[row]).resize((self.size, self.size), Image.Resampling.BICUBIC)
        picture = torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1)
        if len(self._kept) < self._room:
            self._kept[row] = picture
        return picture


@cache
def _file_digest(path: Path) -> str:
    return file_sha256(path)


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """Return pixels [B, 3, S, S] of bytes [B, 3, S, S], normalised as `pixels_of` does it."""
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return (pictures.float() / 255.0 - mean) / std
