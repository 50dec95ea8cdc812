"""Uni-Med as a transformers model: ViT, resampler, Connector-MoE, LLaMA.

The last block of LLaMA computes its second half only where something is read from it.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.utils.generic import ModelOutput

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import Connector, Router
from medbench.unimed.lora import add_low_rank, merge_low_rank
from medbench.unimed.vision import VisionTower, resample

IGNORED_LABEL = -100


class LastBlock(LlamaDecoderLayer):
    """A LLaMA block with the same weights and names. Behind its attention no position looks at another."""

    def forward(self, hidden_states: torch.Tensor, *, read: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]  # the supertype names what it passes on
        """Return [B, L, D], or [P, D] of the P positions that are true in `read` [B, L]."""
        if read is None:
            return super().forward(hidden_states, **kwargs)
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        reached = (hidden_states + attended)[read]
        return cast("torch.Tensor", reached + self.mlp(self.post_attention_layernorm(reached)))


class LanguageModel(LlamaForCausalLM):
    """`LlamaForCausalLM` with the same weights and names, and `hidden_where`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        blocks = self.model.layers
        with torch.device("meta"):
            last = LastBlock(config, len(blocks) - 1)
        for name, part in blocks[-1].named_children():
            setattr(last, name, part)
        blocks[-1] = last

    def hidden_where(
        self, embeddings: torch.Tensor, attention_mask: torch.Tensor | None, read: torch.Tensor
    ) -> torch.Tensor:
        """Return the last hidden states [P, D] of embeddings [B, L, D] where `read` [B, L] is true, at P positions."""
        # Every block is given `read`; the last one takes it, attention passes by what it does not know.
        output = self.model(inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False, read=read)
        return cast("torch.Tensor", output.last_hidden_state)


@dataclass
class UniMedOutput(ModelOutput):
    """The loss where labels were given, since the head then runs only where something is learned; logits elsewhere."""

    loss: torch.Tensor | None = None  # Mean cross-entropy over the labelled tokens of the batch.
    logits: torch.Tensor | None = None  # [B, L, V], or fewer positions when `logits_to_keep` was given.
    past_key_values: Cache | None = None


class UniMedForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Uni-Med (arXiv 2409.17508, section 3): `encode_images` depends on the image, `project` on image and task."""

    config_class = UniMedConfig
    config: UniMedConfig
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 - transformers' protocol
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "LastBlock", "Blip2EncoderLayer"]  # noqa: RUF012 - what FSDP shards as one
    _tied_weights_keys = {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: UniMedConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config.vision)
        self.connector = Connector(config)
        self.language_model = LanguageModel(config.text)
        self.post_init()
        # Behind it, or transformers would draw the pairs as it draws LLaMA's layers.
        if config.has_lora:
            add_low_rank(self.language_model, config)

    def _init_weights(self, module: nn.Module) -> None:
        """Give the connector PyTorch's default initialisation, as the official code does."""
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, Router):
            module.reset_first_layer()
        elif isinstance(module, Connector):
            module.reset_task_tokens()

    def train_what_is_tuned(self, *, vision: bool = False) -> None:
        """Let gradients reach the connector, what `language_tuning` names, and the tower if `vision`; nothing else."""
        self.vision_tower.requires_grad_(requires_grad=vision)
        self.language_model.requires_grad_(requires_grad=self.config.language_tuning == "full")
        for name, parameter in self.language_model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad = True

    def merge_lora(self) -> None:
        """Fold LoRA into the language model in place; LoRA-MoE stays, since it depends on the token."""
        if self.config.language_tuning == "lora":
            merge_low_rank(self.language_model)
            self.config.language_tuning = "none"

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that learn, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's embedding table."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's head."""
        return cast("nn.Module", self.language_model.lm_head)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return resampled features [B, M, C_v] of normalised pixels [B, 3, H, W]; independent of the task."""
        features = self.vision_tower(pixel_values)
        return resample(features, method=self.config.resample_method, rate=self.config.resample_rate)

    def project(self, features: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
        """Return visual tokens [B, M, D] for resampled features [B, M, C_v] under their tasks [B]."""
        return cast("torch.Tensor", self.connector(features, task_ids))

    def forward(
        self, input_ids: torch.Tensor | None = None, pixel_values: torch.Tensor | None = None,
        task_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None, labels: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None, **kwargs: Any
    ) -> UniMedOutput:  # fmt: skip
        """Run the model; ValueError if placeholders and images do not match.

        Args:
            input_ids: [B, L]; every visual token is one `config.image_token_id`.
            pixel_values: [I, 3, H, W], the images in the order of their placeholders.
            image_features: [I, M, C_v] of `encode_images` instead of `pixel_values`.
            task_ids: [I], index of each image's task in `CONNECTOR_TASKS`.
            attention_mask: [B, L], or what the language model takes.
            inputs_embeds: [B, L, D] instead of `input_ids`.
            labels: [B, L] with -100 where nothing is to be learned; shifted inside.
            **kwargs: Passed to the language model (`position_ids`, `past_key_values`, `logits_to_keep`, ...).
        """
        if inputs_embeds is None:
            if pixel_values is not None:
                image_features = self.encode_images(pixel_values)
            inputs_embeds = self.embed(input_ids, image_features, task_ids)
        if labels is not None:
            return UniMedOutput(loss=self._answer_loss(inputs_embeds, attention_mask, labels))
        output = self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        return UniMedOutput(logits=output.logits, past_key_values=output.past_key_values)

    def _answer_loss(
        self, embeddings: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean cross-entropy over all labelled tokens of the batch; long answers weigh more, as official."""
        learned = labels[:, 1:] != IGNORED_LABEL
        read = nn.functional.pad(learned, (0, 1), value=False)
        hidden = self.language_model.hidden_where(embeddings, attention_mask, read)
        logits = self.language_model.lm_head(hidden)
        return nn.functional.cross_entropy(logits.float(), labels[:, 1:][learned])

    def embed(
        self, input_ids: torch.Tensor | None, image_features: torch.Tensor | None, task_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Return embeddings [B, L, D], visual tokens in place of placeholders; ValueError if these do not match."""
        if input_ids is None:
            raise ValueError("Give input_ids or inputs_embeds.")
        if image_features is None:
            return cast("torch.Tensor", self.get_input_embeddings()(input_ids))
        if task_ids is None:
            raise ValueError("pixel_values need task_ids: the connector depends on the task.")
        # The placeholder may lie behind the vocabulary, so it is never looked up.
        slots = input_ids.eq(-1 if self.config.image_token_id is None else self.config.image_token_id)
        embeddings: torch.Tensor = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))
        visual = self.project(image_features, task_ids).to(embeddings.dtype)
        there, (images, each) = int(slots.sum()), visual.shape[:2]
        if there != images * each:
            given = f"{images} images give {images * each} visual tokens"
            raise ValueError(f"The prompts have {there} image placeholders, but {given}.")
        return embeddings.masked_scatter(slots.unsqueeze(-1), visual)

    def prepare_inputs_for_generation(  # type: ignore[override]  # the supertype names what it passes on
        self, input_ids: torch.LongTensor, pixel_values: torch.Tensor | None = None,
        task_ids: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Give the images to the first step only; later steps find them in the cache."""
        inputs: dict[str, Any] = GenerationMixin.prepare_inputs_for_generation(cast("Any", self), input_ids, **kwargs)
        if kwargs.get("is_first_iteration"):
            inputs.update(pixel_values=pixel_values, task_ids=task_ids)
        return inputs
