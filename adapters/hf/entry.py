"""`hf:FOLDER` or `hf:OWNER/NAME`: what a user may choose, and what is known of published models. Imports no torch.

A model is known by the type that its configuration names and by the last part of its name: the folder above says
nothing, nor does a name say how boxes are written where it contradicts the configuration beside it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from medbench.adapters.base import AdapterEntry, ModelCard, plain_answer
from medbench.adapters.described import described
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.foundation.files import json_value
from medbench.tasks.foundation.model_files import folder_named
from medbench.tasks.foundation.registry import imported_when_called

_CACHED = re.compile(r"models--.+?--(.+)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_ASK_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a published model says of itself."""

    boxes: str = ""  # How it writes boxes.
    find: str = ""  # How it was taught to find an `{object}`, answered in `boxes`; without, it is told how to write.
    trained_on: frozenset[str] | None = None  # Tasks of ours whose datasets its card or paper says it has seen.
    licence: str = ""  # Of its weights.


CARD, ARGUMENTS, _TOLD = described(__file__)
FAMILIES = TypeAdapter(dict[str, Known]).validate_python(_TOLD["families"])
KNOWN = TypeAdapter(dict[str, Known]).validate_python(_TOLD["known"])
PLAIN_INPUTS = frozenset(_TOLD["plain inputs"])
CONNECTORS = frozenset(_TOLD["connectors"])
_PROMISED: Mapping[str, str] = _TOLD["promised"]
TAKEN_APART = TypeAdapter(dict[str, Literal["causal", "images", "prompt"]]).validate_python(_TOLD["taken apart"])


def short_name(name: str) -> str:
    """Return the part of a folder or of a repository's name that names the model."""
    folder = folder_named(name)
    if folder is None:
        return name.rstrip("/").rpartition("/")[2] or name
    cached = (_CACHED.fullmatch(part) for part in folder.absolute().parts)
    # A link names a model as well as a folder does, but `.` and `..` do not.
    own = folder.absolute().name
    return next((found.group(1) for found in cached if found), folder.resolve().name if own in {"", ".."} else own)


def known(name: str, family: str = "") -> Known:
    """Return what is known of a folder or a repository; its family is looked up, or else as the name promises."""
    own = short_name(name)
    promised = (one for part, one in _PROMISED.items() if _pattern(part).search(own))
    family = family or family_of(name) or next(promised, "")
    named = next((one for part, one in KNOWN.items() if _pattern(part).search(own)), Known())
    of_family = FAMILIES.get(family, named)
    return replace(named, boxes=of_family.boxes, find=of_family.find)


@cache
def _pattern(part: str) -> re.Pattern[str]:
    """Return what finds a part of a name, whatever its words are joined by: `Qwen2.5VL` has `qwen2.5-vl`."""
    words = "[-_. ]?".join(re.findall("[a-z0-9]+", part))
    return re.compile(rf"(?<![a-z]){words}" + (r"(?!\d)" if part[-1].isdigit() else ""), re.IGNORECASE)


def family_of(name: str) -> str:
    """Return the type that a model's configuration names; nothing if it is not on this machine or not readable."""
    folder = _folder_here(name)
    try:
        return str(json_value((folder / "config.json").read_text(encoding="utf-8"))["model_type"]) if folder else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # The loader says what is wrong with it.


@lru_cache(maxsize=64)
def asked_family(name: str) -> str:
    """Return the type of a repository that is not here yet, by one question to the Hub; nothing if that fails."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, get_session, get_token, hf_hub_url

    if not _REPOSITORY.fullmatch(name) or constants.HF_HUB_OFFLINE:
        return ""
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        address = hf_hub_url(name, "config.json")
        answer = get_session().get(address, headers=headers, timeout=_ASK_SECONDS, follow_redirects=True)
        return str(answer.json()["model_type"]) if answer.is_success else ""
    except (HTTPError, OSError, ValueError, KeyError, TypeError):
        return ""  # Whatever went wrong, the loader meets it again and says it.


def _folder_here(name: str) -> Path | None:
    """Return the folder of a model, also of one in the Hub's cache; None if it is not here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if folder := folder_named(name):
        return folder
    try:
        found = try_to_load_from_cache(name, "config.json")
    except (HFValidationError, OSError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def parameters_of(name: str) -> Counter[str]:
    """Return the parameters of each part of a model, by the headers of its files, as far as they are here."""
    from safetensors import SafetensorError, safe_open

    folder = _folder_here(name)
    parts = Counter[str]()
    for file in sorted(folder.glob("*.safetensors")) if folder else ():
        try:
            with safe_open(file, framework="numpy") as stream:
                for key in list(stream.keys()):
                    part = next((word for word in key.split(".") if word != "model"), key)
                    parts[part] += prod(stream.get_slice(key).get_shape())
        except (SafetensorError, OSError):
            continue  # A broken file is the loader's to report; here it only has no size.
    return parts


def memory_of(parts: Counter[str]) -> str:
    """Return what so many parameters take in bfloat16; nothing if they were not counted."""
    shares = ", ".join(f"{part} {2 * count / 1e9:.2g} GB" for part, count in parts.most_common())
    return f"{2 * parts.total() / 1e9:.2g} GB: {shares}" if parts.total() else ""


def defaults(variant: str) -> Mapping[str, str]:
    """Return the arguments that follow from what a model is."""
    boxes = known(variant, family_of(variant) or asked_family(variant)).boxes
    return {"boxes": boxes} if boxes else {}


def card_of(variant: str) -> ModelCard:
    """Return what is known of a model by its name and, if it lies on this machine, by its files."""
    found, parts = known(variant), parameters_of(variant)
    return replace(
        CARD, title=variant, licence=found.licence or CARD.licence, trained_on=found.trained_on,
        memory=memory_of(parts) or CARD.memory, parameters=parts.total() or None,
        open_weights=True if found.licence else None,
    )  # fmt: skip


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.hf.adapter:load_adapter"), parse=plain_answer,
    takes=frozenset({"device", "dtype", "device_map", "quantize", "lora"}),
    variants={"*": "a folder, or the name of a repository on the Hub"},
    arguments={**ARGUMENTS, "boxes": replace(ARGUMENTS["boxes"], choices=tuple(sorted(BOX_SPACES)))}, defaults=defaults,
    card_of=card_of, spaces=BOX_SPACES,
)  # fmt: skip
