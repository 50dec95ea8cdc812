"""LLaMA with gated cross-attention before every fourth layer, and which image a token may see.

Every token sees one image at most, so attention over images falls into as many small parts as there are pairs of a row
and an image that are seen: no token is ever compared with an image that it may not see.

Source: Alayrac et al., Flamingo (2022), section 3.1.2 and 3.1.3, in the widths of OpenFlamingo-9B. The names are those
of transformers for LLaMA, and `gated.*` inside a layer for what comes before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from medbench.adapters.base import RowStates
from medbench.adapters.perceiver import HEAD_WIDTH, feed_forward, join_heads, split_heads

EVERY = 4  # Layers of LLaMA to one block; the block comes before the last of them.
ADDED_TOKENS = 3  # `<|endofchunk|>`, `<image>` and `<PAD>`: read, never written: they have no published output rows.
_WIDER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What a row reads besides its tokens: its images, and which of them each token may see."""

    images: tuple[torch.Tensor, ...]  # Keys and values for all blocks: [blocks, 2, heads, latents, width] each.
    # Number of each prompt token's image, from 1, and of those behind: int [L + 1]; 0 for none.
    seen: NDArray[np.int64]


def seen_images(ids: Sequence[int], image_id: int, rule: str) -> NDArray[np.int64]:
    """Return the number of the image, from 1, that each token may see, and that of what follows: int [L + 1]; 0: none.

    By the rule `previous` a token sees the last image before it, `<image>` its own, as the paper has it. By `next`
    `<image>` sees its own, every other token the image after it, and what follows the last image sees none, as
    OpenFlamingo 0.0.2 does where nobody asks for its placement augmentation.
    """
    own = np.array([token == image_id for token in ids], dtype=bool)
    counts = own.cumsum()
    total = int(own.sum())
    if rule == "next":
        counts, total = np.where(own, counts, (counts + 1) * (counts < total)), 0
    return np.append(counts, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGroups:
    """The tokens of one pass, grouped by the image that they see."""

    tokens: torch.Tensor  # Those that see an image, group by group [S].
    cells: torch.Tensor  # Cell of each in a table of `len(images)` rows and `longest` columns [S].
    longest: int  # Tokens of the largest group.
    images: tuple[torch.Tensor, ...]  # The image of each group: [blocks, 2, heads, latents, width].


def group_by_image(states: RowStates, positions: torch.Tensor) -> TokenGroups | None:
    """Return the groups of a pass's tokens at these positions [B, L] in rows with a `Media` each; None if none sees.

    They are sorted on the host, which knows the rows and positions of a packed pass: no device is waited for.
    """
    if states.rows is None or states.positions is None:
        places = positions.expand(len(states.states), -1).cpu().numpy()
        rows = np.repeat(np.arange(len(places)), places.shape[1])
        places = places.ravel()
    else:
        rows, places = states.rows, states.positions
    lengths = np.array([len(media.seen) for media in states.states])
    first = lengths.cumsum() - lengths
    numbers = np.concatenate([media.seen for media in states.states])[
        first[rows] + np.minimum(places, lengths[rows] - 1)
    ]
    [tokens] = numbers.nonzero()
    if not len(tokens):
        return None
    most = int(numbers.max()) + 1
    pairs, group_of, sizes = np.unique((rows * most + numbers)[tokens], return_inverse=True, return_counts=True)
    order = group_of.argsort(kind="stable")
    starts = sizes.cumsum() - sizes
    longest = int(sizes.max())
    groups = group_of[order]
    cells = groups * longest + np.arange(len(order)) - starts[groups]
    images = tuple(states.states[pair // most].images[pair % most - 1] for pair in pairs.tolist())
    where = torch.tensor(np.stack([tokens[order], cells])).to(positions.device, non_blocking=True)
    return TokenGroups(tokens=where[0], cells=where[1], longest=longest, images=images)


class MaskedCrossAttention(nn.Module):
    """Attention of each token to the one image that it sees."""

    def __init__(self, hidden: int, media_width: int, heads: int) -> None:
        super().__init__()
        inner = heads * HEAD_WIDTH
        self._heads = heads
        self.norm = nn.LayerNorm(hidden)
        self.to_q = nn.Linear(hidden, inner, bias=False)
        self.to_kv = nn.Linear(media_width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, hidden, bias=False)

    def media(self, latents: torch.Tensor) -> torch.Tensor:
        """Return keys and values [N, 2, heads, L, width] of the latents [N, L, C] of N images, which get no norm."""
        keys, values = self.to_kv(latents).chunk(2, dim=-1)
        return torch.stack([split_heads(keys, self._heads), split_heads(values, self._heads)], dim=1)

    def forward(self, tokens: torch.Tensor, groups: TokenGroups | None, block: int) -> torch.Tensor:
        """Return what tokens [N, hidden] see through a block, before its gate; zero for those that see nothing."""
        seen = torch.zeros_like(tokens)
        if groups is None:
            return seen
        queries = self.to_q(self.norm(tokens[groups.tokens]))
        table = queries.new_zeros(len(groups.images) * groups.longest, queries.shape[-1])
        table[groups.cells] = queries
        keys, values = torch.stack([image[block] for image in groups.images]).unbind(1)
        attended = nn.functional.scaled_dot_product_attention(
            split_heads(table.unflatten(0, (len(groups.images), groups.longest)), self._heads), keys, values
        )
        seen[groups.tokens] = self.to_out(join_heads(attended).flatten(0, 1)[groups.cells])
        return seen


class GatedBlock(nn.Module):
    """Cross-attention and a feed-forward, each let in by a gate. The second acts on every token, images or not."""

    def __init__(self, hidden: int, media_width: int, heads: int, block: int) -> None:
        super().__init__()
        self._block = block
        self.attn = MaskedCrossAttention(hidden, media_width, heads)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(hidden, _WIDER)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_states: torch.Tensor, groups: TokenGroups | None) -> torch.Tensor:
        """Return hidden states [B, L, hidden] after a look at the images."""
        tokens = hidden_states.flatten(0, -2)
        tokens = tokens + self.attn_gate.tanh() * self.attn(tokens, groups, self._block)
        tokens = tokens + self.ff_gate.tanh() * self.ff(tokens)
        return cast("torch.Tensor", tokens.view_as(hidden_states))


class GatedLayer(LlamaDecoderLayer):
    """A layer of LLaMA behind a gated block."""

    def __init__(self, config: LlamaConfig, index: int, media_width: int, heads: int) -> None:
        super().__init__(config, index)
        self.gated = GatedBlock(int(config.hidden_size), media_width, heads, index // EVERY)

    def forward(  # type: ignore[override]  # the supertype names what it passes on
        self, hidden_states: torch.Tensor, *, groups: TokenGroups | None = None, **others: Any
    ) -> torch.Tensor:  # fmt: skip
        """Return hidden states [B, L, hidden]."""
        return super().forward(self.gated(hidden_states, groups), **others)


class MedFlamingoLlama(LlamaForCausalLM):
    """`LlamaForCausalLM` that looks at the images of its rows, whose latents are `media_width` wide.

    It reads `ADDED_TOKENS` more ids than it writes: the embeddings have rows for them, the head has none.
    """

    def __init__(self, config: LlamaConfig, media_width: int = 1024, heads: int = 8) -> None:
        super().__init__(config)
        self.model.embed_tokens = nn.Embedding(int(config.vocab_size) + ADDED_TOKENS, int(config.hidden_size))
        for index in range(EVERY - 1, len(self.model.layers), EVERY):
            self.model.layers[index] = GatedLayer(config, index, media_width, heads)

    def media(self, latents: torch.Tensor) -> torch.Tensor:
        """Return keys and values [N, blocks, 2, heads, L, width] of the latents [N, L, C] of N images."""
        own = latents.to(self.dtype)
        layers = [layer for layer in self.model.layers if isinstance(layer, GatedLayer)]
        return torch.stack([layer.gated.attn.media(own) for layer in layers], dim=1)

    def forward(
        self, input_ids: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None, past_key_values: Cache | None = None,
        row_states: RowStates | None = None, logits_to_keep: int | torch.Tensor = 0, **others: Any
    ) -> Any:  # noqa: ANN401 - as its base  # fmt: skip
        """Return what LLaMA returns for ids or embeddings of tokens that see the images in a `Media` of each row.

        A token's place in its row is its position, so a row's positions must begin at 0; by default they follow what
        the cache holds. `generate` gives positions and keeps one logit only to those who name these arguments.
        """
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if position_ids is None and tokens is not None:
            first = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(first, first + tokens.shape[1], device=tokens.device)[None]
        groups = None if row_states is None or position_ids is None else group_by_image(row_states, position_ids)
        return super().forward(
            input_ids=input_ids, position_ids=position_ids, inputs_embeds=inputs_embeds,
            past_key_values=past_key_values, logits_to_keep=logits_to_keep, groups=groups, **others,
        )  # fmt: skip
