"""A mid-size model of Uni-Med's shape with random weights, behind the adapter contract."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from medbench.adapters.base import Dtype, LocalAdapter, ModelCard, Pixels, Prompt, SizeOf
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.configuration import CONNECTOR_TASKS, UniMedConfig
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.prompts import CONNECTOR_TASK

if TYPE_CHECKING:
    from PIL import Image

VOCABULARY = 32_000
IMAGE_SIDE = 224
CARD = ModelCard(
    name="mid-size",
    title="Mid-size Uni-Med",
    kinds=frozenset({"qa", "vqa", "report", "rec", "reg", "cls"}),
    weights="random",
    licence="Apache-2.0",
)


class MidSize(LocalAdapter):
    """ViT 192 x 8, resampler 4, five experts, LLaMA 512 x 8: as facts of scale, not of knowledge.

    The router's hidden layer is cut so that the connector keeps the share of the work that it has at full size.
    """

    card = CARD
    end_ids = frozenset[int]()
    exclusive = True

    def __init__(self, device: str = "cpu", dtype: Dtype = "float32", **text: Any) -> None:
        """Make it on a device; `text` are other sizes of the decoder."""
        torch.manual_seed(7)
        config = UniMedConfig(
            vision_config={
                "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4,
                "image_size": IMAGE_SIDE, "patch_size": 14, "initializer_range": 0.05,
            },
            text_config={
                "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
                "vocab_size": VOCABULARY, "initializer_range": 0.05, "max_position_embeddings": 4096,
                **text,
            },
            router_hidden_size=512,
        )  # fmt: skip
        with torch.device(device):
            self._model = UniMedForConditionalGeneration(config)
        torch.nn.Module.to(self._model, getattr(torch, dtype))
        self.device, self.dtype = device, dtype
        self._model.train(mode=False)
        self._model.merge_lora()
        self.decoder = self._model.language_model
        self.weights_fingerprint = "random"

    def parameters(self) -> int:
        """Return the number of all parameters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Prompts are made by the workloads."""
        raise NotImplementedError

    def pixels(self, image: "Image.Image") -> torch.Tensor:
        """Return pixels [3, 224, 224] between -1 and 1."""
        import numpy as np

        small = np.asarray(image.resize((IMAGE_SIDE, IMAGE_SIDE)), dtype=np.float32) / 127.5 - 1
        pixels: torch.Tensor = torch.from_numpy(small).permute(2, 0, 1).contiguous()
        return pixels

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return features [64, 768]."""
        return list(self._model.encode_images(torch.stack(list(pixels)).to(self._model.device, self._model.dtype)))

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [64, 512]."""
        task = CONNECTOR_TASKS.index(CONNECTOR_TASK[kind])
        return list(
            self._model.project(
                torch.stack(list(features)), torch.full((len(features),), task, device=self._model.device)
            )
        )

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings [L, 512]."""
        embeddings: torch.Tensor = self._model.get_input_embeddings()(ids.to(self._model.device))
        return embeddings

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the ids themselves, which are what is compared."""
        return " ".join(map(str, ids))
