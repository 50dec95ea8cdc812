"""LLaMA with gated cross-attention before every fourth layer.

Source: Alayrac et al., Flamingo (2022), section 3.1.2, in the widths of OpenFlamingo-9B. The names are those of
transformers for LLaMA, and `gated.*` inside a layer for what comes before it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from medbench.adapters.base import RowStates
from medbench.adapters.med_flamingo.looking import Looks, looks_of
from medbench.adapters.perceiver import HEAD_WIDTH, feed_forward, join_heads, split_heads

EVERY = 4
"""Layers of LLaMA to one block; the block comes before the last of them."""
ADDED_TOKENS = 3
"""`<|endofchunk|>`, `<image>` and `<PAD>`: they are read, never written, since the published weights have no output
rows for them."""
_WIDER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSizes:
    """Sizes of what is looked at.

    Attributes:
        width: Width of a latent.
        heads: Heads of cross-attention.
    """

    width: int
    heads: int = 8


class MaskedCrossAttention(nn.Module):
    """Attention of each token to the one image that it sees."""

    def __init__(self, hidden: int, media: MediaSizes) -> None:
        super().__init__()
        inner = media.heads * HEAD_WIDTH
        self._heads = media.heads
        self.norm = nn.LayerNorm(hidden)
        self.to_q = nn.Linear(hidden, inner, bias=False)
        self.to_kv = nn.Linear(media.width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, hidden, bias=False)

    def media(self, latents: torch.Tensor) -> torch.Tensor:
        """Return keys and values [N, 2, heads, L, width] of the latents [N, L, C] of N images, which get no norm."""
        keys, values = self.to_kv(latents).chunk(2, dim=-1)
        return torch.stack([split_heads(keys, self._heads), split_heads(values, self._heads)], dim=1)

    def forward(self, tokens: torch.Tensor, looks: Looks | None, block: int) -> torch.Tensor:
        """Return what tokens [N, hidden] see through a block, before its gate; zero for those that see nothing."""
        seen = torch.zeros_like(tokens)
        if looks is None:
            return seen
        queries = self.to_q(self.norm(tokens[looks.tokens]))
        table = queries.new_zeros(len(looks.images) * looks.longest, queries.shape[-1])
        table[looks.places] = queries
        keys, values = looks.keys_and_values(block)
        attended = nn.functional.scaled_dot_product_attention(
            split_heads(table.unflatten(0, (len(looks.images), looks.longest)), self._heads), keys, values
        )
        seen[looks.tokens] = self.to_out(join_heads(attended).flatten(0, 1)[looks.places])
        return seen


class GatedBlock(nn.Module):
    """Cross-attention and a feed-forward, each let in by a gate. The second acts on every token, images or not."""

    def __init__(self, hidden: int, media: MediaSizes, block: int) -> None:
        super().__init__()
        self._block = block
        self.attn = MaskedCrossAttention(hidden, media)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(hidden, _WIDER)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_states: torch.Tensor, looks: Looks | None) -> torch.Tensor:
        """Return hidden states [B, L, hidden] after a look at the images."""
        tokens = hidden_states.flatten(0, -2)
        tokens = tokens + self.attn_gate.tanh() * self.attn(tokens, looks, self._block)
        tokens = tokens + self.ff_gate.tanh() * self.ff(tokens)
        whole: torch.Tensor = tokens.view_as(hidden_states)
        return whole


class GatedLayer(LlamaDecoderLayer):
    """A layer of LLaMA behind a gated block."""

    def __init__(self, config: LlamaConfig, place: int, media: MediaSizes) -> None:
        super().__init__(config, place)
        self.gated = GatedBlock(int(config.hidden_size), media, place // EVERY)

    def forward(  # type: ignore[override]  # the supertype names what it passes on
        self, hidden_states: torch.Tensor, *, looks: Looks | None = None, **others: Any
    ) -> torch.Tensor:
        """Return hidden states [B, L, hidden]."""
        passed: torch.Tensor = super().forward(self.gated(hidden_states, looks), **others)
        return passed


class MedFlamingoLlama(LlamaForCausalLM):
    """`LlamaForCausalLM` that looks at the images of its rows.

    It reads `ADDED_TOKENS` more ids than it writes: the embeddings have rows for them, the head has none.
    """

    def __init__(self, config: LlamaConfig, media: MediaSizes | None = None) -> None:
        super().__init__(config)
        sizes = media or MediaSizes(width=1024)
        width = int(config.hidden_size)
        self.model.embed_tokens = nn.Embedding(int(config.vocab_size) + ADDED_TOKENS, width)
        for place in range(EVERY - 1, len(self.model.layers), EVERY):
            self.model.layers[place] = GatedLayer(config, place, sizes)

    def blocks(self) -> list[GatedBlock]:
        """Return the gated blocks in order."""
        return [layer.gated for layer in self.model.layers if isinstance(layer, GatedLayer)]

    def media(self, latents: torch.Tensor) -> torch.Tensor:
        """Return keys and values [N, blocks, 2, heads, L, width] of the latents [N, L, C] of N images."""
        own = latents.to(self.dtype)
        return torch.stack([block.attn.media(own) for block in self.blocks()], dim=1)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        row_states: RowStates | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **others: Any,
    ) -> Any:  # noqa: ANN401 - as its base
        """Return what LLaMA returns.

        A token's place in its row is its position, so a row's positions must begin at 0. `generate` gives positions and
        keeps one logit only to those who name these arguments.

        Args:
            input_ids: Token ids [B, L], or None.
            position_ids: Position of every token [B, L]; by default they follow what the cache holds.
            inputs_embeds: Embeddings [B, L, hidden], or None.
            past_key_values: What was read before.
            row_states: A `Media` of each row.
            logits_to_keep: As in LLaMA.
            others: As in LLaMA.
        """
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if position_ids is None and tokens is not None:
            first = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
        looks = None if row_states is None or position_ids is None else looks_of(row_states, position_ids)
        return super().forward(
            input_ids=input_ids, position_ids=position_ids, inputs_embeds=inputs_embeds,
            past_key_values=past_key_values, logits_to_keep=logits_to_keep, looks=looks, **others,
        )  # fmt: skip
