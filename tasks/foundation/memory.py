"""Memory that runs out, told as one sentence: libraries raise half a dozen errors for it. Imports no torch."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from medbench.tasks.foundation.errors import RunError

_WORDS = re.compile(r"out of memory|can(?:'|no)t allocate memory|not enough memory|bad[_ ]alloc", re.IGNORECASE)
# torch.OutOfMemoryError, by its name: this floor imports no torch.
_NAME = "OutOfMemoryError"
_LONGEST = 160
HINT = "Give --dtype bfloat16, free some memory, or take a larger device or --device cpu."


def ran_out_of_memory(error: BaseException | None) -> BaseException | None:
    """Return the error that says that memory ran out, if it is this one or what led to it; None otherwise."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if _says_so(error):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == _NAME:
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, Exception) and bool(_WORDS.search(str(error)))


@contextmanager
def room_for(source: str) -> Iterator[None]:
    """Make memory that runs out while a folder or a model is loaded an error in a sentence, whoever raises it.

    Raises:
        RunError: If memory ran out.
    """
    try:
        yield
    except Exception as error:
        found = ran_out_of_memory(error)
        if found is None or isinstance(error, RunError):
            raise
        lines = str(found).strip().splitlines()
        said = lines[0][:_LONGEST].rstrip(" .") if lines else ""
        reason = f"{type(found).__name__}: {said}" if said else type(found).__name__
        raise RunError(f"{source} does not fit into the memory that is free: {reason}.", HINT) from error
