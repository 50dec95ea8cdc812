"""What a server tells of the model it serves and of itself, where it tells: `/models` and, with vLLM, `/version`.

It is part of a run's identity, since a server may be given other weights under the same name, or be updated. Whoever
tells nothing adds nothing; whoever is not there ends the run before it begins. It is written down with every answer
too, so that answers tell which server gave them.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from medbench.adapters.openai.address import Address
from medbench.adapters.openai.reading import Reading, json_or_none

Get = Callable[[str], Awaitable[bytes]]
"""Returns what stands at a URL, or nothing if that cannot be had."""
# When it was made and who may use it change without the model.
_TELLING = (
    "root", "parent", "version", "revision", "sha", "hash", "digest", "quantization", "dtype", "max_model_len",
    "context_length",
)  # fmt: skip
_MOST_META = 12


async def mark_of(address: Address, get: Get, reading: Reading) -> str:
    """Return what a server tells of a model, as one short text; empty where it tells nothing."""
    entry = _entry_of(json_or_none(await get(f"{address.base}/models")), address.model)
    parts = list(_parts(entry))
    if entry.get("owned_by") == "vllm":
        version = json_or_none(await get(f"{address.base.removesuffix('/v1')}/version"))
        said = version.get("version") if isinstance(version, dict) else None
        parts += [f"vllm={said}"] if isinstance(said, str) else []
    return reading.name(" ".join(" ".join(parts).split()))


def _entry_of(document: object, model: str) -> Mapping[str, Any]:
    entries = document.get("data") if isinstance(document, dict) else None
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return next((entry for entry in named if entry.get("id") == model), {})


def _parts(entry: Mapping[str, Any]) -> Iterator[str]:
    meta = entry.get("meta")
    found = [(name, entry.get(name)) for name in _TELLING]
    found += sorted(meta.items())[:_MOST_META] if isinstance(meta, dict) else []
    yield from (f"{name}={value}" for name, value in found if value and isinstance(value, str | int))
