"""How many rows and tokens a decoder may hold at once."""

from dataclasses import dataclass
from typing import Any

import psutil
import torch

Untyped = Any
"""A model of transformers, or its configuration, of any class."""
# Slots on a CPU take memory when they are first used, and may take more than twice the tokens that are ever held
# together. Pages on a GPU are all made at once and take no more than they hold; what passes compute needs the rest.
_CPU_SHARE, _GPU_SHARE = 0.4, 0.8
_MOST_TOKENS = 1 << 20
_CPU_ROWS, _GPU_ROWS = 96, 256
_CPU_PREFILL, _GPU_PREFILL = 512, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is held and computed at once."""

    rows: int  # Most rows.
    tokens: int  # Most tokens: rows times the longest of prompt and answer, in whole chunks. One row always fits.
    prefill: int = _CPU_PREFILL  # Most tokens of prompts in one forward pass. One prompt always fits.

    def halved(self, rows: int) -> "Budget":
        """Return a budget for half of `rows` rows, after memory ran out on them."""
        fewer = max(1, min(self.rows, rows) // 2)
        return Budget(rows=fewer, tokens=max(1, self.tokens // 2), prefill=max(1, self.prefill // 2))


def auto_budget(decoder: Untyped, *, rows: int | None = None, sharers: int = 1) -> Budget:
    """Return a budget for the memory that is free now; `rows` is the user's own number, if one was given.

    So many `sharers` divide a CPU's memory; a GPU has one.
    """
    on_gpu = decoder.device.type == "cuda"
    free = torch.cuda.mem_get_info(decoder.device)[0] if on_gpu else psutil.virtual_memory().available // sharers
    share = _GPU_SHARE if on_gpu else _CPU_SHARE
    tokens = int(share * free / bytes_per_token(text_config(decoder), held_type(decoder)))
    return Budget(
        rows=rows or (_GPU_ROWS if on_gpu else _CPU_ROWS),
        tokens=min(max(tokens, 1), _MOST_TOKENS),
        prefill=_GPU_PREFILL if on_gpu else _CPU_PREFILL,
    )


def held_type(decoder: Untyped) -> torch.dtype:
    """Return the type of keys and values: float32 on a CPU, where half precision only costs time to convert."""
    dtype: torch.dtype = decoder.dtype
    return torch.float32 if decoder.device.type == "cpu" else dtype


def bytes_per_token(config: Untyped, dtype: torch.dtype) -> int:
    """Return the size of one token's keys and values in all layers."""
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return 2 * int(config.num_hidden_layers) * heads * width * dtype.itemsize


def longest_read(decoder: Untyped) -> int:
    """Return how many positions a decoder was made for; 0 where nothing is said."""
    return int(getattr(text_config(decoder), "max_position_embeddings", 0) or 0)


def text_config(decoder: Untyped) -> Untyped:
    """Return the configuration of the layers that write, which a model with vision holds inside its own."""
    return decoder.config.get_text_config(decoder=True)
