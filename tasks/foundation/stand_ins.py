"""Files that are not what their names say: downloads bring pages, pointers and refusals under the names of weights."""

from pathlib import Path

from medbench.tasks.foundation.errors import DataError

_LOOKED_AT = 512
_SHOWN = 80
_READ = frozenset({".safetensors", ".bin", ".pth", ".pt", ".json", ".model", ".jinja", ".tiktoken", ".txt"})
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b"<script")
_REFUSALS = (
    b"access to model", b"access denied", b"invalid username or password", b"invalid credentials", b"entry not found",
    b"repository not found", b"not found", b"unauthorized", b"forbidden", b"too many requests", b"bad gateway",
    b"internal server error", b"service unavailable", b"gateway time", b"error code", b'{"error', b'{"message"',
    b'{"detail"',
)  # fmt: skip
_LOG_IN = "Log in (`hf auth login`), accept the model's terms if it has some, and download it again."


def refuse_stand_ins(*paths: Path) -> None:
    """Look that the files of models, given as folders or one by one, are what their names say.

    Raises:
        DataError: If one is a page of a web site, a pointer of Git LFS, an error of a server, or empty; it is named.
    """
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else (path,)
        for file in files:
            found = _stand_in(file) if file.suffix in _READ else None
            if found is not None:
                what, hint = found
                raise DataError(f"{file} cannot be read: it is {what}, not a file of a model.", hint)


def _stand_in(file: Path) -> tuple[str, str] | None:
    """Return what a file is instead, and what to do; None if it is not known to be anything else."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_LOOKED_AT)
    except OSError:
        # Whoever reads it says what is wrong with it.
        return None
    plain = start.removeprefix(b"\xef\xbb\xbf").strip().lower().replace(b'{ "', b'{"')
    if file.suffix != ".txt" and not plain:
        return "empty", "Download it again."
    if plain.startswith(_POINTER):
        return "a pointer of Git LFS", "Fetch what it points to: `git lfs pull` in the repository, or `hf download`."
    if plain.startswith(_PAGES):
        return "a page of a web site (to sign in, or an error)", _LOG_IN
    if file.suffix not in {".txt", ".jinja"} and plain.startswith(_REFUSALS):
        return f"the answer of a server ({start[:_SHOWN].decode('utf-8', 'replace').strip()!r})", _LOG_IN
    return None
