"""Forward passes of an unmodified decoder of transformers: packed, and what may be compiled."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from medbench.adapters.base import RowStates
from medbench.harness.engine.attention import NAME
from medbench.harness.engine.budget import Budget, held_type, text_config
from medbench.harness.engine.packing import KVStore, NewTokens, packed_plan
from medbench.harness.engine.pages import KVPages, kernel_for
from medbench.harness.engine.requests import SharedPrefix
from medbench.harness.engine.slots import KVSlots
from medbench.tasks.foundation.errors import UsageError

COMPILED = ("input_layernorm", "post_attention_layernorm", "mlp")
_KERNEL = "_attn_implementation"
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_BACK_TO_THE_STREAM = ("self_attn.o_proj", "mlp")


def why_not_packed(decoder: Any) -> str:  # noqa: ANN401 - any model of transformers
    """Return why a decoder cannot answer row by row; empty if it can."""
    config, name = text_config(decoder), type(decoder).__name__
    if not getattr(decoder, "_supports_attention_backend", False):
        return f"{name} takes no attention but its own"
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if unknown:
        return f"{name} has layers of {' and '.join(sorted(unknown))}"
    if getattr(config, "v_head_dim", None) or getattr(config, "num_kv_shared_layers", 0):
        return f"{name} keeps its keys and values in a way of its own"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in {"longrope", "dynamic"}:
        return f"{name} turns positions by the longest row of a pass"
    if any(hasattr(module, "sinks") for module in decoder.modules()):
        return f"{name} has attention sinks"
    return ""


def store_for(decoder: PreTrainedModel, budget: Budget) -> KVStore:
    """Return where a decoder's keys and values are held: in slots on a CPU, anywhere else in pages."""
    device, dtype = decoder.device, held_type(decoder)
    if device.type == "cpu":
        return KVSlots(budget, dtype)
    kernel, why = kernel_for(device, dtype)
    return KVPages(budget, device, dtype, kernel=kernel, why=why)


class Passes:
    """Runs a causal language model of transformers over what a store holds."""

    def __init__(self, decoder: PreTrainedModel, store: KVStore) -> None:
        self._decoder: Any = decoder
        self._store = store
        # What follows the attention in the last layer: nothing reads it but the head.
        layers = getattr(decoder.get_decoder(), "layers", None)
        named = dict(layers[-1].named_modules()) if layers else {}
        self._last_layer = [named[name] for name in _BACK_TO_THE_STREAM if name in named]

    def run(
        self, tokens: Sequence[int], steps: Sequence[NewTokens], prompts: Sequence[tuple[NewTokens, torch.Tensor]],
        prefixes: Sequence[tuple[SharedPrefix, torch.Tensor]], states: Sequence[object] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Append tokens to rows and write prompts and prefixes into slots, all in one pass.

        `tokens` are the last ones of rows, which the decoder has not read yet; `steps` is where each goes. `prompts`
        are whole or follow their prefixes, `prefixes` are what nobody computed yet; both have embeddings [L, D].
        `states` are what rows and prompts read by cross-attention. Returns the logits [R + P, V] behind every row and
        every prompt.
        """
        parts = (steps, [part for part, _ in prompts], [prefix for prefix, _ in prefixes])
        plan, attention = packed_plan(tokens, *parts, self._decoder.device), self._store.plan(*parts)
        embeddings = [own for _, own in [*prompts, *prefixes]]
        if tokens:
            embeddings.insert(0, self._decoder.get_input_embeddings()(plan.tokens))
        more: dict[str, RowStates] = {}
        if states is not None:
            more["row_states"] = RowStates(states=tuple(states), rows=plan.row_of, positions=plan.places)
        config = text_config(self._decoder)
        with ExitStack() as stack:
            # For the time of a pass alone: `generate` on the same decoder keeps its own kernel.
            stack.callback(setattr, config, _KERNEL, getattr(config, _KERNEL))
            setattr(config, _KERNEL, NAME)
            if len(plan.read) < plan.count:
                _only(stack, self._decoder.get_output_embeddings(), plan.read)
                for module in self._last_layer:
                    _only(stack, module, plan.read, spread=True)
            output = self._decoder(
                inputs_embeds=torch.cat(embeddings)[None].to(self._decoder.dtype), position_ids=plan.positions,
                use_cache=False, packed=attention, **more,
            )  # fmt: skip
        logits: torch.Tensor = output.logits[0]
        return logits


def _only(stack: ExitStack, module: torch.nn.Module, tokens: torch.Tensor, *, spread: bool = False) -> None:
    """Let a module that treats every token alike compute these alone; `spread` puts zeros in place of the others."""

    def choose(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        counts.append(inputs[0].shape[1])
        return (inputs[0][:, tokens], *inputs[1:])

    def put_back(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        whole = output.new_zeros(1, counts.pop(), output.shape[-1])
        whole[:, tokens] = output
        return whole

    counts: list[int] = []
    stack.enter_context(module.register_forward_pre_hook(choose))
    if spread:
        stack.enter_context(module.register_forward_hook(put_back))


def compile_layers(decoder: Any) -> None:  # noqa: ANN401 - a decoder of transformers
    """Let norms and MLPs of a decoder be fused, for any number of tokens; attention over slots stays as it is.

    The last layer is left out: the engine computes only some of its tokens, through hooks that would be traced anew. A
    machine without a C++ compiler is told so now, before the first answer. Raises UsageError if the decoder has no
    layers that can be found, or nothing can be compiled on this machine.
    """
    layers = getattr(decoder.get_decoder(), "layers", None)
    if layers is None:
        raise UsageError(f"The layers of {type(decoder).__name__} cannot be compiled.", "Leave --compile out.")
    parts = [getattr(layer, name) for layer in layers[:-1] for name in COMPILED if hasattr(layer, name)]
    for part in parts:
        part.compile(dynamic=True)
    try:
        with torch.inference_mode():
            width = text_config(decoder).hidden_size
            for part in parts[:1]:
                part(torch.zeros(1, 2, width, device=decoder.device, dtype=decoder.dtype))
    except RuntimeError as error:
        hint = "Install a C++ compiler (g++), or name yours in the environment variable CXX, or leave --compile out."
        raise UsageError(f"torch.compile does not work here: {str(error).splitlines()[0]}", hint) from error
