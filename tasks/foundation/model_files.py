"""Files of a model: which make it what it is, which are not what their names say, and memory that ends meanwhile.

Identities are told without reading 15 GB. Downloads bring pages, pointers and refusals under the names of weights.
Libraries raise half a dozen errors for memory that runs out; it is one sentence here, without importing torch.
"""

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import (
    file_sha256,
    fingerprint,
    json_value,
    note_sampled,
    read_yaml_table,
    sampled_sha256,
)
from medbench.tasks.foundation.shortages import ran_out_of_memory

_WHOLE_BYTES, _SAMPLE_BYTES, _HEADER_BYTES = 1 << 26, 1 << 12, 100_000_000
# Of a generation configuration an answer depends on these alone: a run's own settings choose tokens.
_GENERATION, _USED = "generation_config.json", ("bos_token_id", "eos_token_id", "pad_token_id")
_LOOKED_AT, _SHOWN_OF_IT = 512, 80
_LOG_IN = "Log in (`hf auth login`), accept the model's terms if it has some, and download it again."
_LONGEST_REASON = 160
HINT = (
    "Give --dtype bfloat16, free some memory, or take a larger device or --device cpu. For hf: models there are "
    "--quantize and --device-map auto too."
)


@cache
def _names(of: str) -> tuple[str, ...]:
    return tuple(read_yaml_table(Path(__file__).with_suffix(".yaml"))[of])


def identity_of(parts: Mapping[str, Path]) -> str:
    """Return one fingerprint of files and folders by the part that they play; where they lie does not matter."""
    return fingerprint({
        f"{part}/{name}" if name else part: digest
        for part, path in parts.items()
        for name, digest in digests(path).items()
    })  # fmt: skip


def digests(path: Path, *, only: Collection[str] = (), digest: Callable[[Path], str] | None = None) -> dict[str, str]:
    """Return a digest of every file of a folder and below that an answer may depend on, by its path in the folder.

    A file is returned under the empty name, whatever its own. `only` are patterns of the names that count; all but
    documentation and what a training left if there are none.
    """
    made = digest or digest_of
    if path.is_file():
        return {"": made(path)}
    names = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: made(file) for name, file in sorted(names.items()) if _counts(name, only)}


# Where the sizes of a model stand: in everybody's file, and in those of two families.
_SIZED = ("config.json", "radfm.json", "xraygpt_sizes.json")
_AGAIN = "Download the file again, or correct it."
# By a word in the name of a number.
_BOUNDS = {"layers": (0, 2000), "heads": (1, 4096), "hidden_size": (1, 1 << 20), "vocab_size": (1, 1 << 24)}


def _counts(name: str, only: Collection[str]) -> bool:
    *folders, last = name.lower().split("/")
    if any(part.startswith(".") for part in (*folders, last)) or "__pycache__" in folders:
        return False
    if only:
        return any(fnmatch(last, pattern) for pattern in only)
    return Path(last).suffix not in _names("beside_suffixes") and not any(
        fnmatch(last, pattern) for pattern in _names("beside_names")
    )


def digest_of(file: Path) -> str:
    """Return a SHA-256 of a file: of all its bytes, of samples where there are very many.

    Of safetensors every tensor is sampled: one that was trained further among many that were not is seen.
    """
    if file.name == _GENERATION:
        try:
            values = json_value(file.read_text(encoding="utf-8"))
            return fingerprint({name: values.get(name) for name in _USED})
        except (OSError, ValueError, AttributeError):
            # Whoever loads it says what is wrong with it.
            return file_sha256(file)
    if file.stat().st_size <= _WHOLE_BYTES:
        return file_sha256(file)
    return _digest_of_tensors(file) if file.suffix == ".safetensors" else sampled_sha256(file)


def _digest_of_tensors(file: Path) -> str:
    """Return a hash over the header of safetensors and the beginning, middle and end of each tensor."""
    note_sampled(file)
    digest = hashlib.sha256(str(file.stat().st_size).encode())
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        if length > _HEADER_BYTES:
            return sampled_sha256(file)
        header = stream.read(length)
        digest.update(header)
        try:
            tensors = [tensor for name, tensor in json_value(header).items() if name != "__metadata__"]
            places = sorted((int(begin), int(end)) for begin, end in (tensor["data_offsets"] for tensor in tensors))
        except (ValueError, TypeError, AttributeError, KeyError):
            return sampled_sha256(file)
        for begin, end in places:
            for start in sorted({begin, (begin + end) // 2, max(begin, end - _SAMPLE_BYTES)}):
                stream.seek(8 + length + start)
                digest.update(stream.read(min(_SAMPLE_BYTES, end - start)))
    return digest.hexdigest()


def folder_named(name: str) -> Path | None:
    """Return the folder of a name, if there is one; what can be the name of no file names none."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        # Too long, the home of somebody who is not known here, or with a NUL in it.
        return None


def refuse_stand_ins(*paths: Path) -> None:
    """Look that the files of models, given as folders or one by one, are what their names say.

    Raises DataError if one is a page of a web site, a pointer of Git LFS, an error of a server, or empty; it is named.
    """
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else (path,)
        for file in files:
            if file.suffix in _names("read_suffixes") and (found := _stand_in(file)):
                raise DataError(f"{file} cannot be read: it is {found[0]}, not a file of a model.", found[1])
            if file.name in _SIZED:
                refuse_absurd(file)


def refuse_absurd(file: Path) -> None:
    """Refuse, by a DataError, a model's configuration whose sizes no model has.

    Whoever builds a model takes its numbers as they are: of a billion layers it would make one after the other. What is
    no configuration at all is told by whoever reads it.
    """
    try:
        values = json_value(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for name, value in _numbers(values):
        for word, (least, most) in _BOUNDS.items():
            if word in name and not least <= value <= most:
                raise DataError(f"{file}: {name} is {value}, but from {least} to {most} is possible.", _AGAIN)


def _numbers(values: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401 - any JSON
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _numbers(value)
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, value


def _stand_in(file: Path) -> tuple[str, str] | None:
    """Return what a file is instead, and what to do; None if it is not known to be anything else."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_LOOKED_AT)
    except OSError:
        # Whoever reads it says what is wrong with it.
        return None
    # Bytes that are no text stay different from all that is looked for.
    plain = start.removeprefix(b"\xef\xbb\xbf").strip().lower().replace(b'{ "', b'{"').decode("latin-1")
    if file.suffix != ".txt" and not plain:
        return "empty", "Download it again."
    if plain.startswith(_names("pointers")):
        return "a pointer of Git LFS", "Fetch what it points to: `git lfs pull` in the repository, or `hf download`."
    if plain.startswith(_names("pages")):
        return "a page of a web site (to sign in, or an error)", _LOG_IN
    if file.suffix not in {".txt", ".jinja"} and plain.startswith(_names("refusals")):
        return f"the answer of a server ({start[:_SHOWN_OF_IT].decode('utf-8', 'replace').strip()!r})", _LOG_IN
    return None


@contextmanager
def room_for(source: str) -> Iterator[None]:
    """Make memory that runs out while a folder or a model is loaded a RunError in a sentence, whoever raises it."""
    try:
        yield
    except Exception as error:
        found = ran_out_of_memory(error)
        if found is None or isinstance(error, RunError):
            raise
        said = next(iter(str(found).strip().splitlines()), "")[:_LONGEST_REASON].rstrip(" .")
        reason = f"{type(found).__name__}: {said}" if said else type(found).__name__
        raise RunError(f"{source} does not fit into the memory that is free: {reason}.", HINT) from error
