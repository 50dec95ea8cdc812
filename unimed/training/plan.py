"""The model that a recipe asks for, on base weights or from scratch, and what its training would take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from medbench.tasks.catalog import get_task
from medbench.tasks.prepared import load_prepared
from medbench.unimed import checkpoint as folders
from medbench.unimed.checkpoint import BUNDLED, JOINED, MINI, BaseWeights
from medbench.unimed.configuration import Scale, UniMedConfig
from medbench.unimed.convert import dead_shapes
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import IMAGE_PLACEHOLDER, PromptForm, PromptStyle
from medbench.unimed.tokens import with_names
from medbench.unimed.towers import tower_fields
from medbench.unimed.training.corpus import Corpus
from medbench.unimed.training.recipe import ModelPlan, Recipe

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
Parts = Mapping[str, tuple[int, int]]
GIB = 1 << 30
FLOAT32_BYTES, ADAM_BYTES = 4, 8
# Text tokens of a typical row (facts: VQA prompts have about 104 tokens with 64 visual ones; reports are longer).
PROMPT_TOKENS, ANSWER_TOKENS = 100, 60
_PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Hidden-size vectors that a LLaMA block keeps per token for the backward pass, its MLP's wide ones counted apart.
_KEPT_PER_LAYER = 16
_INFERENCE_ROWS, _ROW_TOKENS = 40, 204


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """A line, tables (columns and rows), a line."""

    heading: str
    tables: tuple[Table, ...]
    closing: str


def plan(recipe: Recipe, data_dir: Path | None) -> TrainingPlan:
    """Return the plan of a recipe; without a data folder with the sample counts of the paper.

    UsageError if the model cannot be built; DataError if a task is not prepared, or the language model is unusable.
    """
    config, note = _planned_config(recipe.model)
    parts = parameters_of(meta_model(config, vision=recipe.tower_share > 0))
    dead = {"the official code would also train, unused": (dead_parameters(config), 0)}
    counts = {**parts, "all": _both(parts), **(dead if dead_parameters(config) else {})}
    rows = [(name, f"{learns:,}", f"{rests:,}") for name, (learns, rests) in counts.items()]
    parameters = (("part", "trained", "frozen"), rows)
    tables = (parameters, _memory_table(parts, config, recipe), _step_table(recipe, data_dir))
    source = f"prepared in {data_dir}, what is held out included"
    source = source if data_dir else "counts of the paper; give --data-dir for yours"
    samples, warm = recipe.micro_batch * recipe.micro_batches, recipe.schedule.warmup_steps
    closing = (
        f"{recipe.steps:,} steps of {recipe.micro_batches} x {recipe.micro_batch} = {samples} samples per process; "
        f"learning rate {recipe.learning_rate(0):.3g} at step 0, {recipe.learning_rate(warm):.3g} after the "
        f"warm-up, {recipe.learning_rate(recipe.steps - 1):.3g} at the end; {recipe.precision}. Samples: {source}."
    )
    return TrainingPlan(heading=f"Recipe {recipe.name}. {note}", tables=tables, closing=closing)


def needs_of(recipe: Recipe) -> tuple[int, int, str]:
    """Return a training's trained parameters, bytes of memory by the plan's estimate, and whose sizes these are."""
    config, note = _planned_config(recipe.model)
    parts = parameters_of(meta_model(config, vision=recipe.tower_share > 0))
    return _both(parts)[0], sum(_training_memory(parts, config, recipe).values()), note


def meta_model(config: UniMedConfig, *, vision: bool = False) -> UniMedForConditionalGeneration:
    """Return a model without storage, marked for training."""
    with torch.device("meta"):
        model = UniMedForConditionalGeneration(config)
    model.train_what_is_tuned(vision=vision)
    return model


def parameters_of(model: UniMedForConditionalGeneration) -> dict[str, tuple[int, int]]:
    """Return trained and frozen parameters by part: tower, connector (by its parts), LoRA, language model."""
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        room, inner, *_ = name.split(".")
        part = "LoRA" if "lora_" in name else (inner if room == "connector" else room).replace("_", " ")
        trained, frozen = counts.get(part, (0, 0))
        size, learns = parameter.numel(), parameter.requires_grad
        counts[part] = (trained + size * learns, frozen + size * (not learns))
    return counts


def dead_parameters(config: UniMedConfig) -> int:
    """Return how many parameters the official code would train in vain besides ours."""
    return sum(torch.Size(shape).numel() for shape in dead_shapes(config).values())


def _planned_config(model: ModelPlan) -> tuple[UniMedConfig, str]:
    if model.text:
        return scratch_config(model), "The model is trained from scratch."
    place = Path(model.language_model or "").expanduser() if model.language_model != BUNDLED else MINI
    if model.language_model and place.is_dir():
        base = BaseWeights(language_model=str(place), vision=model.vision_weights or "")
        config = folders.configure(base, dict(model.unimed), vision=dict(model.vision))
        return config, f"The language model's sizes are those of {model.language_model}."
    named = f"{model.language_model} is no folder here" if model.language_model else "No language model was named"
    config = folders.checked_config(**tower_fields(model.vision_weights or "", model.vision), **model.unimed)
    return config, f"{named}, so the sizes are those of LLaMA-2-7B."


def _both(parts: Parts) -> tuple[int, int]:
    return sum(trained for trained, _ in parts.values()), sum(frozen for _, frozen in parts.values())


def _training_memory(parts: Parts, config: UniMedConfig, recipe: Recipe) -> dict[str, int]:
    """Return estimates of a training in bytes for one process, without the allocator's and the kernels' own."""
    (trained, frozen), text, width = _both(parts), config.text, _PRECISION_BYTES[recipe.precision]
    tokens = recipe.micro_batch * (config.visual_tokens + PROMPT_TOKENS + ANSWER_TOKENS)
    hidden, layers = int(text.hidden_size), int(text.num_hidden_layers)
    per_layer = _KEPT_PER_LAYER * hidden + 4 * int(text.intermediate_size)
    kept = layers * hidden + per_layer if recipe.gradient_checkpointing else layers * per_layer
    return {
        "training: frozen weights": frozen * width,
        "training: trained weights, float32": trained * FLOAT32_BYTES,
        "training: gradients, float32": trained * FLOAT32_BYTES,
        "training: AdamW's moments, float32": trained * ADAM_BYTES,
        "training: activations of one micro-batch": tokens * width * kept,
    }


def _memory_table(parts: Parts, config: UniMedConfig, recipe: Recipe) -> Table:
    (trained, frozen), text, width = _both(parts), config.text, _PRECISION_BYTES[recipe.precision]
    merged = parts["LoRA"][0] if config.language_tuning == "lora" else 0
    heads, layers = int(text.num_key_value_heads or text.num_attention_heads), int(text.num_hidden_layers)
    cached = 2 * heads * (int(text.hidden_size) // int(text.num_attention_heads)) * width
    training = _training_memory(parts, config, recipe)
    rows = {
        **training,
        "training: together": sum(training.values()),
        "answering: weights, LoRA merged": (trained + frozen - merged) * width,
        f"answering: keys and values of {_INFERENCE_ROWS} rows of {_ROW_TOKENS} tokens": (
            layers * cached * _INFERENCE_ROWS * _ROW_TOKENS
        ),
        "disk: one checkpoint with the optimizer's state": trained * (FLOAT32_BYTES + ADAM_BYTES),
    }
    return ("memory (estimate, per process)", "GiB"), [(name, f"{size / GIB:.3f}") for name, size in rows.items()]


def _step_table(recipe: Recipe, data_dir: Path | None) -> Table:

    def of_task(name: str) -> int:
        counts = get_task(name).counts if data_dir is None else load_prepared(data_dir, name).manifest.counts
        return counts.get("train", 0)

    rows = []
    for name, weight in recipe.mixture.items():
        share, size = weight / sum(recipe.mixture.values()), sum(map(of_task, name.split(JOINED)))
        seen = recipe.steps * recipe.micro_batches * recipe.micro_batch * weight / sum(recipe.mixture.values())
        rows.append((name, f"{share:.1%}", f"{size:,}", f"{seen / size:.2f}" if size else "-"))
    return ("mixture", "share of steps", "training samples", "epochs"), rows


def image_form(model: ModelPlan, base: BaseWeights | None) -> tuple[int, Scale]:
    """Return the side of the images in pixels, and what they are normalised with; errors of `configure`."""
    sizes = dict(model.vision)
    config = folders.configure(base, dict(model.unimed), vision=sizes) if base else scratch_config(model)
    return config.image_size, config.pixel_scale


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
        config = folders.configure(base, settings, vision=dict(recipe.model.vision))
        processor = folders.processor_on(base, config)
        return folders.assemble(config, base, dtype=frozen_dtype), processor
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
    folders.refuse_unknown("The language model", model.text, LlamaConfig)
    text = text or {**model.text, "vocab_size": model.vocabulary}
    return folders.checked_config(vision_config=dict(model.vision), text_config=text, **model.unimed)


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
