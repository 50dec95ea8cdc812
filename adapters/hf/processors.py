"""Processors of transformers without torchvision: images need PIL alone, only videos need more."""

import importlib
from pathlib import Path
from typing import Any

from transformers import AutoProcessor
from transformers.models.auto import processing_auto

from tasks.foundation.errors import DataError


def load_processor(folder: Path, config: Any) -> Any:  # noqa: ANN401 - any of transformers
    """Return a model's processor, whose tokenizer pads on the left; without its video part where that is missing.

    Raises:
        DataError: If it cannot be made here.
    """
    try:
        processor = _first_that_loads(folder, config)
    except (ImportError, OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"The processor of {config.model_type} in {folder} cannot be made: {error}",
            "Its images may need torchvision, or a file of the processor is missing.",
        ) from error
    # Padding on the right puts padding between prompt and answer.
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _first_that_loads(folder: Path, config: Any) -> Any:  # noqa: ANN401 - any of transformers
    try:
        return AutoProcessor.from_pretrained(folder)
    except (ImportError, AttributeError, OSError):
        # Only the video part asks for torchvision, or for a file that a model of images does not have.
        return _images_only(config).from_pretrained(folder)


def _images_only(config: Any) -> Any:  # noqa: ANN401 - any of transformers
    """Return the model's processor class without its video part, which alone needs torchvision."""
    names: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    name = names.get(config.model_type)
    if name is None:
        raise ValueError(f"transformers names no processor for {config.model_type}")
    module = importlib.import_module(f"transformers.models.{config.model_type}")
    whole: Any = getattr(module, name)

    return without_videos(whole)


def without_videos(whole: Any) -> Any:  # noqa: ANN401 - a class of transformers
    """Return a processor class that has no part for videos."""

    class ImagesOnly(whole):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in whole.get_attributes() if part != "video_processor"]

    ImagesOnly.__name__ = whole.__name__
    return ImagesOnly
