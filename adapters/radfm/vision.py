"""RadFM's vision: a transformer over volumes and a perceiver, and the sizes of the whole model.

The names of the parameters are the published checkpoint's. There is no class token and no norm behind the last layer.
Source: Wu et al., Towards Generalist Foundation Model for Radiology (RadFM, 2023), section 3.2.
"""

import math
from collections import OrderedDict
from pathlib import Path
from typing import cast

import torch
from pydantic import ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn

from medbench.adapters.perceiver import PerceiverResampler, PerceiverSizes, attend
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json

SIZES_FILE = "radfm.json"
_CHECKED = ConfigDict(extra="forbid")  # An unknown name in a file that people write by hand is a mistake.


@dataclass(config=_CHECKED, frozen=True, slots=True, kw_only=True)
class LanguageSizes:
    """Sizes of LLaMA, by the names of its configuration in transformers."""

    vocab_size: PositiveInt = 32000
    hidden_size: PositiveInt = 5120
    intermediate_size: PositiveInt = 13824
    num_hidden_layers: PositiveInt = 40
    num_attention_heads: PositiveInt = 40
    max_position_embeddings: PositiveInt = 2048
    rms_norm_eps: PositiveFloat = 1e-6


@dataclass(config=_CHECKED, frozen=True, slots=True, kw_only=True)
class VisionSizes:
    """Sizes of the vision transformer."""

    image_size: PositiveInt = 512  # Most rows and columns of a volume.
    frames: PositiveInt = 512  # Most slices of a volume.
    patch_size: PositiveInt = 32  # Rows and columns of a patch.
    frame_patch_size: PositiveInt = 4  # Slices of a patch.
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 8
    dim_head: PositiveInt = 64
    mlp_dim: PositiveInt = 2048
    channels: PositiveInt = 3


@dataclass(config=_CHECKED, frozen=True, slots=True, kw_only=True)
class ResamplerSizes(PerceiverSizes):
    """Sizes of the perceiver."""

    dim: PositiveInt = 768
    num_latents: PositiveInt = 32


@dataclass(config=_CHECKED, frozen=True, slots=True, kw_only=True)
class RadFMSizes:
    """Sizes of the whole model, as published unless `radfm.json` says something else of some of them."""

    language_model: LanguageSizes = LanguageSizes()
    vision: VisionSizes = VisionSizes()
    perceiver: ResamplerSizes = ResamplerSizes()


def read_sizes(folder: Path) -> RadFMSizes:
    """Return the sizes of the model in a folder, by its `radfm.json` if any; DataError if they are impossible."""
    path = folder / SIZES_FILE
    try:
        sizes = TypeAdapter(RadFMSizes).validate_python(read_json(path) if path.is_file() else {})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataError(f"{path} holds impossible sizes: {problems}.", "Correct the file.") from error
    if sizes.vision.image_size % sizes.vision.patch_size or sizes.vision.frames % sizes.vision.frame_patch_size:
        raise DataError(f"{path} holds impossible sizes: vision cannot be cut into its patches.", "Correct the file.")
    return sizes


def patches_of(volumes: torch.Tensor, sides: tuple[int, int, int]) -> torch.Tensor:
    """Return patches [N, h * w * d, values] of volumes [N, C, H, W, D]; slices run fastest, inside them channels."""
    for axis, side in enumerate(sides):
        volumes = volumes.unflatten(2 + 2 * axis, (-1, side))
    # The axes are now: image, channel, patch row, row, patch column, column, patch layer, slice.
    return volumes.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


class _Attention(nn.Module):
    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.dim_head
        self._heads = sizes.heads
        self.to_qkv = nn.Linear(sizes.dim, inner * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, sizes.dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.to_out(attend(self._heads, *self.to_qkv(tokens).chunk(3, dim=-1))))


def _feed_forward(sizes: VisionSizes) -> nn.Module:
    # Dropout once stood at the empty place.
    net = (nn.Linear(sizes.dim, sizes.mlp_dim), nn.GELU(), nn.Identity(), nn.Linear(sizes.mlp_dim, sizes.dim))
    return nn.Sequential(OrderedDict(net=nn.Sequential(*net)))


class _Normed(nn.Module):
    def __init__(self, dim: int, part: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = part

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", tokens + self.fn(self.norm(tokens)))


class VisionTransformer3D(nn.Module):
    """Volumes to one token per patch."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self._sides = (sizes.patch_size, sizes.patch_size, sizes.frame_patch_size)
        values = math.prod(self._sides) * sizes.channels
        # The first place was that of the cutting, which has no weights.
        self.to_patch_embedding = nn.Sequential(
            nn.Identity(), nn.LayerNorm(values), nn.Linear(values, sizes.dim), nn.LayerNorm(sizes.dim)
        )
        # A learned third of the position for each axis.
        sides = (sizes.image_size // sizes.patch_size,) * 2 + (sizes.frames // sizes.frame_patch_size,)
        axes = zip(("row_embed", "col_embed", "dep_embed"), sides, strict=True)
        self.pos_embedding = nn.ModuleDict({axis: nn.Embedding(side, sizes.dim // 3) for axis, side in axes})
        layers = [
            nn.Sequential(_Normed(sizes.dim, _Attention(sizes)), _Normed(sizes.dim, _feed_forward(sizes)))
            for _ in range(sizes.depth)
        ]
        self.transformer = nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))

    def positions(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return the positions [T, dim] that volumes [N, C, H, W, D] get; a small grid is spread over the tables."""
        grid = [size // side for size, side in zip(volumes.shape[-3:], self._sides, strict=True)]
        parts = []
        for axis, table in enumerate(self.pos_embedding.parameters()):
            places = (torch.arange(grid[axis], device=table.device) + 1) * (len(table) // grid[axis]) - 1
            shape = [-1 if other == axis else 1 for other in range(len(grid))]
            parts.append(table[places].view(*shape, table.shape[-1]).expand(*grid, -1))
        return torch.cat(parts, dim=-1).flatten(0, 2)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return tokens [N, T, dim] of volumes [N, C, H, W, D], one per patch; sides are multiples of a patch's."""
        patches = self.to_patch_embedding(patches_of(volumes, self._sides))
        return cast("torch.Tensor", self.transformer(patches + self.positions(volumes)))


class RadFMVision(nn.Module):
    """Volumes to tokens of a prompt; the names follow `embedding_layer.` in the checkpoint."""

    def __init__(self, sizes: RadFMSizes) -> None:
        super().__init__()
        self.image_size = sizes.vision.image_size  # Height and width in pixels.
        self.image_tokens = sizes.perceiver.num_latents + 2  # In a prompt: latents between two brackets.
        width = sizes.language_model.hidden_size
        self.vision_encoder = VisionTransformer3D(sizes.vision)
        self.perceiver = PerceiverResampler(sizes.perceiver)
        self.fc = nn.Linear(sizes.perceiver.dim, width)
        self.figure_token_weight = nn.Parameter(torch.zeros(2, width))

    def latents(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return latents [N, L, C] of volumes [N, 3, H, W, D] in [0, 1]; volumes do not mix."""
        return cast("torch.Tensor", self.perceiver(self.vision_encoder(volumes)))

    def tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what stands in a prompt [N, L + 2, width]: `<image>`, the projected latents, `</image>`."""
        opening, closing = self.figure_token_weight
        around = (len(latents), 1, -1)
        return torch.cat([opening.expand(*around), self.fc(latents), closing.expand(*around)], dim=1)
