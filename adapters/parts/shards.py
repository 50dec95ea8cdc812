"""Tensors of a checkpoint folder one at a time, and new folders written in small shards: 7B models in little memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import canonical_json, inside, read_json
from medbench.unimed.official.reading import read_tensors

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ALONE = ("model.safetensors", "pytorch_model.bin")
SHARD_BYTES = 2_000_000_000
Size = tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Shards:
    """Where the tensors of a folder are.

    Attributes:
        files: The file of each tensor, by its name.
        opened: Torch files that were looked into; their tensors stay on the disk until they are used.
    """

    files: Mapping[str, Path]
    opened: dict[Path, Mapping[str, torch.Tensor]] = field(default_factory=dict)

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor.

        Raises:
            DataError: If its file is broken.
        """
        file = self.files[name]
        try:
            if file.suffix != ".safetensors":
                return self._torch_file(file)[name]
            with safe_open(file, framework="pt") as stream:
                tensor: torch.Tensor = stream.get_tensor(name)
        except (SafetensorError, OSError, KeyError) as error:
            raise DataError(f"{name} cannot be read from {file}: {error}", "Copy the file again.") from error
        return tensor

    def size(self, name: str) -> Size:
        """Return the shape of a tensor; of safetensors without reading it."""
        file = self.files[name]
        if file.suffix != ".safetensors":
            return tuple(self._torch_file(file)[name].shape)
        with safe_open(file, framework="pt") as stream:
            return tuple(stream.get_slice(name).get_shape())

    def _torch_file(self, file: Path) -> Mapping[str, torch.Tensor]:
        if file not in self.opened:
            self.opened[file] = read_tensors(file)
        return self.opened[file]


def open_shards(folder: Path) -> Shards:
    """Return the tensors of a folder in the layout of transformers, safetensors before torch files.

    Raises:
        DataError: If there are no weights, or a file is missing or broken.
    """
    for index, alone in zip(_INDEXES, _ALONE, strict=True):
        if (folder / index).is_file():
            names: Mapping[str, str] = read_json(folder / index).get("weight_map", {})
            return _existing(Shards(files={name: inside(folder, file) for name, file in names.items()}))
        if (folder / alone).is_file():
            return Shards(files=dict.fromkeys(_names_in(folder / alone), folder / alone))
    raise DataError(
        f"{folder} holds no weights.",
        f"Expected one of {', '.join((*_ALONE, *_INDEXES))}, as transformers writes them.",
    )


def _existing(shards: Shards) -> Shards:
    missing = sorted({file.name for file in shards.files.values() if not file.is_file()})
    if missing:
        raise DataError(f"Weights are missing: {', '.join(missing)}.", "Copy the whole folder again.")
    return shards


def _names_in(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(read_tensors(file))
    try:
        with safe_open(file, framework="pt") as stream:
            return list(stream.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}", "Copy it again.") from error


def write_shards(
    folder: Path,
    sizes: Mapping[str, int],
    tensor: Callable[[str], torch.Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors as safetensors with an index, holding no more than one shard in memory.

    Args:
        folder: Where to; made if need be.
        sizes: Bytes of each tensor by its name, in order.
        tensor: Makes one of them.
        shard_bytes: Most bytes in a shard; one tensor always fits.

    Raises:
        OSError, SafetensorError: If the disk is full or not to be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = _groups(sizes, shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: tensor(name).contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
    (folder / _INDEXES[0]).write_text(canonical_json(index, indent=2) + "\n", encoding="utf-8")


def _groups(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if groups[-1] and held + size > most:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups
