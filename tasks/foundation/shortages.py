"""What a machine has no more of, whoever met it: memory, open files, threads and processes. Each is a sentence."""

import errno
import re
import traceback
from collections.abc import Callable

from medbench.tasks.foundation.errors import RunError

CONTINUES = "What was written is kept, and the same command continues."
_MEMORY = "Memory ran out.", "Close other programs, raise the limit (ulimit -v), or give fewer rows or workers."
_FILES = "No more files can be opened at once.", "Raise the limit (ulimit -n), or close other programs."
_TASKS = (
    "The system starts no more threads or processes.",
    "Raise the limits (ulimit -u, ulimit -v), or close other programs.",
)
# Libraries raise half a dozen errors for memory that runs out: torch its own, by its name, since this floor imports no
# torch; the loader of libraries has no number for it.
_NAME = "OutOfMemoryError"
_WORDS = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|bad[_ ]alloc|failed to map segment", re.IGNORECASE
)


def shortage(error: BaseException) -> RunError | None:
    """Return the error that a user sees for one that says that something ran out, or None for any other.

    For memory, all that its traceback holds is let go, so that there is some for the way out.
    """
    if ran_out_of_memory(error):
        traceback.clear_frames(error.__traceback__)
        found = _MEMORY
    elif caused_by(error, lambda one: isinstance(one, OSError) and one.errno in {errno.EMFILE, errno.ENFILE}):
        found = _FILES
    elif caused_by(error, _no_more_tasks):
        found = _TASKS
    else:
        return None
    problem, way_out = found
    return RunError(problem, f"{way_out} {CONTINUES}")


def _no_more_tasks(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


def ran_out_of_memory(error: BaseException | None) -> BaseException | None:
    """Return the error that says that memory ran out, if it is this one or what led to it; None otherwise."""
    return caused_by(error, _says_so)


def caused_by(error: BaseException | None, wanted: Callable[[BaseException], bool]) -> BaseException | None:
    """Return the first error that is `wanted`, of this one and those that led to it; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if wanted(error):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    named = isinstance(error, MemoryError) or type(error).__name__ == _NAME
    return named or (isinstance(error, Exception) and bool(_WORDS.search(str(error))))
