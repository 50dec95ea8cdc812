"""The frozen weights that a Uni-Med is built on: a LLaMA-architecture language model and a ViT."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import Blip2VisionConfig, LlamaConfig

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import fingerprint, sampled_sha256
from medbench.tasks.foundation.model_files import digests
from medbench.unimed.language_model import LanguageModel
from medbench.unimed.official.eva import read_eva
from medbench.unimed.weight_files import read_tensors
from medbench.unimed.weights import ROTARY, find_folder, refuse_misfits, strict_from_pretrained

_LANGUAGE_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.bin"]
_IDENTITY_FILES = ("*.safetensors", "*.bin", "*.pth", "*.pt", "config.json")
_VISION_PREFIX = "vision_model."


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWeights:
    """Where the frozen weights are.

    Attributes:
        language_model: Folder of a LLaMA-architecture model, or its name on the Hub.
        vision: `eva_vit_g.pth`, or a folder or file of safetensors with `vision_model.*` (BLIP-2 on the Hub).
    """

    language_model: str
    vision: str

    def resolved(self) -> "BaseWeights":
        """Return the same with paths of this machine.

        Raises:
            UsageError: If something is neither here nor in the Hub's cache nor to be downloaded.
        """
        vision = Path(self.vision).expanduser()
        if not vision.exists():
            raise UsageError(
                f"The vision weights {self.vision!r} are not there.",
                "Give eva_vit_g.pth (as BLIP-2 ships it), or a folder with BLIP-2's safetensors.",
            )
        language, _ = find_folder(
            self.language_model, files=_LANGUAGE_FILES, what=f"The language model {self.language_model!r}",
            hint="Give the folder of a LLaMA-architecture model; gated ones need `hf auth login` first.",
        )  # fmt: skip
        return BaseWeights(language_model=str(language), vision=str(vision.resolve()))

    def identity(self) -> dict[str, str]:
        """Return a fingerprint of each part: sizes and samples of the files, so that 15 GB need not be read.

        Trained checkpoints hold these: they must stay what they are.
        """
        return {name: fingerprint(_sampled(Path(path))) for name, path in asdict(self.resolved()).items()}


def _sampled(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: sampled_sha256(path)}
    return digests(path, only=_IDENTITY_FILES, digest=sampled_sha256)


def read_language_config(folder: Path) -> LlamaConfig:
    """Return the configuration of a LLaMA-architecture model.

    Raises:
        DataError: If the folder has none, or it is of another architecture.
    """
    try:
        values, _ = LlamaConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} has no readable config.json: {error}", "Give a LLaMA folder.") from error
    if values.get("model_type") != "llama":
        raise DataError(
            f"{folder} holds a model of type {values.get('model_type')!r}.",
            "Uni-Med takes any language model of LLaMA's architecture (model_type `llama`).",
        )
    return LlamaConfig.from_dict(values)


def load_language_model(folder: Path, config: LlamaConfig, dtype: torch.dtype) -> LanguageModel:
    """Load a language model strictly.

    Raises:
        DataError: If a weight is missing, unexpected or of another shape, or a file is broken.
    """
    model = strict_from_pretrained(LanguageModel, folder, config=config, dtype=dtype, harmless=ROTARY)
    return cast("LanguageModel", model)


def read_vision(path: Path, config: Blip2VisionConfig, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state of a `Blip2VisionModel` without `post_layernorm`.

    Args:
        path: `eva_vit_g.pth`, or safetensors with `vision_model.*`.
        config: Depth, image and patch size.
        expected: The state to be filled, for names and shapes.

    Raises:
        DataError: If the weights do not fit.
    """
    state = read_eva(path, config) if path.suffix in {".pth", ".pt"} else _read_safetensors(path, config)
    refuse_misfits(str(path), state, expected)
    return state


def _read_safetensors(path: Path, config: Blip2VisionConfig) -> dict[str, torch.Tensor]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    state: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            inner = name.removeprefix(_VISION_PREFIX)
            block = int(inner.split(".")[2]) if inner.startswith("encoder.layers.") else 0
            if name != inner and "post_layernorm" not in inner and block < int(config.num_hidden_layers):
                state[inner] = tensor
    return state
