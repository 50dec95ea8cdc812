"""The model that a recipe asks for: on base weights, or from scratch."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.assembly import assemble, checked_config, configure, processor_on, refuse_unknown
from medbench.unimed.base_weights import BaseWeights
from medbench.unimed.checkpoint import TRAINED, WHOLE
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import PromptForm, PromptStyle
from medbench.unimed.training.corpus import Corpus
from medbench.unimed.training.recipe import ModelPlan, Recipe
from medbench.unimed.training.tokenizer import train_tokenizer
from medbench.unimed.weight_files import read_tensors
from medbench.unimed.weights import copy_into

EVA_IMAGE_SIZE = 224


def image_size_of(plan: ModelPlan) -> int:
    """Return the side of the pictures in pixels."""
    return int(plan.vision.get("image_size", EVA_IMAGE_SIZE))


def base_of(plan: ModelPlan) -> BaseWeights | None:
    """Return the resolved base weights of a model, or None if it is trained from scratch.

    Raises:
        UsageError: If they are not there.
    """
    if plan.language_model is None or plan.vision_weights is None:
        return None
    return BaseWeights(language_model=plan.language_model, vision=plan.vision_weights).resolved()


def build(
    recipe: Recipe, corpus: Corpus, base: BaseWeights | None, *, frozen_dtype: torch.dtype
) -> tuple[UniMedForConditionalGeneration, UniMedProcessor]:
    """Return an untrained model with what learns in float32, and its processor.

    Raises:
        DataError: If base weights do not fit.
        UsageError: If the recipe's configuration cannot work.
    """
    torch.manual_seed(recipe.seed)
    if base is not None:
        config = configure(base, dict(recipe.model.unimed), vision=dict(recipe.model.vision))
        processor = processor_on(base, config)
        return assemble(config, base, dtype=frozen_dtype), processor
    tokenizer = train_tokenizer(corpus.texts(_form(recipe.model)), recipe.model.vocabulary)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text: dict[str, Any] = {**recipe.model.text, **special, "pad_token_id": tokenizer.pad_token_id}
    config = scratch_config(recipe.model, {**text, "vocab_size": len(tokenizer)})
    processor = UniMedProcessor.of_model(tokenizer, config)
    config.image_token_id = processor.image_token_id
    model = UniMedForConditionalGeneration(config)
    model.train_what_is_tuned(vision=recipe.tower_share > 0)
    return model, processor


def scratch_config(plan: ModelPlan, text: dict[str, Any] | None = None) -> UniMedConfig:
    """Return the configuration of a model from scratch."""
    refuse_unknown("The language model", plan.text, LlamaConfig)
    text = text or {**plan.text, "vocab_size": plan.vocabulary}
    return checked_config(vision_config=dict(plan.vision), text_config=text, **plan.unimed)


def _form(plan: ModelPlan) -> PromptForm:
    values = plan.unimed
    style: PromptStyle = "official" if values.get("prompt_style") == "official" else "clean"
    return PromptForm(style=style, identifiers=bool(values.get("text_identifiers", True)))


def restore_weights(model: UniMedForConditionalGeneration, folder: Path) -> None:
    """Put the weights of a checkpoint of the same training into `model`.

    Raises:
        DataError: If they cannot be read or do not fit.
    """
    whole = (folder / WHOLE).is_file()
    path = folder / (WHOLE if whole else TRAINED)
    tensors = read_tensors(path, "Delete this checkpoint and resume from the one before.")
    if not whole:
        copy_into(model.trainable(), tensors, str(path))
        return
    info = model.load_state_dict(tensors, strict=False)
    tied = set(model.all_tied_weights_keys)
    missing = [name for name in info.missing_keys if name not in tied]
    if missing or info.unexpected_keys:
        raise DataError(
            f"{path} does not fit the recipe: {len(missing)} missing, {len(info.unexpected_keys)} unexpected.",
            "Resume with the recipe that made it.",
        )
