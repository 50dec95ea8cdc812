"""`eva_vit_g.pth` (EVA-CLIP's layout, as BLIP-2 ships it) to and from transformers' `Blip2VisionModel`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from transformers import Blip2VisionConfig

from medbench.unimed.vision import interpolated_positions
from medbench.unimed.weight_files import read_tensors
from medbench.unimed.weights import refuse_other_names

State = dict[str, torch.Tensor]
_OUTSIDE_BLOCKS = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
}
_INSIDE_BLOCKS = {
    "norm1.weight": "layer_norm1.weight",
    "norm1.bias": "layer_norm1.bias",
    "norm2.weight": "layer_norm2.weight",
    "norm2.bias": "layer_norm2.bias",
    "attn.qkv.weight": "self_attn.qkv.weight",
    "attn.proj.weight": "self_attn.projection.weight",
    "attn.proj.bias": "self_attn.projection.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
_QUERY_BIAS, _VALUE_BIAS, _JOINT_BIAS = "attn.q_bias", "attn.v_bias", "self_attn.qkv.bias"
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_DROPPED = ("norm.", "fc_norm.", "head.")
"""The file ends with a norm and a head that Uni-Med does not use."""


def read_eva(path: Path, config: Blip2VisionConfig) -> State:
    """Return the state of a `Blip2VisionModel` (without `post_layernorm`) from an EVA file.

    Blocks behind the configured depth are dropped: Uni-Med uses the features before the last block. Position
    embeddings of another image size are interpolated bicubically.

    Raises:
        DataError: If the file cannot be read, or a needed tensor is missing, of another shape, or unknown.
    """
    return from_eva(read_tensors(path), config, str(path))


def from_eva(tensors: Mapping[str, torch.Tensor], config: Blip2VisionConfig, source: str = "The EVA state") -> State:
    """Return `Blip2VisionModel`'s state for EVA's `tensors`; see `read_eva`."""
    depth = int(config.num_hidden_layers)
    expected = {*_OUTSIDE_BLOCKS, *_block_keys(depth)}
    extra = {name for name in tensors if name.startswith(_DROPPED) or _block_of(name) >= depth}
    refuse_other_names(source, set(tensors) - extra, expected)
    state = {ours: tensors[theirs] for theirs, ours in _OUTSIDE_BLOCKS.items()}
    for block in range(depth):
        here, there = f"encoder.layers.{block}", f"blocks.{block}"
        state |= {f"{here}.{ours}": tensors[f"{there}.{theirs}"] for theirs, ours in _INSIDE_BLOCKS.items()}
        query, value = tensors[f"{there}.{_QUERY_BIAS}"], tensors[f"{there}.{_VALUE_BIAS}"]
        state[f"{here}.{_JOINT_BIAS}"] = torch.cat([query, torch.zeros_like(query), value])
    positions = "embeddings.position_embedding"
    state[positions] = interpolated_positions(
        state[positions], cast("int", config.image_size) // cast("int", config.patch_size)
    )
    return state


def to_eva(state: Mapping[str, torch.Tensor]) -> State:
    """Return EVA's names for a `Blip2VisionModel`'s state.

    EVA has no bias on the keys. One that was learned is dropped, and the tower computes the same without it: it shifts
    all logits of a query alike, which the softmax does not see.
    """
    tensors = {theirs: state[ours] for theirs, ours in _OUTSIDE_BLOCKS.items()}
    depth = 1 + max((int(name.split(".")[2]) for name in state if name.startswith("encoder.layers.")), default=-1)
    for block in range(depth):
        here, there = f"encoder.layers.{block}", f"blocks.{block}"
        tensors |= {f"{there}.{theirs}": state[f"{here}.{ours}"] for theirs, ours in _INSIDE_BLOCKS.items()}
        query, _, value = state[f"{here}.{_JOINT_BIAS}"].chunk(3)
        tensors |= {f"{there}.{_QUERY_BIAS}": query, f"{there}.{_VALUE_BIAS}": value}
    return tensors


def _block_keys(depth: int) -> set[str]:
    inside = (*_INSIDE_BLOCKS, _QUERY_BIAS, _VALUE_BIAS)
    return {f"blocks.{block}.{name}" for block in range(depth) for name in inside}


def _block_of(name: str) -> int:
    match = _BLOCK.fullmatch(name)
    return int(match[1]) if match else -1
