"""The perceiver resampler of Flamingo, which RadFM and Med-Flamingo share to the last letter of their keys.

Source: Alayrac et al., Flamingo (2022), section 3.1 and appendix A.1.1. All linear layers are without bias.
"""

from dataclasses import dataclass
from typing import cast

import torch
from pydantic import PositiveInt
from torch import nn

HEAD_WIDTH = 64  # Width of a head in all published checkpoints.


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceiverSizes:
    """Sizes of a resampler: width of tokens and latents, layers, heads, latents, and the feed-forward's widening."""

    dim: PositiveInt
    depth: PositiveInt = 6
    heads: PositiveInt = 8
    dim_head: PositiveInt = HEAD_WIDTH
    num_latents: PositiveInt = 64
    ff_mult: PositiveInt = 4


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """Return norm, widening, GELU and narrowing of tokens [..., dim]."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, dim * mult, bias=False), nn.GELU(), nn.Linear(dim * mult, dim, bias=False)
    )


def split_heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """Return [B, heads, T, d] of tokens [B, T, heads * d]."""
    return cast("torch.Tensor", tokens.unflatten(-1, (heads, -1))).transpose(-3, -2)


def join_heads(tokens: torch.Tensor) -> torch.Tensor:
    """Return [B, T, heads * d] of [B, heads, T, d]."""
    return tokens.transpose(-3, -2).flatten(-2)


def attend(heads: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return what queries [B, Q, heads * d] see of keys and values [B, T, heads * d]."""
    asked, named, held = (split_heads(part, heads) for part in (queries, keys, values))
    return join_heads(nn.functional.scaled_dot_product_attention(asked, named, held))


class PerceiverAttention(nn.Module):
    """Latents that look at the tokens of an image and at one another."""

    def __init__(self, sizes: PerceiverSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.dim_head
        self._heads = sizes.heads
        self.norm_media = nn.LayerNorm(sizes.dim)
        self.norm_latents = nn.LayerNorm(sizes.dim)
        self.to_q = nn.Linear(sizes.dim, inner, bias=False)
        self.to_kv = nn.Linear(sizes.dim, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, sizes.dim, bias=False)

    def forward(self, media: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return what is added to latents [N, L, dim] that look at media [N, T, dim]."""
        latents = self.norm_latents(latents)
        seen = self.to_kv(torch.cat([self.norm_media(media), latents], dim=1))
        return cast("torch.Tensor", self.to_out(attend(self._heads, self.to_q(latents), *seen.chunk(2, dim=-1))))


class PerceiverResampler(nn.Module):
    """Any number of tokens of an image to a fixed number of latents; images of a batch do not mix."""

    def __init__(self, sizes: PerceiverSizes) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(sizes.num_latents, sizes.dim))
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(sizes), feed_forward(sizes.dim, sizes.ff_mult)])
            for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(sizes.dim)

    def forward(self, media: torch.Tensor) -> torch.Tensor:
        """Return latents [N, L, dim] of the tokens [N, T, dim] of N images."""
        latents = self.latents.expand(len(media), -1, -1)
        for layer in self.layers:
            attention, widening = cast("nn.ModuleList", layer)
            latents = latents + attention(media, latents)
            latents = latents + widening(latents)
        return cast("torch.Tensor", self.norm(latents))
