"""The vision tower: a ViT whose second-to-last features are normalised, without the class token, and its weights.

They come as `eva_vit_g.pth` (EVA-CLIP's layout, as BLIP-2 ships it) and go into transformers' `Blip2VisionModel`.
"""

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from medbench.unimed.weights import refuse_other_names

LN_VISION_EPSILON = 1e-5
State = dict[str, torch.Tensor]
_OUTSIDE_BLOCKS = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
}
_INSIDE_BLOCKS = {
    **{f"norm{n}.{end}": f"layer_norm{n}.{end}" for n in (1, 2) for end in ("weight", "bias")},
    "attn.qkv.weight": "self_attn.qkv.weight",
    "attn.proj.weight": "self_attn.projection.weight",
    "attn.proj.bias": "self_attn.projection.bias",
    **{name: name for name in ("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias")},
}
_QUERY_BIAS, _VALUE_BIAS, _JOINT_BIAS = "attn.q_bias", "attn.v_bias", "self_attn.qkv.bias"
_BLOCK = re.compile(r"blocks\.(\d+)\..+")
_DROPPED = ("norm.", "fc_norm.", "head.")  # The file ends with a norm and a head that Uni-Med does not use.


class VisionTower(nn.Module):
    """EVA ViT as in BLIP-2, followed by `ln_vision`: never loaded and frozen, so a plain normalisation without weights.

    BLIP-2's trained `post_layernorm` must not be put in its place.
    """

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        self.vit = Blip2VisionModel(config)
        self.vit.post_layernorm = nn.LayerNorm(config.hidden_size, eps=LN_VISION_EPSILON, elementwise_affine=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return patch features [B, P, C] of pixels [B, 3, H, W], of other sizes with interpolated positions."""
        other_size = pixels.shape[-1] != self.vit.config.image_size
        output = self.vit(pixel_values=pixels, interpolate_pos_encoding=other_size)
        return cast("torch.Tensor", output.last_hidden_state[:, 1:])


def interpolated_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Return position embeddings [1, 1 + grid**2, C] for another grid, bicubically in fp32, as the official loader."""
    patches = positions.shape[1] - 1
    side = round(patches**0.5)
    if side == grid:
        return positions
    image = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1].float(), resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1).to(positions.dtype)


def resample(features: torch.Tensor, *, method: str, rate: int) -> torch.Tensor:
    """Return fewer, possibly wider tokens [B, M, C_v] from patch features [B, P, C] (paper section 3.2).

    `projection` is a pure view that concatenates `rate` consecutive patches of a row; the projection that the
    paper speaks of is the first linear layer of each expert.
    """
    batch, patches, width = features.shape
    if method == "projection":
        return features.reshape(batch, patches // rate, width * rate)
    side = round(patches**0.5)
    grid = features.transpose(1, 2).reshape(batch, width, side, side)
    pool = nn.functional.avg_pool2d if method == "avgpool" else nn.functional.max_pool2d
    return pool(grid, kernel_size=2).flatten(2).transpose(1, 2)


def from_eva(tensors: Mapping[str, torch.Tensor], config: Blip2VisionConfig, source: str = "The EVA state") -> State:
    """Return the state of a `Blip2VisionModel` (without `post_layernorm`) for EVA's tensors.

    Blocks behind the configured depth are dropped: Uni-Med uses the features before the last block. Position embeddings
    of another image size are interpolated bicubically. DataError if a needed tensor is missing or unknown.
    """
    depth = int(config.num_hidden_layers)
    inside = (*_INSIDE_BLOCKS, _QUERY_BIAS, _VALUE_BIAS)
    expected = {*_OUTSIDE_BLOCKS, *(f"blocks.{block}.{name}" for block in range(depth) for name in inside)}
    behind = {name for name in tensors if (inner := _BLOCK.fullmatch(name)) and int(inner[1]) >= depth}
    extra = behind | {name for name in tensors if name.startswith(_DROPPED)}
    refuse_other_names(source, set(tensors) - extra, expected)
    state = {ours: tensors[theirs] for theirs, ours in _OUTSIDE_BLOCKS.items()}
    for block in range(depth):
        here, there = f"encoder.layers.{block}", f"blocks.{block}"
        state |= {f"{here}.{ours}": tensors[f"{there}.{theirs}"] for theirs, ours in _INSIDE_BLOCKS.items()}
        query, value = tensors[f"{there}.{_QUERY_BIAS}"], tensors[f"{there}.{_VALUE_BIAS}"]
        state[f"{here}.{_JOINT_BIAS}"] = torch.cat([query, torch.zeros_like(query), value])
    grid, positions = cast("int", config.image_size) // cast("int", config.patch_size), "embeddings.position_embedding"
    state[positions] = interpolated_positions(state[positions], grid)
    return state


def to_eva(state: Mapping[str, torch.Tensor]) -> State:
    """Return EVA's names for a `Blip2VisionModel`'s state.

    EVA has no bias on the keys; one that was learned is dropped: the softmax does not see it.
    """
    tensors = {theirs: state[ours] for theirs, ours in _OUTSIDE_BLOCKS.items()}
    depth = 1 + max((int(name.split(".")[2]) for name in state if name.startswith("encoder.layers.")), default=-1)
    for block in range(depth):
        here, there = f"encoder.layers.{block}", f"blocks.{block}"
        tensors |= {f"{there}.{theirs}": state[f"{here}.{ours}"] for theirs, ours in _INSIDE_BLOCKS.items()}
        query, _, value = state[f"{here}.{_JOINT_BIAS}"].chunk(3)
        tensors |= {f"{there}.{_QUERY_BIAS}": query, f"{there}.{_VALUE_BIAS}": value}
    return tensors
