"""Modules made without memory and filled from a checkpoint, every weight or none."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.memory import HINT, ran_out_of_memory
from medbench.unimed.strict_weights import refuse_misfits, refuse_other_shapes, some_of

LlamaT = TypeVar("LlamaT", bound=LlamaForCausalLM)
_WRAPPED = "module."
# What libraries raise of a configuration whose values are read, but are impossible or unknown to them.
IMPOSSIBLE = (KeyError, ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError)


def unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state without the leading `module.` that training on several devices leaves in names."""
    return {name.removeprefix(_WRAPPED): tensor for name, tensor in state.items()}


def part_of(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return what begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def layers_in(names: Iterable[str], prefix: str) -> int:
    """Return how many layers there are whose names go on with a number behind `prefix`, whatever the numbers are.

    A layer that is missing between others is so found when the module is filled, and a number of nine digits makes no
    module of as many layers.
    """
    behind = (name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix))
    return len({number for number in behind if number.isdecimal()})


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
        DataError: If a weight is missing, unexpected, of another shape or no floating-point number.
        RunError: If the device has no room for them.
    """
    expected = module.state_dict()
    refuse_misfits(source, given=state, expected=expected)
    refuse_other_shapes(source, state, expected)
    refuse_other_numbers(source, state)
    try:
        moved = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        needed = sum(tensor.numel() for tensor in state.values()) * dtype.itemsize / 1e9
        raise RunError(
            f"{source} does not fit: {needed:.3g} GB of weights are too much for the memory of {device} that is free.",
            HINT,
        ) from error
    module.load_state_dict(moved, strict=True, assign=True)
    module.train(mode=False).requires_grad_(requires_grad=False)


def refuse_other_numbers(source: str, state: Mapping[str, torch.Tensor]) -> None:
    """Look that weights are floating-point numbers.

    Raises:
        DataError: If some are not, as in quantised checkpoints.
    """
    other = [f"{name} of {tensor.dtype}" for name, tensor in state.items() if not tensor.is_floating_point()]
    if other:
        raise DataError(
            f"{source} holds weights that are no floating-point numbers: {some_of(other)}.",
            "Give the published weights, not quantised ones.",
        )


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
        DataError: If a weight is missing, unexpected or of another shape, or there can be no model of this `config`.
        RunError: If the device has no room for it.
    """
    try:
        with torch.device("meta"):
            model = kind(config)
        # The frequencies are no weights: no checkpoint sets them, and on the meta device they have no values.
        frequencies = LlamaRotaryEmbedding(config)
    except IMPOSSIBLE as error:
        raise DataError(
            f"The configuration of the language model of {source} cannot be used: {type(error).__name__} {error}.",
            "Copy the configuration that belongs to the weights.",
        ) from error
    fill(model, state, source, device=device, dtype=dtype)
    model.model.rotary_emb = frequencies.to(device)
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
