"""Weights of every model: where they are, whether they fit, and how they get into a module, every one or none."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import logging as transformers_logging

from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError
from medbench.tasks.foundation.files import canonical_json, inside, read_json_object
from medbench.tasks.foundation.model_files import HINT, folder_named
from medbench.tasks.foundation.shortages import ran_out_of_memory, shortage

State = Mapping[str, torch.Tensor]
Names = str | tuple[str, ...]
LlamaT = TypeVar("LlamaT", bound=LlamaForCausalLM)
ROTARY = ("rotary_emb.inv_freq",)  # Ends of names in old checkpoints that follow from the configuration.
# What transformers, and the libraries below it, raise of files that they do not understand or cannot use here.
LIBRARY_FAULTS = (
    ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError,
    AssertionError, SyntaxError, EOFError, pickle.PickleError, zipfile.BadZipFile, struct.error,
    SafetensorError, StrictDataclassError,
)  # fmt: skip
SHARD_BYTES = 2_000_000_000
# torch's own reader of pickles raises those of the second line on bytes that are no pickle.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile,
               KeyError, IndexError, TypeError, AttributeError, AssertionError, struct.error)  # fmt: skip
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ALONE = ("model.safetensors", "pytorch_model.bin")
_SHOWN = 5
_MISFIT = "Nothing was loaded: random weights give random answers. Use the weights that belong to the configuration."


def device_and_dtype(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Return where a model runs and the type of its weights; UsageError if there is no such device here.

    `auto` takes CUDA, then MPS, then the CPU; the type `auto` is exact (float32) on the CPU and bfloat16 elsewhere.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    kind, _, number = device.partition(":")
    if not available.get(kind, False) or (number and int(number) >= torch.cuda.device_count()):
        several = [f"cuda:{one}" for one in range(torch.cuda.device_count()) if available["cuda"]]
        allowed = ", ".join([*(name for name, there in available.items() if there), *several])
        raise UsageError(f"There is no device {device!r} here.", f"Allowed: auto, {allowed}.")
    found = torch.device(device)
    exact = torch.float32 if found.type == "cpu" else torch.bfloat16
    return found, exact if dtype == "auto" else getattr(torch, dtype)


def find_folder(
    name: str, *, files: Sequence[str], what: str, hint: str, revision: str | None = None
) -> tuple[Path, str]:
    """Return a model's folder and full commit on the Hub ("" for the user's own folder); UsageError if not to be had.

    `files` are patterns of what is needed; `what` is the subject of the message, such as `The language model 'x'`.
    """
    folder = folder_named(name)
    if folder:
        return folder.resolve(), ""
    try:
        snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(f"{what} is no folder here, and the Hub did not give it: {error}", hint) from error
    # The Hub's cache keeps each commit in a folder of its name, whatever branch or tag led there.
    return snapshot, snapshot.name


def some_of(names: Iterable[str]) -> str:
    """Return the first few of many names."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def refuse_other_names(source: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Compare names of weights; DataError if one is missing or unknown."""
    have, need = set(given), set(expected)
    _refuse(source, {"missing": need - have, "unexpected": have - need})


def refuse_misfits(source: str, given: State, expected: State) -> None:
    """Compare names and shapes of weights; DataError if one is missing, unknown or of another shape."""
    refuse_other_names(source, given, expected)
    wrong = {
        f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}"
        for name, tensor in given.items()
        if tensor.shape != expected[name].shape
    }
    _refuse(source, {"of another shape": wrong})


def refuse_loading_info(source: str, info: Mapping[str, Any], *, harmless: Names = ()) -> None:
    """DataError if transformers reports weights that were missing, of another shape, or unknown and not `harmless`.

    Those are ends of the names of tensors that follow from the configuration anyway.
    """
    found: dict[str, set[str]] = {}
    for word in ("missing", "unexpected", "mismatched"):
        names = {str(key[0] if isinstance(key, tuple) else key) for key in info.get(f"{word}_keys") or ()}
        found[word] = {name for name in names if word != "unexpected" or not name.endswith(harmless)}
    _refuse(source, found)


def _refuse(source: str, problems: Mapping[str, set[str]]) -> None:
    told = [f"{len(names)} {word}: {some_of(names)}" for word, names in problems.items() if names]
    if told:
        raise DataError(f"{source} does not fit the configuration ({'; '.join(told)}).", _MISFIT)


def refuse_other_numbers(source: str, state: State) -> None:
    """Look that weights are floating-point numbers; DataError if some are not, as in quantised checkpoints."""
    other = [f"{name} of {tensor.dtype}" for name, tensor in state.items() if not tensor.is_floating_point()]
    if other:
        problem = f"{source} holds weights that are no floating-point numbers: {some_of(other)}."
        raise DataError(problem, "Give the published weights, not quantised ones.")


def refuse_different(source: str, copies: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    """Compare weights that a checkpoint holds twice, each with its name; DataError if the two of a name differ."""
    different = [name for name, first, second in copies if not torch.equal(first, second)]
    if different:
        problem = f"{source} holds {some_of(different)} twice, and differently."
        raise DataError(problem, "The published checkpoint holds equal copies; download it again.")


def unwrapped(state: State) -> dict[str, torch.Tensor]:
    """Return a state without the leading `module.` that training on several devices leaves in names."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def part_of(state: State, prefix: str) -> dict[str, torch.Tensor]:
    """Return what begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def strict_from_pretrained(kind: Any, folder: Path, *, harmless: Names = (), **options: Any) -> Any:  # noqa: ANN401
    """Load a model of a class of transformers, every weight or none; no code of the folder is run.

    DataError if a weight is missing, unexpected or of another shape, or a file is broken. `harmless` are ends of names
    of tensors that may lie in the folder without being read; `options` are those of `reported_from_pretrained`.
    """
    model, info = reported_from_pretrained(kind, folder, **options)
    refuse_loading_info(str(folder), info, harmless=harmless)
    return model


def reported_from_pretrained(
    kind: Any, folder: Path, *, unreadable: Callable[[Exception], MedbenchError] | None = None, **options: Any  # noqa: ANN401
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """Return a model and transformers' report, silently; see `strict_from_pretrained` and `refuse_loading_info`.

    `unreadable` makes the error of what a library raised, by default a DataError; `options` are `from_pretrained`'s.
    """
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        model, info = kind.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False, **options
        )
    except LIBRARY_FAULTS as error:
        if isinstance(error, MedbenchError) or shortage(error):
            raise
        plain = DataError(f"{folder} cannot be read: {error}", "Copy it again.")
        raise (unreadable(error) if unreadable else plain) from error
    finally:
        transformers_logging.set_verbosity(before)
    return model, info


def fill(module: nn.Module, state: State, source: str, *, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module of the meta device its weights, one after another, so that no second copy is held.

    DataError if one is missing, unexpected, misshapen or no floating-point number; RunError if there is no room.
    """
    refuse_misfits(source, state, module.state_dict())
    refuse_other_numbers(source, state)
    try:
        moved = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        needed = sum(tensor.numel() for tensor in state.values()) * dtype.itemsize / 1e9
        size = f"{needed:.3g} GB of weights are too much for the memory of {device} that is free."
        raise RunError(f"{source} does not fit: {size}", HINT) from error
    module.load_state_dict(moved, strict=True, assign=True)
    module.train(mode=False).requires_grad_(requires_grad=False)


def filled_llama(
    kind: Callable[[LlamaConfig], LlamaT], config: LlamaConfig, state: State, source: str, *,
    device: torch.device, dtype: torch.dtype,
) -> LlamaT:  # fmt: skip
    """Return a LLaMA that `kind` makes of a configuration, with all of its weights from `state`; errors of `fill`.

    DataError too if there can be no model of this `config`.
    """
    try:
        with torch.device("meta"):
            model = kind(config)
        # The frequencies are no weights: no checkpoint sets them, and on the meta device they have no values.
        frequencies = LlamaRotaryEmbedding(config)
    except LIBRARY_FAULTS as error:
        problem = f"The configuration of the language model of {source} cannot be used: {type(error).__name__} {error}."
        raise DataError(problem, "Copy the configuration that belongs to the weights.") from error
    fill(model, state, source, device=device, dtype=dtype)
    model.model.rotary_emb = frequencies.to(device)
    empty = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if empty:
        raise DataError(f"{source} set no values of {some_of(empty)}.", "This is a fault of medbench: report it.")
    return model


def copy_into(parameters: State, tensors: State, source: str) -> None:
    """Put tensors into parameters, of these' type and device; DataError if one is missing, unexpected or misshapen."""
    refuse_misfits(source, tensors, parameters)
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def cast_parameters(model: nn.Module, dtype: torch.dtype, *, exact: Iterable[nn.Parameter] = ()) -> None:
    """Cast weights in place, `exact` ones to float32; not buffers: bfloat16 frequencies turn far positions wrong.

    Only the statistics of a batch norm go with its weights: on a CPU it takes one type.
    """
    kept = set(exact)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter in kept else dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.to(module.weight.dtype)


class _NoLongerThanItIs(io.BufferedReader):
    """A file that is not asked for more bytes than it has: a few of a pickle may name gigabytes of room."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes; EOFError if there are fewer."""
        left = os.fstat(self.fileno()).st_size - self.tell()
        if size is not None and size > left:
            raise EOFError(f"it names {size:,} bytes where {left:,} are left")
        return super().read(size)


def read_torch_file(path: Path, hint: str = "") -> Mapping[str, Any]:
    """Return what `torch.save` wrote, tensors staying on the disk; DataError if broken, or anything could run code."""
    try:
        if zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            with _NoLongerThanItIs(path.open("rb", buffering=0)) as stream:
                content = torch.load(stream, map_location="cpu", weights_only=True)
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
    """The tensors of a folder, on the disk until they are used: models of many gigabytes in little memory."""

    files: Mapping[str, Path]  # The file of each tensor, by its name.
    opened: dict[Path, State] = field(default_factory=dict)

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor; DataError if its file is broken, or has no such tensor."""
        file = self.files[name]
        try:
            if file not in self.opened:
                self.opened[file] = read_tensors(file)
            return self.opened[file][name]
        except (DataError, KeyError) as error:
            said = error.problem if isinstance(error, DataError) else "there is none of this name."
            raise DataError(f"{name} cannot be read from {file}: {said}", "Copy the file again.") from error


def open_shards(folder: Path) -> Shards:
    """Return a folder's tensors, safetensors before torch files; DataError if there are none, or one is broken."""
    for index, alone in zip(_INDEXES, _ALONE, strict=True):
        if (folder / index).is_file():
            return Shards(files={name: inside(folder, file) for name, file in indexed_files(folder / index).items()})
        if (folder / alone).is_file():
            state = read_tensors(folder / alone)
            return Shards(files=dict.fromkeys(state, folder / alone), opened={folder / alone: state})
    expected = ", ".join((*_ALONE, *_INDEXES))
    raise DataError(f"{folder} holds no weights.", f"Expected one of {expected}, as transformers writes them.")


def weight_map(index: Path) -> Mapping[str, str]:
    """Return the name of the file of each tensor that an index names; DataError if it is no index."""
    files = read_json_object(index).get("weight_map", {})
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise DataError(f"{index} is no index of weights: `weight_map` names no files.", "Download the model again.")
    return files


def indexed_files(index: Path) -> Mapping[str, str]:
    """Return the file of each tensor that an index names; DataError if one of the files is not there."""
    files = weight_map(index)
    missing = sorted({file for file in files.values() if not inside(index.parent, file).is_file()})
    if missing:
        problem = f"{index} names {len(missing)} files that are not there: {some_of(missing)}."
        raise DataError(problem, "Download the model again, whole.")
    return files


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
