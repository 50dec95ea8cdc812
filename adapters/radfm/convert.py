"""The authors' 53 GB file of float32 to a folder of 26 GB that loads at once.

The folder holds:

    language_model/     LLaMA in transformers' layout: config.json, model-*.safetensors and their index
    vision.safetensors  what comes before it, in float32
    radfm.json          sizes
    tokenizer.model     as it came
"""

import shutil
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from medbench.adapters.converting import new_folder
from medbench.adapters.radfm.loading import LANGUAGE_FOLDER, TOKENIZER_FILE, VISION_FILE
from medbench.adapters.radfm.model import RadFMVision
from medbench.adapters.radfm.sizes import SIZES_FILE
from medbench.adapters.radfm.state import CHECKPOINT, PublishedState, read_state
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.unimed.tokens import read_tokenizer, refuse_other_vocabulary
from medbench.unimed.weight_files import SHARD_BYTES, write_shards
from medbench.unimed.weights import refuse_misfits, refuse_other_numbers

_DTYPES = ("bfloat16", "float16", "float32")


def convert(source: Path, output: Path, *, dtype: str = "bfloat16", shard_bytes: int = SHARD_BYTES) -> None:
    """Write a folder that `--checkpoint` takes.

    Tensors stay on the disk until they are written; no more than one shard is held in memory.

    Args:
        source: Folder with pytorch_model.bin and tokenizer.model, and a radfm.json if its sizes are not the published.
        output: New folder.
        dtype: Type of the language model's weights: bfloat16, float16 or float32.
        shard_bytes: Most bytes in one file.

    Raises:
        DataError: If a file is missing or broken, or a weight is missing, unexpected or of another shape.
        UsageError: If `source` is no folder, `output` is there already, or there is no such type.
        RunError: If `output` cannot be written.
    """
    if dtype not in _DTYPES:
        raise UsageError(f"There is no type {dtype!r} of weights.", f"Allowed: {', '.join(_DTYPES)}.")
    if not source.is_dir():
        raise UsageError(f"{source} is no folder.", f"Give one with {CHECKPOINT} and {TOKENIZER_FILE}.")
    missing = [name for name in (CHECKPOINT, TOKENIZER_FILE) if not (source / name).is_file()]
    if missing:
        raise DataError(
            f"{source} lacks {', '.join(missing)}.", "Put the authors' two files, unpacked, into one folder."
        )
    with new_folder(output) as folder:
        state = _read(source)
        _write(state, folder, getattr(torch, dtype), shard_bytes)
        shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)


def _read(source: Path) -> PublishedState:
    """Return what is to be written, after a look that a model can be made of it."""
    tokenizer = read_tokenizer(source / TOKENIZER_FILE)
    state = read_state(source / CHECKPOINT)
    refuse_other_vocabulary(source / TOKENIZER_FILE, tokenizer, state.sizes.language_model.vocab_size)
    _refuse_misfits(state, str(source))
    return state


def _refuse_misfits(state: PublishedState, source: str) -> None:
    with torch.device("meta"):
        language, vision = LlamaForCausalLM(state.sizes.llama_config()), RadFMVision(state.sizes)
    for given, module in ((state.language_model, language), (state.vision, vision)):
        refuse_misfits(source, given, cast("torch.nn.Module", module).state_dict())
        refuse_other_numbers(source, given)


def _write(state: PublishedState, folder: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    language = state.language_model
    sizes = {name: tensor.numel() * dtype.itemsize for name, tensor in language.items()}
    write_shards(folder / LANGUAGE_FOLDER, sizes, lambda name: language[name].to(dtype), shard_bytes=shard_bytes)
    config = state.sizes.llama_config()
    config.dtype = dtype
    config.architectures = [LlamaForCausalLM.__name__]
    config.save_pretrained(folder / LANGUAGE_FOLDER)
    vision = {name: tensor.float().contiguous() for name, tensor in state.vision.items()}
    save_file(vision, folder / VISION_FILE, metadata={"format": "pt"})
    (folder / SIZES_FILE).write_text(canonical_json(state.sizes.as_json(), indent=2) + "\n", encoding="utf-8")
