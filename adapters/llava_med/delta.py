"""LLaVA-Med 1.0 was published as the difference to LLaMA-7B; this adds the two, shard by shard.

The rule, in float16 (LLaVA-Med tag v1.0.0, `llava/model/apply_delta.py`): tensors of one shape are added; the embedding
and the head have more rows than LLaMA's, so only the first ones are; the projector is published as it is. Buffers of
rotary positions follow from the configuration and are left out.
"""

import shutil
from math import prod
from pathlib import Path

import torch

from medbench.adapters.converting import new_folder
from medbench.tasks.foundation.errors import DataError
from medbench.unimed.weight_files import SHARD_BYTES, Shards, open_shards, write_shards
from medbench.unimed.weights import refuse_other_names

_BUFFER = "rotary_emb.inv_freq"
_AS_IT_IS = ("model.mm_projector.weight", "model.mm_projector.bias")
_GROWN = ("model.embed_tokens.weight", "lm_head.weight")
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TYPE = torch.float16


def convert_delta(base: Path, delta: Path, output: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the folder of a whole LLaVA-Med 1.0, which `--model llava-med:v1.0 --checkpoint OUTPUT` loads.

    Only one shard is in memory at a time. The vision tower is in neither of the two folders: give it to the run with
    `--model-arg vision_tower=DIR`, or put it into the sub-folder `vision_tower` of the output.

    Args:
        base: Folder of LLaMA-7B in the layout of transformers.
        delta: Folder of the delta, any of the published ones.
        output: New folder.
        shard_bytes: Most bytes in a shard.

    Raises:
        DataError: If the two do not belong together, or a file is missing or broken.
        UsageError: If the output is there already.
        RunError: If it cannot be written.
    """
    with new_folder(output) as folder:
        _write(base, delta, folder, shard_bytes)


def _write(base: Path, delta: Path, folder: Path, shard_bytes: int) -> None:
    ours, theirs = open_shards(delta), open_shards(base)
    wanted = [name for name in ours.files if not name.endswith(_BUFFER)]
    refuse_other_names(
        f"The delta {delta} on {base}",
        [name for name in wanted if name not in _AS_IT_IS],
        [name for name in theirs.files if not name.endswith(_BUFFER)],
    )
    bytes_of = {name: prod(ours.size(name)) * _TYPE.itemsize for name in wanted}
    write_shards(folder, bytes_of, lambda name: _sum(name, ours, theirs), shard_bytes=shard_bytes)
    for file in _COPIED:
        if (delta / file).is_file():
            shutil.copyfile(delta / file, folder / file)


def _sum(name: str, delta: Shards, base: Shards) -> torch.Tensor:
    difference = delta.tensor(name).to(_TYPE)
    if name in _AS_IT_IS:
        return difference
    known = base.tensor(name).to(_TYPE)
    if difference.shape == known.shape:
        return difference + known
    if name not in _GROWN or difference.shape[1:] != known.shape[1:] or len(difference) < len(known):
        raise DataError(
            f"{name} is {list(difference.shape)} in the delta and {list(known.shape)} in the base.",
            "Give the base that the delta was made from: LLaMA-7B.",
        )
    whole = difference.clone()
    whole[: len(known)] += known
    return whole
