"""The vision tower: a ViT whose second-to-last features are normalised, without the class token."""

import torch
from torch import nn
from transformers import Blip2VisionConfig, Blip2VisionModel

LN_VISION_EPSILON = 1e-5


class VisionTower(nn.Module):
    """EVA ViT as in BLIP-2, followed by `ln_vision`.

    The official `ln_vision` is never loaded from anywhere and frozen, so it is a plain normalisation with
    PyTorch's default epsilon and no weights. BLIP-2's trained `post_layernorm` must not be put in its place.
    """

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        self.vit = Blip2VisionModel(config)
        self.vit.post_layernorm = nn.LayerNorm(config.hidden_size, eps=LN_VISION_EPSILON, elementwise_affine=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return patch features [B, P, C] of normalised pixels [B, 3, H, W].

        Pictures of another size than the configuration's are seen with interpolated positions.
        """
        other_size = pixels.shape[-1] != self.vit.config.image_size
        output = self.vit(pixel_values=pixels, interpolate_pos_encoding=other_size)
        features: torch.Tensor = output.last_hidden_state[:, 1:]
        return features


def interpolated_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Return position embeddings [1, 1 + grid**2, C] for another grid of patches.

    As the official loader does it: the class token's stays, those of the patches are resized bicubically in fp32.
    """
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
