"""Files that are too large to be held as one text: written line by line, whole or absent."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from medbench.tasks.foundation.errors import RunError


class LineFile:
    """A file of lines that is being written; its digest and count are right once it is closed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.count = 0

    def write(self, line: str) -> None:
        """Append a line."""
        content = f"{line}\n".encode()
        self._digest.update(content)
        self._stream.write(content)
        self.count += 1

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, as 64 hex digits."""
        return self._digest.hexdigest()


@contextmanager
def line_file(path: Path) -> Iterator[LineFile]:
    """Open a file of lines that takes its name when everything was written; raises like `replaced_when_whole`."""
    with replaced_when_whole(path) as partial, partial.open("wb") as stream:
        yield LineFile(stream)


@contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Yield a name to write to; the file takes `path` only if nothing went wrong.

    Raises:
        RunError: If the folder cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Choose a folder that you may write to, or free some space.",
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
