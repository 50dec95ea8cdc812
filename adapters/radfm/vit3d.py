"""RadFM's vision transformer over volumes; a picture is a volume of equal slices.

Source: Wu et al., Towards Generalist Foundation Model for Radiology (RadFM, 2023), section 3.2, and the published
checkpoint, whose names the parameters bear. There is no class token and no norm behind the last layer.
"""

from dataclasses import dataclass

import torch
from torch import nn

from medbench.adapters.perceiver import join_heads, split_heads
from medbench.tasks.foundation.errors import SampleError


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSizes:
    """Sizes of the transformer; the defaults are the published ones.

    Attributes:
        image_size: Longest height and width in pixels.
        frames: Deepest volume in slices.
        patch_size: Height and width of a patch.
        frame_patch_size: Slices of a patch.
        dim: Width of a token.
        depth: Layers.
        heads: Heads of attention.
        dim_head: Width of a head.
        mlp_dim: Width of the feed-forward.
        channels: Channels of a volume.
    """

    image_size: int = 512
    frames: int = 512
    patch_size: int = 32
    frame_patch_size: int = 4
    dim: int = 768
    depth: int = 12
    heads: int = 8
    dim_head: int = 64
    mlp_dim: int = 2048
    channels: int = 3


class Patches(nn.Module):
    """Volumes cut into patches, the slices running fastest among them, the channels fastest inside them."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self._sides = (sizes.patch_size, sizes.patch_size, sizes.frame_patch_size)

    def grid(self, volume: torch.Tensor) -> tuple[int, int, int]:
        """Return rows, columns and layers of patches of a volume [..., H, W, D].

        Raises:
            SampleError: If a side is no multiple of the patch's.
        """
        height, width, depth = volume.shape[-3:]
        if any(side % patch or not side for side, patch in zip((height, width, depth), self._sides, strict=True)):
            raise SampleError(
                f"A volume of {height}x{width}x{depth} cannot be cut into patches of {'x'.join(map(str, self._sides))}."
            )
        return height // self._sides[0], width // self._sides[1], depth // self._sides[2]

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return patches [N, h * w * d, values] of volumes [N, C, H, W, D]."""
        grid = self.grid(volumes)
        for axis, (number, side) in enumerate(zip(grid, self._sides, strict=True)):
            volumes = volumes.unflatten(2 + 2 * axis, (number, side))
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
        axes = [_spread(table, number) for table, number in zip(tables, grid, strict=True)]
        rows, columns, layers = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
        together = [part.expand(*grid, -1) for part in (rows, columns, layers)]
        return torch.cat(together, dim=-1).flatten(0, 2)


def _spread(table: nn.Embedding, number: int) -> torch.Tensor:
    stride = table.num_embeddings // number
    if not stride:
        raise SampleError(f"A volume has {number} patches along one axis; the model reads {table.num_embeddings}.")
    return table.weight[(torch.arange(number, device=table.weight.device) + 1) * stride - 1]


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


class FeedForward(nn.Module):
    """Widening, GELU and narrowing; dropout once stood at the empty place."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(sizes.dim, sizes.mlp_dim), nn.GELU(), nn.Identity(), nn.Linear(sizes.mlp_dim, sizes.dim)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what is added to tokens [N, T, dim]."""
        added: torch.Tensor = self.net(tokens)
        return added


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


class Layers(nn.Module):
    """The layers one after another."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(Normed(sizes.dim, Attention(sizes)), Normed(sizes.dim, FeedForward(sizes)))
            for _ in range(sizes.depth)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens [N, T, dim]."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class VisionTransformer3D(nn.Module):
    """Volumes to one token per patch."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        values = sizes.patch_size**2 * sizes.frame_patch_size * sizes.channels
        self.to_patch_embedding = nn.Sequential(
            Patches(sizes), nn.LayerNorm(values), nn.Linear(values, sizes.dim), nn.LayerNorm(sizes.dim)
        )
        self.pos_embedding = PositionTables(sizes)
        self.transformer = Layers(sizes)

    def positions(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return the positions [T, dim] that volumes [N, C, H, W, D] get."""
        patches = self.to_patch_embedding[0]
        positions: torch.Tensor = self.pos_embedding(patches.grid(volumes))  # type: ignore[operator]  # a module's method
        return positions

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return tokens [N, T, dim] of volumes [N, C, H, W, D], one per patch.

        Raises:
            SampleError: If the volumes cannot be cut into patches, or into more than there are positions for.
        """
        tokens: torch.Tensor = self.transformer(self.to_patch_embedding(volumes) + self.positions(volumes))
        return tokens
