"""What a training would take: parameters, memory and steps, without a weight in memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.official import dead_shapes
from medbench.unimed.training.recipe import Recipe

GIB = 1 << 30
FLOAT32_BYTES, ADAM_BYTES = 4, 8
PROMPT_TOKENS, ANSWER_TOKENS = 100, 60
"""Text tokens of a typical row (facts: VQA prompts have about 104 tokens with 64 visual ones; reports are longer)."""
_PRECISION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_KEPT_PER_LAYER = 16
"""Hidden-size vectors that a LLaMA block keeps per token for the backward pass, its MLP's wide ones counted apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Parameters of one part of the model."""

    name: str
    trained: int
    frozen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Estimates in bytes, without the allocator's and the kernels' own.

    Attributes:
        frozen: Weights that do not learn, in the type of computing.
        trained: Weights that learn, in float32.
        gradients: Of what learns, in float32.
        optimizer: AdamW's two moments.
        activations: Of one micro-batch, for the backward pass.
        inference_weights: All weights, in the type of computing, with LoRA merged.
        cache_per_token: Keys and values of one token.
        checkpoint: A checkpoint on disk, with the optimizer's state.
    """

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    inference_weights: int
    cache_per_token: int
    checkpoint: int

    @property
    def training(self) -> int:
        """Everything that is in memory during a step."""
        return self.frozen + self.trained + self.gradients + self.optimizer + self.activations


def meta_model(config: UniMedConfig, *, vision: bool = False) -> UniMedForConditionalGeneration:
    """Return a model without storage, marked for training."""
    with torch.device("meta"):
        model = UniMedForConditionalGeneration(config)
    model.train_what_is_tuned(vision=vision)
    return model


def parts_of(model: UniMedForConditionalGeneration) -> list[Part]:
    """Return the parameters by part: tower, task tokens, router, experts or projector, LoRA, language model."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        entry = counts.setdefault(_part_name(name), [0, 0])
        entry[0 if parameter.requires_grad else 1] += parameter.numel()
    return [Part(name=name, trained=trained, frozen=frozen) for name, (trained, frozen) in counts.items()]


def _part_name(name: str) -> str:
    if "lora_" in name:
        return "LoRA"
    if name.startswith("connector."):
        return {"task_tokens": "task tokens", "projector": "projector"}.get(name.split(".")[1], name.split(".")[1])
    return "vision tower" if name.startswith("vision_tower.") else "language model"


def dead_parameters(config: UniMedConfig) -> int:
    """Return how many parameters the official code would train in vain besides ours."""
    return sum(torch.Size(shape).numel() for shape in dead_shapes(config).values())


def plan_memory(model: UniMedForConditionalGeneration, recipe: Recipe) -> MemoryPlan:
    """Return the estimates for one process of a recipe."""
    parts = parts_of(model)
    trained, frozen = sum(part.trained for part in parts), sum(part.frozen for part in parts)
    lora = sum(part.trained for part in parts if part.name == "LoRA")
    text, width = model.config.text, _PRECISION_BYTES[recipe.precision]
    heads = int(text.num_key_value_heads or text.num_attention_heads)
    head_size = int(text.hidden_size) // int(text.num_attention_heads)
    return MemoryPlan(
        frozen=frozen * width,
        trained=trained * FLOAT32_BYTES,
        gradients=trained * FLOAT32_BYTES,
        optimizer=trained * ADAM_BYTES,
        activations=_activations(model.config, recipe, width),
        inference_weights=(trained + frozen - (lora if model.config.language_tuning == "lora" else 0)) * width,
        cache_per_token=2 * int(text.num_hidden_layers) * heads * head_size * width,
        checkpoint=trained * (FLOAT32_BYTES + ADAM_BYTES),
    )


def _activations(config: UniMedConfig, recipe: Recipe, width: int) -> int:
    text = config.text
    tokens = recipe.micro_batch * (config.visual_tokens + PROMPT_TOKENS + ANSWER_TOKENS)
    per_layer = _KEPT_PER_LAYER * int(text.hidden_size) + 4 * int(text.intermediate_size)
    layers = int(text.num_hidden_layers)
    if recipe.gradient_checkpointing:
        return tokens * width * (layers * int(text.hidden_size) + per_layer)
    return tokens * width * layers * per_layer


def epochs(recipe: Recipe, sizes: Mapping[str, int], workers: int = 1) -> dict[str, float]:
    """Return how often each entry of the mixture is seen over the training."""
    rows = recipe.steps * recipe.micro_batches * recipe.micro_batch * workers
    total = sum(recipe.mixture.values())
    return {name: rows * weight / total / sizes[name] for name, weight in recipe.mixture.items() if sizes.get(name)}
