"""Building a Uni-Med out of frozen base weights and a fresh, trainable rest."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Blip2VisionConfig, PreTrainedConfig

from medbench.tasks.foundation.errors import UsageError
from medbench.unimed.base_weights import BaseWeights, load_language_model, read_language_config, read_vision
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import Connector
from medbench.unimed.lora import add_low_rank
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.tokens import load_language_model_tokenizer


def configure(base: BaseWeights, settings: dict[str, Any], *, vision: dict[str, Any] | None = None) -> UniMedConfig:
    """Return the configuration of a model on `base`: the language model's from its folder, the rest from `settings`.

    Args:
        base: Resolved base weights.
        settings: Fields of `UniMedConfig`.
        vision: Fields of the ViT that differ from EVA ViT-G/14.

    Raises:
        UsageError: If a field is unknown or the combination cannot work.
    """
    text = read_language_config(Path(base.language_model))
    return checked_config(vision_config=vision or {}, text_config=text.to_dict(), **settings)


def checked_config(**settings: Any) -> UniMedConfig:
    """Return a configuration.

    Raises:
        UsageError: If a field is unknown or the combination cannot work.
    """
    refuse_unknown("UniMedConfig", settings, UniMedConfig)
    refuse_unknown("The vision tower", settings.get("vision_config") or {}, Blip2VisionConfig)
    try:
        return UniMedConfig(**settings)
    except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UsageError(f"This Uni-Med cannot be built: {error}", "See `unimed/configuration.py`.") from error


def refuse_unknown(owner: str, given: Iterable[str], config: type[PreTrainedConfig]) -> None:
    """Compare names of settings with the fields of a configuration.

    Raises:
        UsageError: If there is no such field; transformers would keep it and ignore it.
    """
    unknown = sorted(set(given) - set(config.__dataclass_fields__))
    if unknown:
        allowed = ", ".join(sorted(config.__annotations__))
        raise UsageError(f"{owner} has no {', '.join(unknown)}.", f"Allowed: {allowed}.")


def assemble(config: UniMedConfig, base: BaseWeights, *, dtype: torch.dtype) -> UniMedForConditionalGeneration:
    """Return a model with frozen weights of type `dtype` from `base`, and everything that learns in float32.

    Args:
        config: Made for this base, see `configure`.
        base: Resolved base weights.
        dtype: Type of the frozen weights; nothing is cast again later.

    Raises:
        DataError: If the base weights do not fit.
    """
    with torch.device("meta"):
        model = UniMedForConditionalGeneration(config)
    model.language_model = load_language_model(Path(base.language_model), config.text, dtype)
    if config.has_lora:
        add_low_rank(model.language_model, config)
    vit = model.vision_tower.vit
    state = read_vision(Path(base.vision), config.vision, vit.state_dict())
    vit.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in state.items()}, strict=True, assign=True)
    model.connector = Connector(config)
    model.train_what_is_tuned()
    for parameter in model.trainable().values():
        parameter.data = parameter.data.float()
    return model


def processor_on(base: BaseWeights, config: UniMedConfig) -> UniMedProcessor:
    """Return the processor of a model on `base`; the configuration learns the id of the image placeholder."""
    tokenizer = load_language_model_tokenizer(Path(base.language_model))
    processor = UniMedProcessor.of_model(tokenizer, config)
    config.image_token_id = processor.image_token_id
    return processor
