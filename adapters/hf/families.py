"""What is known of published models, by the type that their configuration names and by the last part of their names.

The folder above says nothing: `/data/paligemma-experiments/llava-1.5-7b-hf` is a LLaVA. Nor does a name say how boxes
are written where it contradicts the configuration beside it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

_CACHED = re.compile(r"models--.+?--(.+)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_ASK_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a published model says of itself.

    Attributes:
        boxes: How it writes boxes.
        find: The words with which it was taught to find an `{object}`, answered in `boxes`. A model without such words
            is told how to write.
        trained_on: Tasks of ours whose datasets its card or paper names among the training data.
        licence: Of its weights.
    """

    boxes: str = ""
    find: str = ""
    trained_on: frozenset[str] | None = None
    licence: str = ""


FAMILIES: Mapping[str, Known] = {
    # By `model_type` of config.json. What is not here is not known, which is not the same as no.
    "gemma3": Known(boxes="permille-yxyx"),
    "internvl": Known(
        boxes="permille",
        find="Please provide the bounding box coordinate of the region this sentence describes: <ref>{object}</ref>",
    ),
    "paligemma": Known(boxes="loc1024", find="detect {object}"),
    "qwen2_vl": Known(boxes="permille"),
    "qwen2_5_vl": Known(boxes="pixels-28"),
    "qwen3_vl": Known(boxes="permille"),
    "qwen3_vl_moe": Known(boxes="permille"),
}
_SLAKE = frozenset({"slake-vqa"})
KNOWN: Mapping[str, Known] = {
    # By a part of the name's last part, the most specific first. How boxes are written, the family says before it.
    "medgemma": Known(trained_on=_SLAKE | {"mimic-cxr"}, licence="Health AI Developer Foundations terms"),
    "lingshu": Known(trained_on=_SLAKE | {"path-vqa", "mimic-cxr", "medqa"}, licence="MIT"),
    "huatuogpt-vision": Known(licence="Apache-2.0"),
    "llava-med": Known(boxes="fraction", licence="Apache-2.0, on Mistral's and CLIP's weights"),
}
# The types that names promise, for models whose configuration is not at hand.
_PROMISED: Mapping[str, str] = {
    "medgemma": "gemma3",
    "gemma-3n": "gemma3n",
    "gemma-3": "gemma3",
    "lingshu": "qwen2_5_vl",
    "qwen2.5-vl": "qwen2_5_vl",
    "qwen2-vl": "qwen2_vl",
    "qwen3-vl": "qwen3_vl",
    "internvl": "internvl",
    "paligemma": "paligemma",
}


def short_name(name: str) -> str:
    """Return the part of a folder or of a repository's name that names the model."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name.rstrip("/").rpartition("/")[2] or name
    cached = (_CACHED.fullmatch(part) for part in folder.absolute().parts)
    # A link names a model as well as a folder does, but `.` and `..` do not.
    own = folder.absolute().name
    return next((found.group(1) for found in cached if found), folder.resolve().name if own in {"", ".."} else own)


def known(name: str, family: str = "") -> Known:
    """Return what is known of a model.

    Args:
        name: Folder, or repository on the Hub.
        family: Type that its configuration names; looked up if it is not given, and else taken as the name promises.
    """
    own = short_name(name)
    promised = (one for part, one in _PROMISED.items() if _pattern(part).search(own))
    family = family or family_of(name) or next(promised, "")
    named = (one for part, one in KNOWN.items() if _pattern(part).search(own))
    refined = next(named, Known())
    of_family = FAMILIES.get(family, refined)
    return replace(refined, boxes=of_family.boxes, find=of_family.find)


def family_of(name: str) -> str:
    """Return the type that a model's configuration names; nothing if it is not on this machine or not readable."""
    folder = Path(name).expanduser()
    file = folder / "config.json" if folder.is_dir() else _cached_config(name)
    if file is None:
        return ""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        # The loader says what is wrong with it.
        return ""


@lru_cache(maxsize=64)
def asked_family(name: str) -> str:
    """Return the type of a repository that is not on this machine yet, by one question to the Hub; nothing if it fails.

    Without it the run that downloads a model would know less of it than the next one.
    """
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
        # Whatever went wrong, the loader meets it again and says it.
        return ""


def _cached_config(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except (HFValidationError, OSError):
        return None
    return Path(found) if isinstance(found, str) else None


@cache
def _pattern(part: str) -> re.Pattern[str]:
    """Return what finds a part of a name, whatever its words are joined by: `Qwen2.5VL` has `qwen2.5-vl`."""
    words = "[-_. ]?".join(re.findall("[a-z0-9]+", part))
    return re.compile(rf"(?<![a-z]){words}" + (r"(?!\d)" if part[-1].isdigit() else ""), re.IGNORECASE)
