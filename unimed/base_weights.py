"""The frozen weights that a Uni-Med is built on, a LLaMA-architecture language model and a ViT, and the building."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Blip2VisionConfig, LlamaConfig, PreTrainedConfig

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import fingerprint, sampled_sha256
from medbench.tasks.foundation.model_files import digests
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import Connector
from medbench.unimed.lora import add_low_rank
from medbench.unimed.modeling import LanguageModel, UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.tokens import load_language_model_tokenizer
from medbench.unimed.vision import from_eva
from medbench.unimed.weight_files import read_tensors
from medbench.unimed.weights import ROTARY, find_folder, refuse_misfits, strict_from_pretrained

if TYPE_CHECKING:
    from peft import LoraConfig

_LANGUAGE_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.bin")
_IDENTITY_FILES = ("*.safetensors", "*.bin", "*.pth", "*.pt", "config.json")
_VISION_PREFIX = "vision_model."


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWeights:
    """Where the frozen weights are."""

    language_model: str  # Folder of a LLaMA-architecture model, or its name on the Hub.
    vision: str  # `eva_vit_g.pth`, or a folder or file of safetensors with `vision_model.*` (BLIP-2 on the Hub).

    def resolved(self) -> "BaseWeights":
        """Return the same with paths of this machine; UsageError if something is not to be had."""
        vision = Path(self.vision).expanduser()
        if not vision.exists():
            hint = "Give eva_vit_g.pth (as BLIP-2 ships it), or a folder with BLIP-2's safetensors."
            raise UsageError(f"The vision weights {self.vision!r} are not there.", hint)
        what = f"The language model {self.language_model!r}"
        hint = "Give the folder of a LLaMA-architecture model; gated ones need `hf auth login` first."
        language, _ = find_folder(self.language_model, files=_LANGUAGE_FILES, what=what, hint=hint)
        return BaseWeights(language_model=str(language), vision=str(vision.resolve()))

    def identity(self) -> dict[str, str]:
        """Return a fingerprint of each part, as checkpoints hold it: of sizes and samples, 15 GB are not read."""
        return {name: fingerprint(_sampled(Path(path))) for name, path in asdict(self.resolved()).items()}


def _sampled(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: sampled_sha256(path)}
    return digests(path, only=_IDENTITY_FILES, digest=sampled_sha256)


def read_language_config(folder: Path) -> LlamaConfig:
    """Return the configuration of a LLaMA-architecture model; DataError if there is none, or of another one."""
    try:
        values, _ = LlamaConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} has no readable config.json: {error}", "Give a LLaMA folder.") from error
    if values.get("model_type") != "llama":
        hint = "Uni-Med takes any language model of LLaMA's architecture (model_type `llama`)."
        raise DataError(f"{folder} holds a model of type {values.get('model_type')!r}.", hint)
    return LlamaConfig.from_dict(values)


def configure(base: BaseWeights, settings: dict[str, Any], *, vision: dict[str, Any] | None = None) -> UniMedConfig:
    """Return the configuration of a model on `base`, the rest from `settings`; UsageError if it cannot work."""
    text = read_language_config(Path(base.language_model)).to_dict()
    return checked_config(vision_config=vision or {}, text_config=text, **settings)


def checked_config(**settings: Any) -> UniMedConfig:
    """Return a configuration; UsageError if a field is unknown or the combination cannot work."""
    refuse_unknown("UniMedConfig", settings, UniMedConfig)
    refuse_unknown("The vision tower", settings.get("vision_config") or {}, Blip2VisionConfig)
    try:
        return UniMedConfig(**settings)
    except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UsageError(f"This Uni-Med cannot be built: {error}", "See `unimed/configuration.py`.") from error


def refuse_unknown(owner: str, given: Iterable[str], config: type[PreTrainedConfig]) -> None:
    """UsageError if a configuration has no field of a given name; transformers would keep it and ignore it."""
    unknown = sorted(set(given) - set(config.__dataclass_fields__))
    if unknown:
        allowed = ", ".join(sorted(config.__annotations__))
        raise UsageError(f"{owner} has no {', '.join(unknown)}.", f"Allowed: {allowed}.")


def assemble(
    config: UniMedConfig, base: BaseWeights, *, dtype: torch.dtype, adapter: "LoraConfig | None" = None
) -> UniMedForConditionalGeneration:
    """Return a model on `base`, frozen in `dtype`, what learns in float32; DataError if the weights do not fit."""
    with torch.device("meta"):
        model = UniMedForConditionalGeneration(config)
    model.language_model = strict_from_pretrained(
        LanguageModel, Path(base.language_model), config=config.text, dtype=dtype, harmless=ROTARY
    )
    if config.has_lora:
        add_low_rank(model.language_model, config, adapter)
    vit = model.vision_tower.vit
    state = _read_vision(Path(base.vision), config.vision)
    refuse_misfits(base.vision, state, vit.state_dict())
    vit.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in state.items()}, strict=True, assign=True)
    model.connector = Connector(config)
    model.train_what_is_tuned()
    for parameter in model.trainable().values():
        parameter.data = parameter.data.float()
    return model


def _read_vision(path: Path, config: Blip2VisionConfig) -> dict[str, torch.Tensor]:
    """Return the state of a `Blip2VisionModel` without `post_layernorm` and what lies behind the configured depth."""
    if path.suffix in {".pth", ".pt"}:
        return from_eva(read_tensors(path), config, str(path))
    state: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        for name, tensor in read_tensors(file).items():
            inner = name.removeprefix(_VISION_PREFIX)
            block = int(inner.split(".")[2]) if inner.startswith("encoder.layers.") else 0
            if name != inner and "post_layernorm" not in inner and block < int(config.num_hidden_layers):
                state[inner] = tensor
    return state


def processor_on(base: BaseWeights, config: UniMedConfig) -> UniMedProcessor:
    """Return the processor of a model on `base`; the configuration learns the id of the image placeholder."""
    processor = UniMedProcessor.of_model(load_language_model_tokenizer(Path(base.language_model)), config)
    config.image_token_id = processor.image_token_id
    return processor
