"""The standard streams of a command: who reads may leave, who listens may be gone, and what is lost is an error.

Results that a full disk does not take are an error. A reader that has seen enough (`medbench tasks | head`) is none,
and neither is talk that nobody hears: a run of hours does not end because the program that showed its progress did.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, TypeVar

from medbench.tasks.foundation.errors import MedbenchError

_Stream = TypeVar("_Stream", "Results", "Talk")
# A closed output stays one: to write to it is an error. Of input and talk nothing is missed.
_STANDING_IN = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)


class Results(io.TextIOWrapper):
    """Standard output; MedbenchError if it cannot be written to, unless nobody reads it any more."""

    beneath: TextIO | None = None

    def write(self, text: str) -> int:
        """Write results, as far as somebody reads them."""
        with self._or_told():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._or_told():
            super().flush()

    @contextmanager
    def _or_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is still in the buffer would fail again when the command ends.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not isinstance(error, BrokenPipeError):
                way_out = "Free some space there, or send the output elsewhere, and run the same command again."
                problem = f"Standard output cannot be written to: {error.strerror}."
                raise MedbenchError(problem, way_out) from error


class Talk(io.TextIOWrapper):
    """Standard error; what nobody can hear is lost, also behind its end."""

    beneath: TextIO | None = None

    def write(self, text: str) -> int:
        """Write talk, if somebody listens."""
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with suppress(OSError, ValueError):
            super().flush()


def guard_streams(explain: Callable[[Exception], MedbenchError], tell: Callable[[MedbenchError], None]) -> None:
    """Put `Results` and `Talk` in the place of this process's streams; `tell` what a thread raised, as `explain`ed.

    A stream that was closed at the start is opened as nothing: the next file would else be given its number, and what
    libraries write to that number would end in it.
    """
    for number, mode in enumerate(_STANDING_IN):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdout = _over(Results, sys.stdout, 1)
    sys.stderr = _over(Talk, sys.stderr, 2)

    def told(raised: threading.ExceptHookArgs) -> None:
        if isinstance(raised.exc_value, Exception):
            tell(explain(raised.exc_value))

    threading.excepthook = told
    sys.unraisablehook = _pass_on


def _over(kind: type[_Stream], stream: TextIO | None, number: int) -> _Stream:
    if stream is None:
        return kind(open(number, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
    lines = issubclass(kind, Talk) or stream.isatty()
    made = kind(stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=lines)
    # Its buffer would be closed with it.
    made.beneath = stream
    return made


def _pass_on(raised: "sys.UnraisableHookArgs") -> None:
    """Say nothing of what is raised where objects are thrown away, which no result needs; an interrupt counts."""
    if raised.exc_type is KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
