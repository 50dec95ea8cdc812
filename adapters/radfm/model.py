"""RadFM as modules: vision with the names of the published checkpoint, and transformers' own LLaMA."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaForCausalLM

from medbench.adapters.perceiver import PerceiverResampler
from medbench.adapters.radfm.sizes import RadFMSizes
from medbench.adapters.radfm.vit3d import VisionTransformer3D


class RadFMVision(nn.Module):
    """Volumes to tokens of a prompt; the names follow `embedding_layer.` in the checkpoint."""

    def __init__(self, sizes: RadFMSizes) -> None:
        super().__init__()
        width = sizes.language_model.hidden_size
        self.vision_encoder = VisionTransformer3D(sizes.vision)
        self.perceiver = PerceiverResampler(sizes.perceiver)
        self.fc = nn.Linear(sizes.perceiver.dim, width)
        self.figure_token_weight = nn.Parameter(torch.zeros(2, width))

    def latents(self, volumes: torch.Tensor) -> torch.Tensor:
        """Return latents [N, L, C] of volumes [N, 3, H, W, D]; volumes do not mix."""
        latents: torch.Tensor = self.perceiver(self.vision_encoder(volumes))
        return latents

    def tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what stands in a prompt [N, L + 2, width]: `<image>`, the projected latents, `</image>`."""
        opening, closing = self.figure_token_weight
        around = (len(latents), 1, -1)
        return torch.cat([opening.expand(*around), self.fc(latents), closing.expand(*around)], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RadFM:
    """The loaded model.

    Attributes:
        language_model: LLaMA-13B.
        vision: Everything before it, in float32 whatever the type of the language model: 0.43 GB.
        sizes: Of both.
    """

    language_model: LlamaForCausalLM
    vision: RadFMVision
    sizes: RadFMSizes
