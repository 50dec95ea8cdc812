"""Which files make a model what it is, told without reading 15 GB."""

import hashlib
import json
import struct
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path

from medbench.tasks.foundation.files import file_sha256, fingerprint, sampled_sha256

_WHOLE_BYTES = 1 << 26
_SAMPLE_BYTES = 1 << 12
_HEADER_BYTES = 100_000_000
# What stands beside a model and is never read to answer: documentation, code, what a training left, parts for videos.
_BESIDE_SUFFIXES = frozenset({
    ".gif", ".html", ".ipynb", ".jpeg", ".jpg", ".lock", ".log", ".md", ".pdf", ".png", ".py", ".pyc", ".rst", ".sh",
    ".svg", ".webp",
})  # fmt: skip
_BESIDE_NAMES = (
    "license", "license.txt", "notice", "notice.txt", "readme", "readme.txt", "requirements.txt", "use_policy.txt",
    "video_preprocessor_config.json", "trainer_state.json", "training_args.bin", "training_args.json", "*_results.json",
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state*.pth", "events.out.tfevents.*",
)  # fmt: skip
# Of a generation configuration an answer depends on these alone: a run's own settings choose tokens.
_GENERATION, _USED = "generation_config.json", ("bos_token_id", "eos_token_id", "pad_token_id")


def identity_of(parts: Mapping[str, Path]) -> str:
    """Return one fingerprint of files and folders by the part that they play; where they lie does not matter."""
    return fingerprint({
        f"{part}/{name}" if name else part: digest
        for part, path in parts.items()
        for name, digest in digests(path).items()
    })  # fmt: skip


def digests(path: Path, *, only: Collection[str] = (), digest: Callable[[Path], str] | None = None) -> dict[str, str]:
    """Return a digest of every file of a folder and below that an answer may depend on, by its path in the folder.

    Args:
        path: The folder; a file is returned under the empty name, whatever its own.
        only: Patterns of the names that count; all but documentation and what a training left if there are none.
        digest: Of one file; by default `digest_of`.
    """
    made = digest or digest_of
    if path.is_file():
        return {"": made(path)}
    names = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: made(file) for name, file in sorted(names.items()) if _counts(name, only)}


def _counts(name: str, only: Collection[str]) -> bool:
    *folders, last = name.lower().split("/")
    if any(part.startswith(".") for part in (*folders, last)) or "__pycache__" in folders:
        return False
    if only:
        return any(fnmatch(last, pattern) for pattern in only)
    return Path(last).suffix not in _BESIDE_SUFFIXES and not any(fnmatch(last, pattern) for pattern in _BESIDE_NAMES)


def digest_of(file: Path) -> str:
    """Return a SHA-256 of a file: of all its bytes, of samples where there are very many.

    Of safetensors every tensor is sampled: one that was trained further among many that were not is seen.
    """
    if file.name == _GENERATION:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return fingerprint({name: values.get(name) for name in _USED})
        except (OSError, ValueError, AttributeError):
            # Whoever loads it says what is wrong with it.
            return file_sha256(file)
    if file.stat().st_size <= _WHOLE_BYTES:
        return file_sha256(file)
    return _digest_of_tensors(file) if file.suffix == ".safetensors" else sampled_sha256(file)


def _digest_of_tensors(file: Path) -> str:
    """Return a hash over the header of safetensors and the beginning, middle and end of each tensor."""
    digest = hashlib.sha256(str(file.stat().st_size).encode())
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        if length > _HEADER_BYTES:
            return sampled_sha256(file)
        header = stream.read(length)
        digest.update(header)
        try:
            tensors = [tensor for name, tensor in json.loads(header).items() if name != "__metadata__"]
            places = sorted((int(begin), int(end)) for begin, end in (tensor["data_offsets"] for tensor in tensors))
        except (ValueError, TypeError, AttributeError, KeyError):
            return sampled_sha256(file)
        for begin, end in places:
            for start in sorted({begin, (begin + end) // 2, max(begin, end - _SAMPLE_BYTES)}):
                stream.seek(8 + length + start)
                digest.update(stream.read(min(_SAMPLE_BYTES, end - start)))
    return digest.hexdigest()
