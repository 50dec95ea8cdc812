"""From a folder or a repository's name to a folder of files that are what they say, and nothing that brings code."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText

from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.foundation.stand_ins import refuse_stand_ins
from medbench.unimed.weight_files import indexed_files
from medbench.unimed.weights import LIBRARY_FAULTS, find_folder

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_PLAIN_ATTENTION = frozenset({None, "eager", "sdpa"})
_KERNEL = "_attn_implementation"
_CODE = "auto_map"
Configuration = Any
"""Any configuration of transformers."""


def find_model(name: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a model and its commit; what lies in the Hub's cache needs no network.

    Raises:
        UsageError: If there is none.
    """
    if not name:
        raise UsageError("`hf` names no model.", "Write --model hf:FOLDER or --model hf:OWNER/NAME.")
    hint = "Write hf:FOLDER or hf:OWNER/NAME; gated models need `hf auth login` first."
    return find_folder(name, revision=revision, files=_FILES, what=repr(name), hint=hint)


def refuse_unfit(folder: Path) -> None:
    """Look that a folder holds a model of its own.

    Raises:
        UsageError: If it holds an adapter of another model.
        DataError: If a file is not what its name says, or the index names files that are not there.
    """
    refuse_stand_ins(folder)
    _refuse_adapter(folder)
    for index in sorted(folder.glob("*.index.json")):
        indexed_files(index)


def _refuse_adapter(folder: Path) -> None:
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    values = read_json(file)
    kind = str(values.get("peft_type") or "LoRA")
    base = values.get("base_model_name_or_path") or "another model"
    raise UsageError(
        f"{folder} holds a {kind} adapter of {base}, not a model.",
        "Merge it into its base first (`PeftModel.from_pretrained(base, adapter).merge_and_unload()` of peft, then "
        "`save_pretrained`, and the processor's too), and give that folder. If it was merged already, remove "
        "adapter_config.json.",
    )


def read_config(folder: Path) -> Configuration:
    """Return the configuration of a vision-language model; no code of its folder is run.

    Raises:
        UsageError: If it is of no model that transformers itself knows, or of one that is no vision-language model.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except LIBRARY_FAULTS as error:
        raise UsageError(
            f"{folder} holds no model that this version of transformers knows: {_first_line(error)}",
            f"Its configuration names code of its own ({_CODE}), which is never run. {_SERVE}"
            if names_code(folder)
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


_SERVE = "Serve it where you trust that code, and give --model openai:MODEL@URL."


def names_code(folder: Path) -> bool:
    """Whether a model's configuration names code that its folder brings."""
    try:
        return bool(read_json(folder / "config.json").get(_CODE))
    except (MedbenchError, AttributeError):
        return False


def plain_attention(config: Configuration) -> str:
    """Let a model take the attention that every machine has; return a notice if its configuration asks for another.

    What asks for a library that is not here fails, and what names a kernel of the Hub is code that would be run.
    """
    wanted = {getattr(part, _KERNEL, None) for part in (config, *_parts(config))}
    others = sorted(str(one) for one in wanted - _PLAIN_ATTENTION)
    if not others:
        return ""
    setattr(config, _KERNEL, None)  # of its parts too
    return f"config.json asks for the attention {', '.join(others)}; the one of torch was taken instead."


def _parts(config: Configuration) -> list[Configuration]:
    found = (getattr(config, name, None) for name in config.sub_configs)
    return [part for part in found if part is not None]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
