"""RadFM's vision: a transformer over volumes and a perceiver, and the sizes of the whole model.

An image is a volume of equal slices. The names of the parameters are those of the published checkpoint. There is no
class token and no norm behind the last layer. Sizes are told by `radfm.json`, by the shapes of the weights, and else
as published. `radfm.json` beside `pytorch_model.bin` may hold any part of what the converter writes:

    {"vision": {"heads": 8}, "perceiver": {"heads": 8}, "language_model": {"num_attention_heads": 40}}

Source: Wu et al., Towards Generalist Foundation Model for Radiology (RadFM, 2023), section 3.2.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from torch import nn

from medbench.adapters.perceiver import PerceiverResampler, PerceiverSizes, join_heads, sizes_of, split_heads
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.weights import layers_in, part_of

SIZES_FILE = "radfm.json"
LANGUAGE, VISION = "lang_model.", "embedding_layer."
"""What the names of the two halves begin with in the published checkpoint."""
PUBLISHED_HINT = "Give the state dictionary that RadFM's authors publish as pytorch_model.bin."
_LLAMA_HEAD_WIDTH, _TOWER_HEAD_WIDTH = 128, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSizes:
    """Sizes of LLaMA, by the names of its configuration in transformers."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSizes:
    """Sizes of the vision transformer; the defaults are the published ones.

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


# An unknown name in a file that people write by hand is a mistake.
for _sizes in (LanguageSizes, VisionSizes, PerceiverSizes):
    with_config(ConfigDict(extra="forbid"))(_sizes)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class RadFMSizes:
    """Sizes of the whole model; `radfm.json` holds them under these names."""

    language_model: LanguageSizes
    vision: VisionSizes
    perceiver: PerceiverSizes


def read_sizes(path: Path) -> RadFMSizes:
    """Return the sizes that the converter wrote.

    Raises:
        DataError: If the file is missing or says something else.
    """
    return _checked(path, read_json(path))


def sizes_of_state(state: Mapping[str, torch.Tensor], source: str, file: Path) -> RadFMSizes:
    """Return the sizes of the published state, with what `file` says, if it is there, on top.

    Args:
        state: Tensors under their published names.
        source: Where they are from, for messages.
        file: A `radfm.json` that may be missing or hold a part.

    Raises:
        DataError: If the state is no RadFM, or the file says something impossible.
    """
    given = read_json(file) if file.is_file() else {}
    if not isinstance(given, dict) or any(not isinstance(part, dict) for part in given.values()):
        raise DataError(
            f"{file} is no table of sizes.", "It may hold language_model, vision and perceiver, each a table."
        )
    heads = {name: given.get(name, {}).get("heads") for name in ("vision", "perceiver")}
    try:
        found = {
            "language_model": _llama_sizes(part_of(state, LANGUAGE)),
            "vision": _vision_sizes(part_of(state, f"{VISION}vision_encoder."), heads["vision"]),
            "perceiver": asdict(sizes_of(part_of(state, f"{VISION}perceiver."), source, heads=heads["perceiver"])),
        }
    except KeyError as error:
        raise DataError(f"{source} is no RadFM: {error} is missing.", PUBLISHED_HINT) from error
    except (ValueError, ZeroDivisionError, TypeError, IndexError) as error:
        raise DataError(f"{source} is no RadFM: its sizes cannot be told ({error}).", PUBLISHED_HINT) from error
    return _checked(file, {**given, **{part: sizes | given.get(part, {}) for part, sizes in found.items()}})


def _checked(path: Path, table: object) -> RadFMSizes:
    try:
        sizes = TypeAdapter(RadFMSizes).validate_python(table)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataError(f"{path} holds impossible sizes: {problems}.", "Correct the file.") from error
    wrong = [
        f"{part}.{name} {value}"
        for part, values in asdict(sizes).items() for name, value in values.items() if not value > 0
    ]  # fmt: skip
    if wrong:
        raise DataError(f"{path} holds impossible sizes: {', '.join(wrong)}.", "Sizes are larger than 0.")
    vision = sizes.vision
    if vision.image_size % vision.patch_size or vision.frames % vision.frame_patch_size:
        raise DataError(f"{path} holds impossible sizes: vision cannot be cut into its patches.", "Correct the file.")
    return sizes


def _llama_sizes(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    vocabulary, hidden = state["model.embed_tokens.weight"].shape
    # Old transformers kept the rotary frequencies, half as many as a head is wide, in the state.
    rotary = state.get("model.layers.0.self_attn.rotary_emb.inv_freq")
    width = _LLAMA_HEAD_WIDTH if rotary is None else 2 * len(rotary)
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": state["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": layers_in(state, "model.layers."),
        "num_attention_heads": max(1, hidden // width),
    }


def _vision_sizes(state: Mapping[str, torch.Tensor], heads: int | None) -> dict[str, Any]:
    """Return the sizes of the tower; three channels and four slices of a patch are as published, not to be seen."""
    inner = state["transformer.layers.0.0.fn.to_qkv.weight"].shape[0] // 3
    heads = heads or max(1, inner // _TOWER_HEAD_WIDTH)
    dim, values = state["to_patch_embedding.2.weight"].shape
    channels, slices = VisionSizes().channels, VisionSizes().frame_patch_size
    patch = math.isqrt(values // (channels * slices))
    return {
        "image_size": len(state["pos_embedding.row_embed.weight"]) * patch,
        "frames": len(state["pos_embedding.dep_embed.weight"]) * slices,
        "patch_size": patch,
        "frame_patch_size": slices,
        "dim": dim,
        "depth": layers_in(state, "transformer.layers."),
        "heads": heads,
        "dim_head": inner // heads,
        "mlp_dim": state["transformer.layers.0.1.fn.net.0.weight"].shape[0],
        "channels": channels,
    }


class Patches(nn.Module):
    """Volumes cut into patches, the slices running fastest among them, the channels fastest inside them."""

    def __init__(self, sides: tuple[int, int, int]) -> None:
        super().__init__()
        self._sides = sides

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return patches [N, h * w * d, values] of volumes [N, C, H, W, D]."""
        for axis, side in enumerate(self._sides):
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
        self.to_patch_embedding = nn.Sequential(
            Patches(self._sides), nn.LayerNorm(values), nn.Linear(values, sizes.dim), nn.LayerNorm(sizes.dim)
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
        tokens: torch.Tensor = self.transformer(self.to_patch_embedding(volumes) + self.positions(volumes))
        return tokens


class RadFMVision(nn.Module):
    """Volumes to tokens of a prompt; the names follow `embedding_layer.` in the checkpoint.

    Attributes:
        image_size: Height and width of an image in pixels.
        image_tokens: Tokens of an image in a prompt: its latents between two brackets.
    """

    def __init__(self, sizes: RadFMSizes) -> None:
        super().__init__()
        self.image_size = sizes.vision.image_size
        self.image_tokens = sizes.perceiver.num_latents + 2
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
