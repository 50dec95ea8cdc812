"""Processors of transformers without torchvision: images need PIL alone, only videos need more.

Pictures are scaled by PIL even where torchvision is installed: the two differ by a grey level, and an answer must not
depend on what else stands in an environment.
"""

import importlib
from pathlib import Path
from typing import Any

from transformers import AutoProcessor
from transformers.models.auto import processing_auto

from medbench.adapters.hf.finding import Configuration
from medbench.tasks.foundation.errors import DataError

Processor = Any
"""Any processor of transformers, or a class of them."""
Tokenizer = Any
"""Any tokenizer of transformers."""
_PIL: dict[str, Any] = {"backend": "pil", "trust_remote_code": False}
_PARTS = ("tokenizer", "image_processor")
# Additional tokens of a vision tower, beside its patches, by the type of its configuration.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def load_processor(folder: Path, config: Configuration) -> tuple[Processor, tuple[str, ...]]:
    """Return a model's processor, whose tokenizer pads on the left, and notices of what was mended in it.

    It has no video part where that cannot be loaded.

    Raises:
        DataError: If it cannot be made here.
    """
    try:
        processor = _first_that_loads(folder, config)
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        raise DataError(
            f"The processor of {config.model_type} in {folder} cannot be made: {error}",
            "Its images may need torchvision, or a file of the processor is missing.",
        ) from error
    missing = [name for name in _PARTS if getattr(processor, name, None) is None]
    if missing:
        raise DataError(
            f"The files in {folder} make no processor of {config.model_type}: no {' and no '.join(missing)}.",
            "Copy processor_config.json, preprocessor_config.json and the tokenizer's files of the model it was made "
            "from.",
        )
    # Padding on the right puts padding between prompt and answer.
    processor.tokenizer.padding_side = "left"
    _pad_somehow(processor.tokenizer)
    return processor, _mended(processor, config)


def _pad_somehow(tokenizer: Tokenizer) -> None:
    """Name a token for padding where none is named; which one does not matter, since a mask hides it."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)


def _mended(processor: Processor, config: Configuration) -> tuple[str, ...]:
    """Give a processor of LLaVA what the model's configuration knows and older ones were saved without."""
    vision = getattr(config, "vision_config", None)
    known = {
        "patch_size": getattr(vision, "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": _CLASS_TOKENS.get(getattr(vision, "model_type", "")),
    }
    if not hasattr(processor, "patch_size") or not hasattr(processor, "vision_feature_select_strategy"):
        return ()
    # Without a patch size the number of additional tokens is a default, not something that was said.
    bare = processor.patch_size is None
    taken = {
        name: value for name, value in known.items()
        if value is not None and (getattr(processor, name, None) is None or (bare and name.startswith("num_")))
    }  # fmt: skip
    for name, value in taken.items():
        setattr(processor, name, value)
    if not taken:
        return ()
    told = ", ".join(f"{name}={value}" for name, value in taken.items())
    return (f"The processor was saved without {told}; they were taken from config.json.",)


def _first_that_loads(folder: Path, config: Configuration) -> Processor:
    try:
        return AutoProcessor.from_pretrained(folder, **_PIL)
    except (ImportError, AttributeError, OSError):
        # Only the video part asks for torchvision, or for a file that a model of images does not have.
        return _images_only(config).from_pretrained(folder, **_PIL)


def _images_only(config: Configuration) -> Processor:
    """Return the model's processor class without its video part, which alone needs torchvision."""
    names: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    name = names.get(config.model_type)
    if name is None:
        raise ValueError(f"transformers names no processor for {config.model_type}")
    module = importlib.import_module(f"transformers.models.{config.model_type}")
    whole: Any = getattr(module, name)

    return without_videos(whole)


def without_videos(whole: Processor) -> Processor:
    """Return a processor class that has no part for videos."""

    class ImagesOnly(whole):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in whole.get_attributes() if part != "video_processor"]

    ImagesOnly.__name__ = whole.__name__
    return ImagesOnly
