"""LLaMA, whose last block computes its second half only where something is read from it."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


class LastBlock(LlamaDecoderLayer):
    """A LLaMA block with the same weights and names. Behind its attention no position looks at another."""

    def forward(self, hidden_states: torch.Tensor, *, read: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]  # the supertype names what it passes on
        """Return [B, L, D], or [P, D] of the P positions that are true in `read` [B, L]."""
        if read is None:
            whole: torch.Tensor = super().forward(hidden_states, **kwargs)
            return whole
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        reached = (hidden_states + attended)[read]
        behind: torch.Tensor = reached + self.mlp(self.post_attention_layernorm(reached))
        return behind


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
        """Return the last hidden states [P, D] of the P positions that are true in `read`.

        Args:
            embeddings: [B, L, D].
            attention_mask: [B, L], or what LLaMA takes.
            read: bool [B, L].
        """
        # Every block is given `read`; the last one takes it, attention passes by what it does not know.
        output = self.model(inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False, read=read)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden
