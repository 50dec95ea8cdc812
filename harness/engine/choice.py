"""Which engine writes a run's answers: ours, vLLM's or transformers' own, as the user says or as the machine allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medbench.adapters.base import LocalAdapter
from medbench.adapters.catalog import OF_VLLM
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import json_value

EngineName = Literal["auto", "medbench", "vllm", "transformers"]
# How much is held, and not what is computed.
_NO_ANSWER = frozenset({"gpu_memory_utilization", "kv_cache_memory_bytes", "swap_space", "cpu_offload_gb"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """The engine of a run, and why it is that one."""

    name: Literal["medbench", "vllm", "transformers"]
    why: str
    version: str = ""  # Of vLLM; transformers stands among the libraries of any run.
    arguments: Mapping[str, Any] = field(default_factory=dict)  # Of `vllm.LLM`.

    @property
    def identity(self) -> dict[str, Any]:
        """What of it makes another run; nothing where the engine is ours, whose code is part of the identity."""
        if self.name == "medbench":
            return {}
        told = {name: value for name, value in sorted(self.arguments.items()) if name not in _NO_ANSWER}
        return {"name": self.name, "version": self.version, "arguments": told}


def vllm_arguments(given: Mapping[str, str]) -> dict[str, Any]:
    """Return vLLM's own arguments among those of `--model-arg`: JSON where it is some, else text."""
    return {name.removeprefix(OF_VLLM): _value(text) for name, text in given.items() if name.startswith(OF_VLLM)}


def _value(text: str) -> object:
    try:
        return json_value(text)
    except ValueError:
        return text


def choose_engine(
    asked: EngineName, adapter: LocalAdapter, arguments: Mapping[str, Any], *, greedy: bool, compiled: bool
) -> EngineChoice:
    """Return the engine of a model; UsageError if the one asked for cannot, or `arguments` are for another."""
    from medbench.harness.engine.vllm import installed, why_not_vllm
    from medbench.harness.engine.vllm_images import is_seen_by_vllm

    version = installed()
    reason = "" if version else "it is not installed (pip install 'medbench[vllm]')"
    if version and not greedy:
        reason = "sampling, penalties and beam searches are ours: its random numbers are others"
    elif version and compiled:
        reason = "--compile is for our engine, vLLM compiles by itself"
    reason = reason or ("" if is_seen_by_vllm(adapter) else why_not_vllm(adapter))
    if asked == "vllm" and reason:
        raise UsageError(f"vLLM cannot answer for {adapter.title}: {reason}.", "Give --engine medbench or auto.")
    on_gpu = adapter.device.startswith("cuda")
    if asked == "vllm" or (asked == "auto" and on_gpu and not reason):
        why = "it was asked for" if asked == "vllm" else "it is installed, and knows this model"
        return EngineChoice(name="vllm", why=why, version=version, arguments=arguments)
    if arguments:
        name = next(iter(arguments))
        problem = f"--model-arg {OF_VLLM}{name} is an argument of vLLM, which does not answer here"
        raise UsageError(f"{problem}{f': {reason}' if reason else ''}.", "Give --engine vllm too, or leave it out.")
    if asked in {"transformers", "medbench"}:
        return EngineChoice(name=asked, why="it was asked for")
    return EngineChoice(name="medbench", why=f"vLLM: {reason}" if on_gpu else "on a CPU it is ours")
