"""LLaVA's flat `config.json` as transformers' nested one.

The format holds the language model's settings beside `mm_*` ones for the rest:

    {"model_type": "llava_mistral", "hidden_size": 4096, ..., "mm_vision_tower": "openai/clip-vit-large-patch14-336",
     "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "image_aspect_ratio": "pad"}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from medbench.adapters.llava_med.vision import tower_config
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json

LANGUAGE_MODELS: Mapping[str, type[PreTrainedConfig]] = {
    "llava_mistral": MistralConfig,
    "llava": LlamaConfig,
    "llava_llama": LlamaConfig,
    "llava_qwen2": Qwen2Config,
}
"""Language models by the `model_type` of their LLaVA."""
_ROPE = ("rope_theta", "rope_scaling")
_PROJECTORS = {"linear": True, "mlp2x_gelu": False}
_STRATEGIES = {"patch": "default", "cls_patch": "full"}
_SHAPES = {"pad": True, "square": False, None: False}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaFormat:
    """What a checkpoint of LLaVA's format is.

    Attributes:
        config: Of the model. Its image token is the unknown one, which no text gives, until the tokenizer is known.
        linear: Whether the projector is one linear layer (version 1.0), not two.
        pads: Whether pictures are padded to a square, not cut.
        marks: Whether images stand between `<im_start>` and `<im_end>`.
        visual_tokens: Tokens of an image.
        longest_prompt: Most tokens of a prompt; None if only the language model limits them.
    """

    config: LlavaConfig
    linear: bool
    pads: bool
    marks: bool
    visual_tokens: int
    longest_prompt: int | None


def read_format(folder: Path, tower: Path | None) -> LlavaFormat:
    """Return what a checkpoint folder says about itself.

    Args:
        folder: The checkpoint.
        tower: Folder of its vision tower; None if it is one of OpenAI's two, whose sizes are known.

    Raises:
        DataError: If `config.json` is missing, of another format, or asks for something that is not supported.
    """
    flat = read_json(folder / "config.json")
    _refuse_other_formats(folder, flat)
    vision = tower_config(str(flat.get("mm_vision_tower") or ""), tower)
    feature = _one_of(folder, flat, "mm_vision_select_feature", _STRATEGIES, "patch")
    patches = (int(vision.image_size) // int(vision.patch_size)) ** 2  # type: ignore[arg-type]  # CLIP's are squares
    visual_tokens = patches + int(feature == "full")
    config = _checked(
        folder,
        image_seq_length=visual_tokens,
        vision=vision,
        text=_language(folder, flat),
        vision_feature_layer=int(flat.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy=feature,
    )
    longest = flat.get("tokenizer_model_max_length")
    return LlavaFormat(
        config=config,
        linear=_one_of(folder, flat, "mm_projector_type", _PROJECTORS, "linear"),
        pads=_one_of(folder, flat, "image_aspect_ratio", _SHAPES, None),
        marks=bool(flat.get("mm_use_im_start_end", False)),
        visual_tokens=visual_tokens,
        longest_prompt=int(longest) if longest else None,
    )


def _refuse_other_formats(folder: Path, flat: Mapping[str, Any]) -> None:
    if "text_config" in flat:
        raise DataError(
            f"{folder} is a model in the layout of transformers, not of LLaVA.",
            f"Run it as it is: --model hf:{folder}",
        )
    if flat.get("model_type") not in LANGUAGE_MODELS:
        raise DataError(
            f"{folder} holds a model of type {flat.get('model_type')!r}.",
            f"Allowed: {', '.join(LANGUAGE_MODELS)}.",
        )
    if "mm_vision_tower" not in flat:
        raise DataError(
            f"{folder / 'config.json'} names no mm_vision_tower: this is a language model alone.",
            "Give a LLaVA-Med checkpoint; version 1.0 is made of LLaMA and a delta by "
            "`medbench.adapters.llava_med.delta.convert_delta`.",
        )


def _language(folder: Path, flat: Mapping[str, Any]) -> PreTrainedConfig:
    kind = LANGUAGE_MODELS[flat["model_type"]]
    known = {*kind.__dataclass_fields__, *_ROPE} - {"model_type", "architectures"}
    try:
        return kind.from_dict({name: value for name, value in flat.items() if name in known})
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Copy it again.") from error


def _checked(folder: Path, *, vision: CLIPVisionConfig, text: PreTrainedConfig, **settings: Any) -> LlavaConfig:
    try:
        return LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=0,
            tie_word_embeddings=bool(text.tie_word_embeddings),
            **settings,
        )
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Copy it again.") from error


def _one_of(folder: Path, flat: Mapping[str, Any], name: str, allowed: Mapping[Any, Any], default: object) -> Any:  # noqa: ANN401 - what the table holds
    value = flat.get(name, default)
    if value not in allowed:
        words = ", ".join(str(word) for word in allowed)
        raise DataError(f"{folder / 'config.json'}: {name} is {value!r}.", f"Supported: {words}.")
    return allowed[value]
