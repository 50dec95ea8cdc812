"""Who the weights are, without reading 15 GB: sizes and samples of the large files, hashes of the small ones."""

from collections.abc import Mapping
from pathlib import Path

from tasks.foundation.files import file_sha256, fingerprint, sampled_sha256

_WEIGHTS = frozenset({".safetensors", ".bin", ".pth", ".pt"})
_SMALL = frozenset(
    {
        "added_tokens.json",
        "config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
)


def identity_of(parts: Mapping[str, Path]) -> str:
    """Return one fingerprint of files and folders by the part that they play; their places do not matter."""
    digests = {f"{part}/{file.name}": _digest(file) for part, path in parts.items() for file in _files(path)}
    return fingerprint(digests)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.name in _SMALL or file.suffix in _WEIGHTS)


def _digest(file: Path) -> str:
    return sampled_sha256(file) if file.suffix in _WEIGHTS else file_sha256(file)
