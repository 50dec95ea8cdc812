"""Tensors in files: safetensors, torch files read without trusting them, folders of many shards."""

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import canonical_json, inside, read_json
from medbench.unimed.weights import State, some_of

SHARD_BYTES = 2_000_000_000
# torch's own reader of pickles raises those of the second line on bytes that are no pickle.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError,
               KeyError, IndexError, TypeError, AttributeError, struct.error)  # fmt: skip
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ALONE = ("model.safetensors", "pytorch_model.bin")


def read_torch_file(path: Path, hint: str = "") -> Mapping[str, Any]:
    """Return what `torch.save` wrote, tensors staying on the disk; DataError if broken, or anything could run code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = hint or "Copy the file again; only tensors are read."
        raise DataError(f"{path} cannot be read: {reason}", hint) from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds no mapping of names.", hint or "Give a checkpoint written by `torch.save`.")
    return content


def read_tensors(path: Path, hint: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of safetensors or a torch file, also under `model`; DataError if it holds other things."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} cannot be read: {error}", hint or "Copy it again.") from error
    content = read_torch_file(path, hint)
    nested = content.get("model")
    state = nested if isinstance(nested, Mapping) else content
    strangers = {str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)}
    if strangers:
        raise DataError(f"{path} holds more than tensors: {some_of(strangers)}.", hint or "Give a state dictionary.")
    return dict(state)


@dataclass(slots=True, kw_only=True)
class Shards:
    """The tensors of a folder, one at a time: models of many gigabytes in little memory."""

    files: Mapping[str, Path]  # The file of each tensor, by its name.
    # Torch files that were looked into; their tensors stay on the disk until they are used.
    opened: dict[Path, State] = field(default_factory=dict)

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor; DataError if its file is broken."""
        file = self.files[name]
        try:
            if file.suffix != ".safetensors":
                return self._torch_file(file)[name]
            with safe_open(file, framework="pt") as stream:
                return cast("torch.Tensor", stream.get_tensor(name))
        except (SafetensorError, OSError, KeyError) as error:
            raise DataError(f"{name} cannot be read from {file}: {error}", "Copy the file again.") from error

    def size(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; of safetensors without reading it."""
        file = self.files[name]
        if file.suffix != ".safetensors":
            return tuple(self._torch_file(file)[name].shape)
        with safe_open(file, framework="pt") as stream:
            return tuple(stream.get_slice(name).get_shape())

    def _torch_file(self, file: Path) -> State:
        if file not in self.opened:
            self.opened[file] = read_tensors(file)
        return self.opened[file]


def open_shards(folder: Path) -> Shards:
    """Return a folder's tensors, safetensors before torch files; DataError if there are none, or one is broken."""
    for index, alone in zip(_INDEXES, _ALONE, strict=True):
        if (folder / index).is_file():
            return Shards(files={name: inside(folder, file) for name, file in indexed_files(folder / index).items()})
        if (folder / alone).is_file():
            return Shards(files=dict.fromkeys(_names_in(folder / alone), folder / alone))
    expected = ", ".join((*_ALONE, *_INDEXES))
    raise DataError(f"{folder} holds no weights.", f"Expected one of {expected}, as transformers writes them.")


def indexed_files(index: Path) -> Mapping[str, str]:
    """Return the file of each tensor that an index names; DataError if one of the files is not there."""
    files: Mapping[str, str] = read_json(index).get("weight_map", {})
    missing = sorted({str(file) for file in files.values() if not inside(index.parent, str(file)).is_file()})
    if missing:
        problem = f"{index} names {len(missing)} files that are not there: {some_of(missing)}."
        raise DataError(problem, "Download the model again, whole.")
    return files


def _names_in(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(read_tensors(file))
    try:
        with safe_open(file, framework="pt") as stream:
            return list(stream.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}", "Copy it again.") from error


def write_shards(
    folder: Path, sizes: Mapping[str, int], tensor: Callable[[str], torch.Tensor], *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors as safetensors with an index, holding no more than one shard in memory.

    OSError, SafetensorError if the disk is full or not to be written to. `sizes` are the bytes of each tensor by its
    name, in order; `tensor` makes one of them, which always fits a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: list[list[str]] = [[]]
    for name, size in sizes.items():
        if groups[-1] and sum(map(sizes.__getitem__, groups[-1])) + size > shard_bytes:
            groups.append([])
        groups[-1].append(name)
    files: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: tensor(name).contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
    (folder / _INDEXES[0]).write_text(canonical_json(index, indent=2) + "\n", encoding="utf-8")
