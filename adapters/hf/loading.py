"""From a folder or a repository to a model, its processor and what identifies its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText

from adapters.hf.processors import load_processor
from adapters.plain_generation import forget_decoding
from tasks.foundation.errors import DataError, UsageError
from tasks.foundation.files import fingerprint
from tasks.foundation.memory import room_for
from unimed.base_weights import sampled_files
from unimed.checkpoint import resolve_device, resolve_dtype
from unimed.strict_weights import refuse_loading_info

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Its activations exceed what 16 bits with a small exponent hold: answers become padding.
_NOT_IN_FLOAT16 = frozenset({"gemma3", "gemma3n", "paligemma"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was loaded.

    Attributes:
        model: Of `AutoModelForImageTextToText`, ready to answer.
        processor: Its processor, padding on the left.
        fingerprint: Of its files.
    """

    model: Any
    processor: Any
    fingerprint: str


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
    folder = find_folder(name, revision)
    config = _config(folder)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    if kind == torch.float16 and config.model_type in _NOT_IN_FLOAT16:
        raise UsageError(f"{config.model_type} gives no numbers in float16.", "Give --dtype bfloat16 or float32.")
    processor = load_processor(folder, config)
    try:
        with room_for(f"The model in {folder}"):
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder, config=config, dtype=kind, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"The model in {folder} cannot be read: {error}", "Download it again.") from error
    model, info = loaded
    refuse_loading_info(str(folder), info)
    forget_decoding(model)
    with room_for(f"The model in {folder}"):
        model = model.to(place).eval()
    return Loaded(model=model, processor=processor, fingerprint=fingerprint(sampled_files(folder)))


def find_folder(name: str, revision: str) -> Path:
    """Return the folder of a model; what lies in the Hub's cache needs no network.

    Raises:
        UsageError: If there is none.
    """
    if not name:
        raise UsageError("`hf` names no model.", "Write --model hf:FOLDER or --model hf:OWNER/NAME.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"{name!r} is no folder here, and the Hub did not give it: {error}",
            "Write hf:FOLDER or hf:OWNER/NAME; gated models need `hf auth login` first.",
        ) from error


def _config(folder: Path) -> Any:  # noqa: ANN401 - any configuration of transformers
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder} holds no model that this version of transformers knows: {error}",
            "Name a folder with a config.json of a supported architecture; code from repositories is not run.",
        ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:  # noqa: SLF001 - the only public way is to try
        raise UsageError(
            f"{config.model_type} is no vision-language model of transformers.",
            "Name a model whose pipeline is image-text-to-text.",
        )
    if config.is_encoder_decoder:
        raise UsageError(
            f"{config.model_type} encodes its prompt apart from its answer, which `hf` does not drive.",
            "Name a model that continues its prompt.",
        )
    return config
