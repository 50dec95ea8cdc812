"""How much memory a model takes, from the headers of its files: nothing is loaded, nothing is downloaded."""

from collections import Counter
from math import prod
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

_BYTES = 2
_GIGA = 1e9


def memory_of(name: str) -> str:
    """Return what a model takes in bfloat16, or nothing if its files are not on this machine.

    Args:
        name: Folder, or repository on the Hub.
    """
    folder = _folder_here(name)
    parts = Counter[str]()
    for file in sorted(folder.glob("*.safetensors")) if folder else ():
        parts.update(_parameters(file))
    total = sum(parts.values())
    if not total:
        return ""
    shares = ", ".join(f"{part} {_gigabytes(count)}" for part, count in parts.most_common())
    return f"{_gigabytes(total)}: {shares}"


def _folder_here(name: str) -> Path | None:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def _parameters(file: Path) -> Counter[str]:
    """Return the parameters in a file, by the part of the model that they belong to."""
    counts: Counter[str] = Counter()
    try:
        with safe_open(file, framework="numpy") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a mapping
                part = next((word for word in name.split(".") if word != "model"), name)
                counts[part] += prod(stream.get_slice(name).get_shape())
    except (SafetensorError, OSError):
        # A broken file is the loader's to report; here it only has no size.
        return Counter()
    return counts


def _gigabytes(parameters: int) -> str:
    return f"{_BYTES * parameters / _GIGA:.2g} GB"
