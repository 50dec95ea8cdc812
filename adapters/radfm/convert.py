"""The authors' 53 GB file of float32 to a folder of 26 GB that loads at once.

The folder holds:

    language_model/     LLaMA in transformers' layout: config.json, model-*.safetensors and their index
    vision.safetensors  what comes before it, in float32
    radfm.json          sizes
    tokenizer.model     as it came
"""

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from medbench.adapters.converting import new_folder
from medbench.adapters.radfm import model
from medbench.adapters.radfm.entry import DTYPES
from medbench.adapters.radfm.vision import SIZES_FILE, RadFMVision, read_sizes
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.unimed.tokens import read_tokenizer, refuse_other_vocabulary
from medbench.unimed.weights import SHARD_BYTES, refuse_misfits, refuse_other_numbers, write_shards


def convert(source: Path, output: Path, *, dtype: str = "bfloat16", shard_bytes: int = SHARD_BYTES) -> None:
    """Write a folder that `--checkpoint` takes, with the language model's weights of type `dtype`.

    `source` holds pytorch_model.bin and tokenizer.model, and a radfm.json if its sizes are not the published. Tensors
    stay on the disk until they are written; no more than one shard is held in memory. DataError if a file is missing or
    broken, or a weight is missing, unexpected or of another shape; UsageError if `source` is no folder, `output` is
    there already, or there is no such type; RunError if `output` cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"There is no type {dtype!r} of weights.", f"Allowed: {', '.join(DTYPES)}.")
    if not source.is_dir():
        raise UsageError(f"{source} is no folder.", f"Give one with {model.CHECKPOINT} and {model.TOKENIZER_FILE}.")
    missing = [name for name in (model.CHECKPOINT, model.TOKENIZER_FILE) if not (source / name).is_file()]
    if missing:
        raise DataError(
            f"{source} lacks {', '.join(missing)}.", "Put the authors' two files, unpacked, into one folder."
        )
    with new_folder(output) as folder:
        tokenizer, sizes = read_tokenizer(source / model.TOKENIZER_FILE), read_sizes(source)
        refuse_other_vocabulary(source / model.TOKENIZER_FILE, tokenizer, sizes.language_model.vocab_size)
        language, vision = model.read_published(source / model.CHECKPOINT)
        config = model.llama_config(sizes.language_model)
        with torch.device("meta"):
            modules = LlamaForCausalLM(config), RadFMVision(sizes)
        for state, module in zip((language, vision), modules, strict=True):
            refuse_misfits(str(source), state, module.state_dict())
            refuse_other_numbers(str(source), state)
        kind: torch.dtype = getattr(torch, dtype)
        config.dtype, config.architectures = kind, [LlamaForCausalLM.__name__]
        bytes_of = {name: tensor.numel() * kind.itemsize for name, tensor in language.items()}
        home = folder / model.LANGUAGE_FOLDER
        write_shards(home, bytes_of, lambda name: language[name].to(kind), shard_bytes=shard_bytes)
        config.save_pretrained(home)
        seeing = {name: tensor.float().contiguous() for name, tensor in vision.items()}
        save_file(seeing, folder / model.VISION_FILE, metadata={"format": "pt"})
        (folder / SIZES_FILE).write_text(canonical_json(asdict(sizes), indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(source / model.TOKENIZER_FILE, folder / model.TOKENIZER_FILE)
