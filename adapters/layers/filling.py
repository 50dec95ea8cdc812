"""Modules made without memory and filled from a checkpoint, every weight or none."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tasks.foundation.errors import DataError
from unimed.strict_weights import refuse_misfits, refuse_other_shapes, some_of

LlamaT = TypeVar("LlamaT", bound=LlamaForCausalLM)
_WRAPPED = "module."


def unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state without the leading `module.` that training on several devices leaves in names."""
    return {name.removeprefix(_WRAPPED): tensor for name, tensor in state.items()}


def part_of(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return what begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def refuse_different(source: str, copies: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    """Compare weights that a checkpoint holds twice.

    Raises:
        DataError: If the two of a name differ.
    """
    different = [name for name, first, second in copies if not torch.equal(first, second)]
    if different:
        raise DataError(
            f"{source} holds {some_of(different)} twice, and differently.",
            "The published checkpoint holds equal copies; download it again.",
        )


def fill(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str, *, device: torch.device, dtype: torch.dtype
) -> None:
    """Give a module of the meta device its weights, one after another, so that no second copy is held.

    Raises:
        DataError: If a weight is missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    refuse_misfits(source, given=state, expected=expected)
    refuse_other_shapes(source, state, expected)
    moved = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
    module.load_state_dict(moved, strict=True, assign=True)
    module.train(mode=False).requires_grad_(requires_grad=False)


def filled_llama(
    kind: Callable[[LlamaConfig], LlamaT], config: LlamaConfig, state: Mapping[str, torch.Tensor], source: str, *,
    device: torch.device, dtype: torch.dtype,
) -> LlamaT:  # fmt: skip
    """Return a LLaMA with the weights of `state`.

    Args:
        kind: Makes the model.
        config: Of LLaMA.
        state: All of its weights.
        source: What they are from, for messages.
        device: Where it goes.
        dtype: Of its weights.

    Raises:
        DataError: If a weight is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        model = kind(config)
    fill(model, state, source, device=device, dtype=dtype)
    # The frequencies are no weights: no checkpoint sets them, and on the meta device they have no values.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    refuse_meta(model, source)
    return model


def refuse_meta(module: nn.Module, source: str) -> None:
    """Look that every weight and buffer has values.

    Raises:
        DataError: If one has none.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise DataError(f"{source} set no values of {some_of(empty)}.", "This is a fault of medbench: report it.")
