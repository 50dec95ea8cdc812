"""Feature tensors of pictures: in memory up to a bound, what was used longest ago on the disk."""

import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CAPACITY = 1 << 30


class Features:
    """Keeps every tensor it is given, some of them in a temporary folder.

    Args:
        capacity: Bytes that stay in memory.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._near: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._far: dict[str, torch.device] = {}
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.spilled = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._near or digest in self._far

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Keep the features of a picture; those used longest ago make room."""
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
