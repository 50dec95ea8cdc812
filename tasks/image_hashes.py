r"""SHA-256 of image files, so that the identity of prepared data covers the bytes of its pictures.

The hashes of a task are one text in the form of `sha256sum`, sorted by path::

    3f0a...  imgs/xmlab3/source.jpg

In the source folder `sha256sum --check` reads it. As there, a line whose path has a backslash or a line break begins
with a backslash and has them as `\\`, `\n` and `\r`.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
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
_SHOWN_FROM = 1000

_ESCAPED_LINE = "\\"
_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)
_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}
_UNESCAPES = {escape: mark for mark, escape in _ESCAPES.items()}


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file of the source folder: its digest, or `missing`, `unreadable` or, where it was compared, `changed`."""

    path: str
    sha256: str = ""
    problem: str = ""


def hash_images(source: Path, paths: Sequence[str], label: str) -> dict[str, str]:
    """Return the digest of each image file of a source folder; the progress display calls them `label`.

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
    escaped = {path: "".join(_ESCAPES.get(mark, mark) for mark in path) for path in sorted(digests)}
    return "".join(
        f"{'' if shown == path else _ESCAPED_LINE}{digests[path]}  {shown}\n" for path, shown in escaped.items()
    )


def parse_hash_lines(text: str, where: str) -> dict[str, str]:
    """Return the digests by path of a text in the form of `sha256sum`; `where` is its file, for the message.

    Raises:
        DataError: If a line has another form; the message names the line.
    """
    digests: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(f"{where}, line {number} is not a digest and a path.", "Prepare the task again.")
        escaped, digest, path = match.groups()
        if escaped:
            path = re.sub(r"\\[\\nr]", lambda found: _UNESCAPES[found.group()], path)
        digests[path] = digest
    return digests


def _hash_all(source: Path, paths: Sequence[str], label: str) -> list[HashedFile]:
    found: list[HashedFile] = []
    pool = ThreadPoolExecutor(_WORKERS)
    try:
        # A few files need no display.
        with meter(label, len(paths)) if len(paths) >= _SHOWN_FROM else nullcontext() as progress:
            for hashed in pool.map(partial(_hash_file, source), paths):
                found.append(hashed)
                if progress is not None:
                    progress.advance()
    finally:
        # A stop does not wait for the files that are left.
        pool.shutdown(cancel_futures=True)
    return found


def _hash_file(source: Path, path: str) -> HashedFile:
    try:
        return HashedFile(path, sha256=file_sha256(locate(source, path)))
    except (FileNotFoundError, NotADirectoryError):
        return HashedFile(path, problem="missing")
    except OSError:
        return HashedFile(path, problem="unreadable")
