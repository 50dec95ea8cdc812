"""The vision tower: a ViT whose second-to-last features are normalised, without the class token, and its weights.

They come as `eva_vit_g.pth` (EVA-CLIP's layout, as BLIP-2 ships it) and go into transformers' `Blip2VisionModel`. Any
other vision model of transformers can stand in its place, frozen: `towers.py` reads its folder.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, Blip2VisionConfig, Blip2VisionModel, PreTrainedConfig

from medbench.tasks.foundation.files import json_value
from medbench.unimed.weights import LIBRARY_FAULTS, refuse_other_names

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
_MAP_DIMENSIONS, _MOST_CLASS_TOKENS = 4, 2  # DeiT has a token for distillation beside that of the class.
_TAKEN = "Take one that turns square pixels into a square of patches, as DINOv2, SigLIP, CLIP, ViT and MobileNetV2 do."


@dataclass(frozen=True, slots=True)
class Shape:
    """What a tower makes of a square image of its size."""

    grid: int  # Patches along one side.
    width: int  # Channels of a patch.
    others: int  # Tokens before the patches: of the class, registers.


def is_eva(config: PreTrainedConfig) -> bool:
    """Return whether a tower is the paper's, of whatever size."""
    return isinstance(config, Blip2VisionConfig)


def shape_of(config: PreTrainedConfig) -> Shape:
    """Return the shape of a tower's features; ValueError if they are no square of patches."""
    if isinstance(config, Blip2VisionConfig):
        return Shape(cast("int", config.image_size) // cast("int", config.patch_size), config.hidden_size, 1)
    return _found_shape(config.to_json_string(use_diff=False))


@cache
def _found_shape(settings: str) -> Shape:
    """Look at what a model of these settings gives, without numbers: what each family calls its sizes differs."""
    config: Any = AutoConfig.for_model(**json_value(settings))
    what, size = f"A vision tower of type {config.model_type!r}", getattr(config, "image_size", None)
    if type(size) is not int:
        raise ValueError(f"{what} has an image_size of {size}: give the side in pixels, model.vision.image_size.")
    try:
        with torch.device("meta"), torch.no_grad():
            pixels = torch.zeros(1, 3, size, size)
            features = AutoModel.from_config(config).eval()(pixel_values=pixels).last_hidden_state
    except LIBRARY_FAULTS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what} gives no features of {size} x {size} pixels alone ({reason}). {_TAKEN}") from error
    if features.ndim == _MAP_DIMENSIONS and features.shape[2] == features.shape[3]:
        return Shape(features.shape[3], features.shape[1], 0)
    if features.ndim != _MAP_DIMENSIONS and (found := _square(features.shape[1], size, config)):
        return Shape(found[0], features.shape[2], found[1])
    raise ValueError(f"{what} gives features {list(features.shape[1:])} of {size} x {size} pixels. {_TAKEN}")


def _square(tokens: int, size: int, config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return patches along one side and tokens before them; None if the rest is no square, or of another kind."""
    patch, most = getattr(config, "patch_size", None), 0
    side = size // patch if isinstance(patch, int) else tokens
    if side**2 <= tokens:
        most = _MOST_CLASS_TOKENS + (getattr(config, "num_register_tokens", None) or 0)
    else:
        side = math.isqrt(tokens)  # Patches are merged on the way, or there is no such size.
    return (side, tokens - side**2) if tokens - side**2 <= most else None


class VisionTower(nn.Module):
    """EVA ViT as in BLIP-2, followed by `ln_vision`: never loaded and frozen, so a plain normalisation without weights.

    BLIP-2's trained `post_layernorm` must not be put in its place. Of another model the last features go there.
    """

    vit: Any  # A model of transformers.

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.others = shape_of(config).others
        if isinstance(config, Blip2VisionConfig):
            self.vit = Blip2VisionModel(config)
            self.vit.post_layernorm = nn.LayerNorm(config.hidden_size, eps=LN_VISION_EPSILON, elementwise_affine=False)
        else:
            # A copy: the whole model's kind of attention, which it is not to take over, stands in the configuration.
            self.vit = cast("Any", AutoModel).from_config(type(config).from_dict(config.to_dict())).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return patch features [B, P, C] of pixels [B, 3, H, W], of other sizes with interpolated positions."""
        if not is_eva(self.vit.config):
            return self._last_features(pixels)
        other_size = pixels.shape[-1] != self.vit.config.image_size
        output = self.vit(pixel_values=pixels, interpolate_pos_encoding=other_size)
        return cast("torch.Tensor", output.last_hidden_state[:, 1:])

    def _last_features(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.vit(pixel_values=pixels).last_hidden_state
        patches = found.flatten(2).transpose(1, 2) if found.ndim == _MAP_DIMENSIONS else found[:, self.others :]
        return nn.functional.layer_norm(patches, patches.shape[-1:], eps=LN_VISION_EPSILON)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of EVA ViT; another model is frozen, so its batch statistics stay and nothing is dropped."""
        return super().train(mode and is_eva(self.vit.config))


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


def from_eva(tensors: Mapping[str, torch.Tensor], config: PreTrainedConfig, source: str = "The EVA state") -> State:
    """Return the state of a `Blip2VisionModel` (without `post_layernorm`) for EVA's tensors.

    Blocks behind the configured depth are dropped: Uni-Med uses the features before the last block. Position embeddings
    of another image size are interpolated bicubically. DataError if a needed tensor is missing or unknown.
    """
    sizes = cast("Blip2VisionConfig", config)
    depth = int(sizes.num_hidden_layers)
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
    grid, positions = cast("int", sizes.image_size) // cast("int", sizes.patch_size), "embeddings.position_embedding"
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
