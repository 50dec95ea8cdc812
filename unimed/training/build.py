"""The model that a recipe asks for: on base weights, or from scratch with a small tokenizer of its own."""

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from medbench.unimed.checkpoint import BaseWeights, assemble, checked_config, configure, processor_on, refuse_unknown
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import IMAGE_PLACEHOLDER, PromptForm, PromptStyle
from medbench.unimed.tokens import with_names
from medbench.unimed.training.corpus import Corpus
from medbench.unimed.training.recipe import ModelPlan, Recipe

EVA_IMAGE_SIZE = 224


def image_size_of(model: ModelPlan) -> int:
    """Return the side of the images in pixels."""
    return int(model.vision.get("image_size", EVA_IMAGE_SIZE))


def base_of(model: ModelPlan) -> BaseWeights | None:
    """Return the resolved base weights of a model, None for one from scratch; UsageError if they are not there."""
    if model.language_model is None or model.vision_weights is None:
        return None
    return BaseWeights(language_model=model.language_model, vision=model.vision_weights).resolved()


def build(
    recipe: Recipe, corpus: Corpus, base: BaseWeights | None, *, frozen_dtype: torch.dtype
) -> tuple[UniMedForConditionalGeneration, UniMedProcessor]:
    """Return an untrained model, what learns in float32, and its processor; errors of `assemble`, `checked_config`."""
    torch.manual_seed(recipe.seed)
    settings = dict(recipe.model.unimed)
    if base is not None:
        config = configure(base, settings, vision=dict(recipe.model.vision))
        processor = processor_on(base, config)
        return assemble(config, base, dtype=frozen_dtype), processor
    style: PromptStyle = "official" if settings.get("prompt_style") == "official" else "clean"
    form = PromptForm(style=style, identifiers=bool(settings.get("text_identifiers", True)))
    tokenizer = train_tokenizer(corpus.texts(form), recipe.model.vocabulary)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text: dict[str, Any] = {**recipe.model.text, **special, "pad_token_id": tokenizer.pad_token_id}
    config = scratch_config(recipe.model, {**text, "vocab_size": len(tokenizer)})
    processor = UniMedProcessor.of_model(tokenizer, config)
    config.image_token_id = processor.image_token_id
    model = UniMedForConditionalGeneration(config)
    model.train_what_is_tuned(vision=recipe.tower_share > 0)
    return model, processor


def scratch_config(model: ModelPlan, text: dict[str, Any] | None = None) -> UniMedConfig:
    """Return the configuration of a model from scratch; UsageError if a field is unknown or it cannot work."""
    refuse_unknown("The language model", model.text, LlamaConfig)
    text = text or {**model.text, "vocab_size": model.vocabulary}
    return checked_config(vision_config=dict(model.vision), text_config=text, **model.unimed)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of at most `vocabulary` entries, trained on `texts`.

    A text gets one leading space, so that a word has the same id at the start and inside. Numbers are cut off
    from their neighbours, and those of box strings are made common enough to be one token each.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Prepend(" ")
    numbers = pre_tokenizers.Split(Regex(r"\d{1,3}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([numbers, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<unk>", "<s>", "</s>", "<pad>", IMAGE_PLACEHOLDER],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    boxes = [f"{{<{number}><{number}>}}" for number in range(101)] * 50
    tokenizer.train_from_iterator([*texts, *boxes], trainer)
    return with_names(tokenizer, pad="<pad>")
