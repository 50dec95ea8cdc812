"""From a folder or a repository to a model, its processor and what identifies both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from medbench.adapters.hf.finding import (
    Configuration,
    find_model,
    names_code,
    plain_attention,
    read_config,
    refuse_unfit,
)
from medbench.adapters.hf.processors import Processor, load_processor
from medbench.adapters.plain_generation import forget_decoding
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.memory import room_for
from medbench.tasks.foundation.model_files import identity_of
from medbench.unimed.weights import device_and_dtype, strict_from_pretrained

# Its activations exceed what 16 bits with a small exponent hold: answers become padding.
_NOT_IN_FLOAT16 = frozenset({"gemma3", "gemma3n", "paligemma"})
_QUANTISED = "quantization_config"
Model = Any
"""Any model of transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was loaded.

    Attributes:
        model: Of `AutoModelForImageTextToText`, ready to answer.
        processor: Its processor, padding on the left.
        fingerprint: Of its files.
        made_of: What else makes it what it is: the commit of its repository, the class that reads its pictures.
        notices: What the run must show loudly.
    """

    model: Model
    processor: Processor
    fingerprint: str
    made_of: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def load_model(name: str, *, revision: str, device: str, dtype: str) -> Loaded:
    """Load a vision-language model strictly.

    Args:
        name: Folder, or repository on the Hub.
        revision: Of the repository.
        device: Word of the command line.
        dtype: Word of the command line.

    Raises:
        UsageError: If it is neither here nor on the Hub, or is no vision-language model, or not for this type.
        DataError: If a weight is missing, unexpected or of another shape, or a file is broken.
    """
    folder, commit = find_model(name, revision)
    refuse_unfit(folder)
    config = read_config(folder)
    place, kind = device_and_dtype(device, dtype)
    if kind == torch.float16 and config.model_type in _NOT_IN_FLOAT16:
        raise UsageError(f"{config.model_type} gives no numbers in float16.", "Give --dtype bfloat16 or float32.")
    notices = [_of_own_code(folder), plain_attention(config)]
    processor, mended = load_processor(folder, config)
    model = _model(folder, config, kind, place)
    forget_decoding(model)
    return Loaded(
        model=model.eval(), processor=processor, fingerprint=identity_of({"checkpoint": folder}),
        made_of=_made_of(processor, commit), notices=tuple(filter(None, [*notices, *mended])),
    )  # fmt: skip


def _model(folder: Path, config: Configuration, dtype: torch.dtype, device: torch.device) -> Model:
    # Quantised weights cannot be moved once they are loaded.
    quantised = _method_of(config)
    where: dict[str, Any] = {"device_map": {"": device}} if quantised else {}
    with room_for(f"The model in {folder}"):
        model = strict_from_pretrained(
            AutoModelForImageTextToText, folder, config=config, dtype=dtype,
            unreadable=lambda error: _not_loaded(folder, quantised, error), **where,
        )  # fmt: skip
        return model if quantised else model.to(device)


def _method_of(config: Configuration) -> str:
    """Return how a checkpoint was quantised; nothing if it was not."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        told = getattr(part, _QUANTISED, None)
        values = told if isinstance(told, Mapping) else getattr(told, "__dict__", {})
        if values:
            return str(values.get("quant_method") or "an unnamed method")
    return ""


def _not_loaded(folder: Path, quantised: str, error: Exception) -> MedbenchError:
    said = " ".join(str(error).split()) or type(error).__name__
    if quantised:
        return UsageError(
            f"The model in {folder} is quantised ({quantised}), and cannot be loaded here: {said}",
            "Install the library that the message names, on a device that it serves, or give the weights before they "
            "were quantised.",
        )
    return DataError(f"The model in {folder} cannot be read: {said}", "Download it again.")


def _of_own_code(folder: Path) -> str:
    return "config.json names code of its own (auto_map); it was not run, transformers' own is." * names_code(folder)


def _made_of(processor: Processor, commit: str) -> dict[str, str]:
    """Return what makes a model what it is beside its files."""
    images = type(processor.image_processor)
    made = {"image processor": f"{images.__module__}.{images.__qualname__}"}
    if any(base.__name__ == "TorchvisionBackend" for base in images.__mro__):
        # There is no class for PIL then.
        made["torchvision"] = version("torchvision")
    return made | ({"commit": commit} if commit else {})
