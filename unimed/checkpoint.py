"""Reading a checkpoint folder, strictly: what is missing, broken or too much stops the load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from tasks.foundation.errors import DataError, UsageError
from tasks.foundation.files import file_sha256, fingerprint
from tasks.foundation.yaml_tables import read_yaml_table
from unimed.configuration import UniMedConfig
from unimed.modeling import UniMedForConditionalGeneration
from unimed.processing import UniMedProcessor, load_tokenizer

NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
RECIPE_FILE = "recipe.yaml"
_SHOWN_KEYS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A model with its processor, the identity of its files, and the tasks of the recipe that made it."""

    model: UniMedForConditionalGeneration
    processor: UniMedProcessor
    fingerprint: str
    trained_on: frozenset[str]


def load_checkpoint(folder: Path, *, device: str = "auto", dtype: str = "auto") -> LoadedCheckpoint:
    """Load a checkpoint folder as `medbench train` writes it.

    Args:
        folder: With config.json, model.safetensors and the tokenizer's files.
        device: `auto` takes CUDA, then MPS, then the CPU.
        dtype: `auto` takes float32 on the CPU and bfloat16 elsewhere.

    Raises:
        DataError: If a file is missing or broken, or a weight is missing, unexpected or of another shape.
        UsageError: If the device is not there.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} is not a Uni-Med checkpoint: {', '.join(missing)} missing.",
            f"A checkpoint folder holds {', '.join(NEEDED)}, as `medbench train --output DIR` writes them.",
        )
    transformers_logging.disable_progress_bar()
    chosen = resolve_device(device)
    model = _load_model(folder, resolve_dtype(dtype, chosen))
    torch.nn.Module.to(model, chosen).eval()
    config = model.config
    processor = UniMedProcessor(
        _load_tokenizer(folder),
        image_size=config.image_size,
        visual_tokens=config.visual_tokens,
    )
    identity = fingerprint({name: file_sha256(folder / name) for name in NEEDED})
    return LoadedCheckpoint(
        model=model, processor=processor, fingerprint=identity, trained_on=_tasks_of_recipe(folder / RECIPE_FILE)
    )


def _tasks_of_recipe(path: Path) -> frozenset[str]:
    mixture = read_yaml_table(path).get("mixture") if path.is_file() else None
    return frozenset(mixture) if isinstance(mixture, dict) else frozenset()


def resolve_device(device: str) -> torch.device:
    """Return the device for a word of the command line.

    Raises:
        UsageError: If this machine or this build of torch does not have it.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available.get(device.partition(":")[0], False):
        allowed = ", ".join(name for name, there in available.items() if there)
        raise UsageError(f"There is no device {device!r} here.", f"Allowed: auto, {allowed}.")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the type for a word of the command line; `auto` is exact on the CPU and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    try:
        return load_tokenizer(folder)
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        raise DataError(f"The tokenizer in {folder} cannot be read: {error}", "Copy the checkpoint again.") from error


def _load_model(folder: Path, dtype: torch.dtype) -> UniMedForConditionalGeneration:
    try:
        config = UniMedConfig.from_pretrained(folder)
        loaded: Any = UniMedForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (SafetensorError, StrictDataclassError, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"The checkpoint {folder} cannot be read: {error}", "Copy it again or train it anew."
        ) from error
    model, info = loaded
    _refuse_misfits(folder, info)
    return cast("UniMedForConditionalGeneration", model)


def _refuse_misfits(folder: Path, info: dict[str, Any]) -> None:
    problems = []
    for word in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get(word) or ())
        if keys:
            more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
            problems.append(f"{len(keys)} {word.removesuffix('_keys')}: {', '.join(keys[:_SHOWN_KEYS])}{more}")
    if problems:
        raise DataError(
            f"The weights in {folder} do not fit its config.json ({'; '.join(problems)}).",
            "Nothing was run: random weights give random answers. Use the weights that belong to the config.",
        )
