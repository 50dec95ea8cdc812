"""From a folder or a repository's name to a model that is what its files say, and that brings no code of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from medbench.adapters.hf.processing import Config, Processor, load_processor
from medbench.adapters.plain_generation import forget_decoding
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.unimed.weights import LIBRARY_FAULTS, device_and_dtype, find_folder, indexed_files, strict_from_pretrained

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_KERNEL = "_attn_implementation"
# Its activations exceed what 16 bits with a small exponent hold: answers become padding.
_NOT_IN_FLOAT16 = frozenset({"gemma3", "gemma3n", "paligemma"})
Model = Any
"""Any model of transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model ready to answer, its processor, the fingerprint of its files and what the run must show loudly.

    `made_of` is what else makes it what it is: the commit of its repository, the class that reads its images.
    """

    model: Model
    processor: Processor
    fingerprint: str
    made_of: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def load_model(name: str, *, revision: str, device: str, dtype: str) -> Loaded:
    """Load a vision-language model from a folder or a repository on the Hub, every weight or none.

    UsageError if it is not there, or is no vision-language model, or not for this type; DataError if its files are
    broken or do not fit.
    """
    folder, commit = find_model(name, revision)
    _refuse_unfit(folder)
    config = _read_config(folder)
    place, number = device_and_dtype(device, dtype)
    if number == torch.float16 and config.model_type in _NOT_IN_FLOAT16:
        raise UsageError(f"{config.model_type} gives no numbers in float16.", "Give --dtype bfloat16 or float32.")
    own_code = "config.json names code of its own (auto_map); it was not run, transformers' own is."
    notices = [own_code * _names_code(folder), _plain_attention(config)]
    processor, mended = load_processor(folder, config)
    model = _model(folder, config, number, place)
    forget_decoding(model)
    return Loaded(
        model=model.eval(), processor=processor, fingerprint=identity_of({"checkpoint": folder}),
        made_of=_made_of(processor, commit), notices=tuple(filter(None, [*notices, *mended])),
    )  # fmt: skip


def find_model(name: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a model and its commit; what lies in the Hub's cache needs no network."""
    if not name:
        raise UsageError("`hf` names no model.", "Write --model hf:FOLDER or --model hf:OWNER/NAME.")
    hint = "Write hf:FOLDER or hf:OWNER/NAME; gated models need `hf auth login` first."
    return find_folder(name, revision=revision, files=_FILES, what=repr(name), hint=hint)


def _refuse_unfit(folder: Path) -> None:
    """Refuse a folder whose files are not what their names say, or that holds no whole model of its own."""
    refuse_stand_ins(folder)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        values = read_json(adapter)
        kind = str(values.get("peft_type") or "LoRA")
        raise UsageError(
            f"{folder} holds a {kind} adapter of {values.get('base_model_name_or_path') or 'another model'}, not a "
            "model.",
            "Merge it into its base first (`PeftModel.from_pretrained(base, adapter).merge_and_unload()` of peft, then "
            "`save_pretrained`, and the processor's too), and give that folder. If it was merged already, remove "
            "adapter_config.json.",
        )
    for index in sorted(folder.glob("*.index.json")):
        indexed_files(index)


def _read_config(folder: Path) -> Config:
    """Return the configuration of a vision-language model that transformers itself knows; no code is run."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except LIBRARY_FAULTS as error:
        raise UsageError(
            f"{folder} holds no model that this version of transformers knows: "
            f"{str(error).strip().partition(chr(10))[0] or type(error).__name__}",
            "Its configuration names code of its own (auto_map), which is never run. Serve it where you trust that "
            "code, and give --model openai:MODEL@URL."
            if _names_code(folder)
            else "Name a folder with a config.json of a supported architecture; code from repositories is not run.",
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


def _names_code(folder: Path) -> bool:
    """Whether a model's configuration names code that its folder brings."""
    try:
        return bool(read_json(folder / "config.json").get("auto_map"))
    except (MedbenchError, AttributeError):
        return False


def _parts_of(config: Config) -> list[Config]:
    """Return a configuration and those in it."""
    return [config, *filter(None, (getattr(config, name, None) for name in config.sub_configs))]


def _plain_attention(config: Config) -> str:
    """Let a model take the attention that every machine has; return a notice if its configuration asks for another.

    What asks for a library that is not here fails, and what names a kernel of the Hub is code that would be run.
    """
    wanted = {getattr(part, _KERNEL, None) for part in _parts_of(config)}
    others = sorted(str(one) for one in wanted - {None, "eager", "sdpa"})
    if not others:
        return ""
    setattr(config, _KERNEL, None)  # of its parts too
    return f"config.json asks for the attention {', '.join(others)}; the one of torch was taken instead."


def _model(folder: Path, config: Config, dtype: torch.dtype, device: torch.device) -> Model:
    # Quantised weights cannot be moved once they are loaded.
    quantised = _quantisation_of(config)
    where: dict[str, Any] = {"device_map": {"": device}} if quantised else {}
    unreadable = partial(_not_loaded, folder, quantised)
    with room_for(f"The model in {folder}"):
        model = strict_from_pretrained(
            AutoModelForImageTextToText, folder, unreadable=unreadable, config=config, dtype=dtype, **where
        )
        return model if quantised else model.to(device)


def _quantisation_of(config: Config) -> str:
    """Return how a checkpoint was quantised; nothing if it was not."""
    for part in _parts_of(config):
        told = getattr(part, "quantization_config", None)
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


def _made_of(processor: Processor, commit: str) -> dict[str, str]:
    """Return what makes a model what it is beside its files."""
    images = type(processor.image_processor)
    made = {"image processor": f"{images.__module__}.{images.__qualname__}"}
    if any(base.__name__ == "TorchvisionBackend" for base in images.__mro__):
        # There is no class for PIL then.
        made["torchvision"] = version("torchvision")
    return made | ({"commit": commit} if commit else {})
