"""RadFM's vision: a transformer over volumes and a perceiver, and the sizes of the whole model.

An image is a volume of equal slices. The names of the parameters are those of the published checkpoint. There is no
class token and no norm behind the last layer.

Source: Wu et al., Towards Generalist Foundation Model for Radiology (RadFM, 2023), section 3.2.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, with_config
from torch import nn

from medbench.adapters.perceiver import PerceiverResampler, PerceiverSizes, join_heads, split_heads
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json

SIZES_FILE = "radfm.json"
# An unknown name in a file that people write by hand is a mistake.
_CHECKED = ConfigDict(extra="forbid")


@with_config(_CHECKED)
@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSizes:
    """Sizes of LLaMA, by the names of its configuration in transformers."""

    vocab_size: PositiveInt = 32000
    hidden_size: PositiveInt = 5120
    intermediate_size: PositiveInt = 13824
    num_hidden_layers: PositiveInt = 40
    num_attention_heads: PositiveInt = 40
    max_position_embeddings: PositiveInt = 2048
    rms_norm_eps: PositiveFloat = 1e-6


@with_config(_CHECKED)
@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSizes:
    """Sizes of the vision transformer.

    A volume has at most `image_size` rows and columns and `frames` slices; a patch is `patch_size` rows and columns of
    `frame_patch_size` slices.
    """

    image_size: PositiveInt = 512
    frames: PositiveInt = 512
    patch_size: PositiveInt = 32
    frame_patch_size: PositiveInt = 4
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 8
    dim_head: PositiveInt = 64
    mlp_dim: PositiveInt = 2048
    channels: PositiveInt = 3


@with_config(_CHECKED)
@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplerSizes(PerceiverSizes):
    """Sizes of the perceiver."""

    dim: PositiveInt = 768
    num_latents: PositiveInt = 32


@with_config(_CHECKED)
@dataclass(frozen=True, slots=True, kw_only=True)
class RadFMSizes:
    """Sizes of the whole model, as published unless `radfm.json` says something else of some of them."""

    language_model: LanguageSizes = LanguageSizes()
    vision: VisionSizes = VisionSizes()
    perceiver: ResamplerSizes = ResamplerSizes()


def read_sizes(folder: Path) -> RadFMSizes:
    """Return the sizes of the model in a folder.

    A `radfm.json` there may hold any part of what the converter writes, for models of other sizes:

        {"vision": {"heads": 8}, "perceiver": {"heads": 8}, "language_model": {"num_attention_heads": 40}}

    DataError if the file says something impossible.
    """
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
    """Return patches [N, h * w * d, values] of volumes [N, C, H, W, D].

    The slices run fastest among the patches, the channels fastest inside them.
    """
    for axis, side in enumerate(sides):
        volumes = volumes.unflatten(2 + 2 * axis, (-1, side))
    # The axes are now: image, channel, patch row, row, patch column, column, patch layer, slice.
    return volumes.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


class PositionTables(nn.Module):
    """A learned third of the position for each axis. A small grid is spread over the whole table."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        width = sizes.dim // 3
        self.row_embed = nn.Embedding(sizes.image_size // sizes.patch_size, width)
        self.col_embed = nn.Embedding(sizes.image_size // sizes.patch_size, width)
        self.dep_embed = nn.Embedding(sizes.frames // sizes.frame_patch_size, width)

    def forward(self, grid: tuple[int, int, int]) -> torch.Tensor:
        """Return positions [h * w * d, dim] of a grid of patches."""
        tables = (self.row_embed, self.col_embed, self.dep_embed)
        rows, columns, layers = (_spread(table.weight, number) for table, number in zip(tables, grid, strict=True))
        together = [rows[:, None, None], columns[None, :, None], layers[None, None, :]]
        return torch.cat([part.expand(*grid, -1) for part in together], dim=-1).flatten(0, 2)


def _spread(table: torch.Tensor, number: int) -> torch.Tensor:
    return table[(torch.arange(number, device=table.device) + 1) * (len(table) // number) - 1]


class Attention(nn.Module):
    """Attention of all patches to all."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.dim_head
        self._heads = sizes.heads
        self.to_qkv = nn.Linear(sizes.dim, inner * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, sizes.dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what is added to tokens [N, T, dim]."""
        queries, keys, values = (split_heads(part, self._heads) for part in self.to_qkv(tokens).chunk(3, dim=-1))
        added: torch.Tensor = self.to_out(join_heads(nn.functional.scaled_dot_product_attention(queries, keys, values)))
        return added


def _feed_forward(sizes: VisionSizes) -> nn.Module:
    """Return widening, GELU and narrowing under the name `net`; dropout once stood at the empty place."""
    net = (nn.Linear(sizes.dim, sizes.mlp_dim), nn.GELU(), nn.Identity(), nn.Linear(sizes.mlp_dim, sizes.dim))
    return nn.Sequential(OrderedDict(net=nn.Sequential(*net)))


class Normed(nn.Module):
    """A part that reads its input through a norm and adds to it."""

    def __init__(self, dim: int, part: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = part

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens [N, T, dim] with the part's answer added."""
        added: torch.Tensor = tokens + self.fn(self.norm(tokens))
        return added


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
        self.pos_embedding = PositionTables(sizes)
        layers = [
            nn.Sequential(Normed(sizes.dim, Attention(sizes)), Normed(sizes.dim, _feed_forward(sizes)))
            for _ in range(sizes.depth)
        ]
        self.transformer = nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))

    def positions(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return the positions [T, dim] that volumes [N, C, H, W, D] get."""
        height, width, depth = (size // side for size, side in zip(volumes.shape[-3:], self._sides, strict=True))
        positions: torch.Tensor = self.pos_embedding((height, width, depth))
        return positions

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return tokens [N, T, dim] of volumes [N, C, H, W, D], one per patch; sides are multiples of a patch's."""
        patches = self.to_patch_embedding(patches_of(volumes, self._sides))
        tokens: torch.Tensor = self.transformer(patches + self.positions(volumes))
        return tokens


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
        latents: torch.Tensor = self.perceiver(self.vision_encoder(volumes))
        return latents

    def tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what stands in a prompt [N, L + 2, width]: `<image>`, the projected latents, `</image>`."""
        opening, closing = self.figure_token_weight
        around = (len(latents), 1, -1)
        return torch.cat([opening.expand(*around), self.fc(latents), closing.expand(*around)], dim=1)
