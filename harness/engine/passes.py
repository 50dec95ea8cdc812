"""Forward passes of an unmodified decoder of transformers: packed, of a fixed shape, and what may be compiled."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from medbench.adapters.base import RowStates
from medbench.harness.engine.attention import NAME, KVSlots, PackedPass
from medbench.harness.engine.budget import text_config
from medbench.harness.engine.packing import CHUNK, DecodeBlock, NewTokens, PassPlan, Target, packed_plan
from medbench.harness.engine.requests import SharedPrefix
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


class Passes:
    """Runs a causal language model of transformers over slots; `together`: see `PackedPass`, on anything but a CPU."""

    def __init__(self, decoder: PreTrainedModel, slots: KVSlots, *, together: bool | None = None) -> None:
        self._decoder: Any = decoder
        self._slots = slots
        self._together = decoder.device.type != "cpu" if together is None else together
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
        device = self._decoder.device
        plan = packed_plan(steps, [part for part, _ in prompts], [prefix for prefix, _ in prefixes], device)
        embeddings = [own for _, own in [*prompts, *prefixes]]
        if tokens:
            embeddings.insert(0, self._decoder.get_input_embeddings()(torch.tensor(tokens, device=device)))
        more = {} if states is None else {"row_states": RowStates(states=tuple(states), rows=plan.row_of)}
        return self.follow(plan, torch.cat(embeddings)[None].to(self._decoder.dtype), more)

    def follow(
        self, plan: PassPlan, embeddings: torch.Tensor, more: Mapping[str, object] | None = None
    ) -> torch.Tensor:
        """Return the logits [R, V] of the tokens that a plan wants, from the embeddings [1, N, D] of all."""
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
                inputs_embeds=embeddings, position_ids=plan.positions, use_cache=False,
                packed=PackedPass(plan, self._slots, self._together), **(more or {}),
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


class FixedSteps:
    """Decode steps of a fixed shape over slots that hold whole prompts; nothing depends on what a tensor holds.

    So a GPU captures them in CUDA graphs, which repeat the kernels they saw with the addresses they saw.
    """

    def __init__(self, decoder: PreTrainedModel, slots: KVSlots, passes: Passes, rows: int) -> None:
        self._embeddings = decoder.get_input_embeddings()
        self._device = decoder.device
        self._slots = slots
        self._passes = passes
        self._rows = rows
        # By rows and chunks: the last token of each row, where its keys go and its position [3, R].
        self._inputs: dict[tuple[int, int], torch.Tensor] = {}
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: Any = None

    def run(self, tokens: list[int], places: list[int], positions: list[int]) -> torch.Tensor:
        """Append the last token of each row, at its place; return logits [R, V], which the next step overwrites."""
        chunks = max(places) // CHUNK + 1
        # A power of two, so that few graphs serve any number of rows.
        rows = min(1 << (len(tokens) - 1).bit_length(), self._rows, self._slots.reach(chunks))
        key, missing = (rows, chunks), [0] * (rows - len(tokens))
        if key not in self._inputs:
            self._inputs[key] = torch.zeros(3, rows, dtype=torch.long, device=self._device)
        # Rows that are not there write to their first place, which a row that comes overwrites.
        self._inputs[key].copy_(torch.tensor([values + missing for values in (tokens, places, positions)]))
        if self._device.type != "cuda":
            return self._compute(*key)[: len(tokens)]
        if key not in self._graphs:
            self._graphs[key] = self._capture(*key)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits[: len(tokens)]

    def _compute(self, rows: int, chunks: int) -> torch.Tensor:
        tokens, places, positions = self._inputs[rows, chunks]
        each = torch.arange(rows, device=self._device)
        reaching, within = places // CHUNK, places % CHUNK
        plan = PassPlan(
            count=rows, positions=positions[None], row_of=each, read=each, sharers=each[:0],
            targets=[
                Target(chunk=chunk, tokens=slice(rows), slots=each, places=within, only=reaching == chunk)
                for chunk in range(chunks)
            ],
            decoding=[
                DecodeBlock(rows=slice(rows), chunk=chunk, reach=CHUNK, places=places, fixed=True)
                for chunk in range(chunks)
            ],
        )  # fmt: skip
        return self._passes.follow(plan, self._embeddings(tokens)[None])

    def _capture(self, rows: int, chunks: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Record a step, after one on a stream of its own in which libraries and compilers make themselves ready."""
        beside = torch.cuda.Stream(self._device)
        beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(beside):
            self._compute(rows, chunks)
        torch.cuda.current_stream(self._device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._compute(rows, chunks)
        self._pool = self._pool or graph.pool()
        return graph, logits


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
        raise UsageError(
            f"torch.compile does not work here: {str(error).splitlines()[0]}",
            "Install a C++ compiler (g++), or name yours in the environment variable CXX, or leave --compile out.",
        ) from error
