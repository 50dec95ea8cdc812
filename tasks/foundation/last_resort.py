"""What nobody foresaw ends in a sentence too: what happened, where its traceback is, and that the command goes on."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import format_exception

from medbench.tasks.foundation.errors import MedbenchError, RunError, described
from medbench.tasks.foundation.printable import printable

_CONTINUES = "What was written is kept, and the same command continues."
_folders: list[Path] = []


@contextmanager
def tracebacks_in(folder: Path) -> Iterator[None]:
    """Let tracebacks of what happens in the block lie in a folder, that of a run; else in the temporary one."""
    _folders.append(folder)
    yield
    # Not after an error: whoever explains it asks where.
    _folders.pop()


def explained(error: Exception) -> MedbenchError:
    """Return the error that a user sees for one that nobody foresaw; its traceback is kept in a file, if any can be."""
    folders = (*reversed(_folders), Path(tempfile.gettempdir()))
    _folders.clear()
    if isinstance(error, MemoryError):
        return RunError("Memory ran out.", f"Close other programs, or give fewer rows or workers. {_CONTINUES}")
    kept = _kept(error, folders)
    where = f" Its traceback is in {kept}." if kept else ""
    if isinstance(error, OSError):
        about = f": {error.filename}" if error.filename else ""
        problem = f"The system refused something: {error.strerror or error}{about}."
        return RunError(problem, f"Look for room, rights and limits there.{where} {_CONTINUES}")
    way_out = f"{_CONTINUES} If it comes again, report it with that file and `medbench --version`."
    return RunError(f"Something that medbench did not foresee: {described(error)}.", f"{where} {way_out}".strip())


def _kept(error: Exception, folders: Sequence[Path]) -> Path | None:
    text = printable("".join(format_exception(error)))
    name = f"traceback-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    for folder in folders:
        with suppress(OSError):
            if folder.is_dir():
                (folder / name).write_text(text, encoding="utf-8")
                return folder / name
    return None
