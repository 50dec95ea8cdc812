"""Attention of a packed pass, as transformers' decoders call it instead of a kernel and a cache of theirs."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface

from medbench.harness.engine.packing import NEVER, AttentionSettings, PassAttention

NAME = "medbench_packed"
Read = tuple[torch.Tensor, torch.Tensor]
"""What was read, and the logarithm of the sum of its weights."""
KeysAndValues = tuple[torch.Tensor, torch.Tensor]


def read_packed(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None = None, *, scaling: float | None = None, softcap: float | None = None,
    sliding_window: int | None = None, packed: PassAttention | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Write keys and values [1, K, N, D] of a pass; return the attention [1, N, H, D] of queries [1, H, N, D]."""
    del attention_mask
    if packed is None:
        raise RuntimeError("This decoder does not hand on what attention needs to know; it needs static batches.")
    settings = AttentionSettings(scaling or query.shape[-1] ** -0.5, softcap, sliding_window)
    index: int = getattr(module, "layer_idx")  # noqa: B009 - every attention of transformers has it, but no type says so
    return packed.attend(index, settings, query[0], key[0], value[0])[None].to(query.dtype), None


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: AttentionSettings,
    mask: torch.Tensor | None, *, causal: bool = False,
) -> Read:  # fmt: skip
    """Return attention [B, H, L, D] and the logarithm of the sums of weights [B, H, L], on a CPU."""
    if settings.softcap is not None:
        return attend_plainly(query, key, value, settings, mask, causal=causal)
    found: Read = _CPU_KERNEL(query, key, value, 0.0, causal, attn_mask=mask, scale=settings.scale)
    return found


def attend_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: AttentionSettings,
    mask: torch.Tensor | None, *, causal: bool = False,
) -> Read:  # fmt: skip
    """Return the same by its definition, on any device."""
    scores = (query.float() * settings.scale) @ key.float().transpose(-1, -2)
    if settings.softcap is not None:
        scores = settings.softcap * torch.tanh(scores / settings.softcap)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, NEVER)
    if mask is not None:
        scores = scores + mask
    sums = scores.logsumexp(dim=-1)
    weights = (scores - sums[..., None]).exp().to(value.dtype)
    return weights @ value, sums


# The kernel that scaled_dot_product_attention uses on a CPU; only under this name does it also return the sums.
_CPU_KERNEL: Callable[..., Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - no public name returns them
AttentionInterface.register(NAME, read_packed)
