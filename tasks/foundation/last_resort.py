"""What nobody foresaw ends in a sentence too: what happened, where its traceback is, and that the command goes on."""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import format_exception

from medbench.tasks.foundation.confidential import masked
from medbench.tasks.foundation.errors import MedbenchError, RunError, UsageError, described
from medbench.tasks.foundation.printable import printable
from medbench.tasks.foundation.shortages import CONTINUES, shortage

_SHOWN = 80


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Explain what nobody foresaw of the work in a folder, with its traceback there."""
    try:
        yield
    except MedbenchError:
        raise
    except Exception as error:
        raise explained(error, folder) from error


def explained(error: Exception, folder: Path | None = None) -> MedbenchError:
    """Return the error that a user sees for one that nobody foresaw; its traceback is kept in a file, if any can be.

    The file lies in `folder` if it takes one, or where temporary files do.
    """
    if found := shortage(error):
        return found
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(f"A name is too long for a file: {str(error.filename)[:_SHOWN]}...", "Give another one.")
    kept = _kept(error, folder)
    where = f" Its traceback is in {kept}." if kept else ""
    if isinstance(error, OSError):
        about = f": {error.filename}" if error.filename else ""
        problem = f"The system refused something: {error.strerror or error}{about}."
        return RunError(problem, f"Look for room, rights and limits there.{where} {CONTINUES}")
    way_out = f"{CONTINUES} If it comes again, report it with that file and `medbench --version`."
    return RunError(f"Something that medbench did not foresee: {described(error)}.", f"{where} {way_out}".strip())


def _kept(error: Exception, folder: Path | None) -> Path | None:
    text = printable(masked("".join(format_exception(error))))
    name = f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for path in ([folder / name] if folder else []) + [Path(tempfile.gettempdir(), f"medbench-{name}")]:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError:
            with suppress(OSError):
                # A full disk takes the name and nothing else.
                path.unlink()
        else:
            return path
    return None
