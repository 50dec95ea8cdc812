r"""SHA-256 of image files, so that the identity of prepared data covers the bytes of its pictures.

The hashes of a task are one text in the form of `sha256sum`, sorted by path::

    3f0a...  imgs/xmlab3/source.jpg

In the source folder `sha256sum --check` reads it. As there, a line whose path has a backslash or a line break begins
with a backslash and has them as `\\`, `\n` and `\r`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from medbench.tasks.foundation.console import meter
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.images import locate

ImageHashes = Literal["prepared", "none"]

# Disks answer several readers at once; each of them has one file open.
_WORKERS = 8
# Files that are handed out together: few enough that a stop is not waited for.
_WINDOW = 256
_SHOWN_FROM = 1000

_ESCAPED_LINE = "\\"
_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)
_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}
_UNESCAPES = {escape: mark for mark, escape in _ESCAPES.items()}


@dataclass(frozen=True, slots=True)
class HashedFile:
    """One file: its digest, or why there is none.

    Attributes:
        path: Relative to the source folder.
        sha256: 64 hex digits, or empty.
        problem: `missing`, `unreadable` or, where it was compared, `changed`; else empty.
    """

    path: str
    sha256: str = ""
    problem: str = ""


def hash_images(source: Path, paths: Sequence[str], label: str) -> dict[str, str]:
    """Return the digest of each image file, by its path.

    Args:
        source: The source folder.
        paths: Files relative to it, each once.
        label: What the progress display calls them.

    Raises:
        DataError: If a file is missing or cannot be read.
    """
    found = _hash_all(source, paths, label)
    failed = next((item for item in found if item.problem), None)
    if failed:
        raise DataError(
            f"The image {source / failed.path} is {failed.problem}.",
            "Restore it or make it readable and prepare again, or leave all images unread with --image-hashes none.",
        )
    return {item.path: item.sha256 for item in found}


def changed_images(source: Path, expected: Mapping[str, str], label: str) -> tuple[HashedFile, ...]:
    """Hash the files again and return those that are not as `expected`, each with its problem."""
    found = _hash_all(source, tuple(expected), label)
    changed = (item for item in found if item.sha256 != expected[item.path])
    return tuple(HashedFile(item.path, item.sha256, item.problem or "changed") for item in changed)


def hash_lines(digests: Mapping[str, str]) -> str:
    """Return the text that `parse_hash_lines` reads."""
    return "".join(_line(path, digests[path]) for path in sorted(digests))


def parse_hash_lines(text: str, where: str) -> dict[str, str]:
    """Return the digests by path of a text in the form of `sha256sum`.

    Args:
        text: The text.
        where: Its file, for the message.

    Raises:
        DataError: If a line has another form; the message names the line.
    """
    digests: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(f"{where}, line {number} is not a digest and a path.", "Prepare the task again.")
        escaped, digest, path = match.groups()
        digests[_unescaped(path) if escaped else path] = digest
    return digests


def _line(path: str, digest: str) -> str:
    escaped = "".join(_ESCAPES.get(mark, mark) for mark in path)
    return f"{'' if escaped == path else _ESCAPED_LINE}{digest}  {escaped}\n"


def _unescaped(path: str) -> str:
    return re.sub(r"\\[\\nr]", lambda match: _UNESCAPES[match.group()], path)


def _hash_all(source: Path, paths: Sequence[str], label: str) -> list[HashedFile]:
    found: list[HashedFile] = []
    with _pool() as pool, _progress(label, len(paths)) as advance:
        for start in range(0, len(paths), _WINDOW):
            window = list(pool.map(partial(_hash_file, source), paths[start : start + _WINDOW]))
            found += window
            advance(len(window))
    return found


def _hash_file(source: Path, path: str) -> HashedFile:
    try:
        return HashedFile(path, sha256=file_sha256(locate(source, path)))
    except (FileNotFoundError, NotADirectoryError):
        return HashedFile(path, problem="missing")
    except OSError:
        return HashedFile(path, problem="unreadable")


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(_WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give what is told how many more files are done; a few files need no display."""
    if total < _SHOWN_FROM:
        yield lambda _: None
        return
    with meter(label, total) as progress:
        yield progress.advance
