"""Errors that a user can act on: what was given, what is allowed, what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class MedbenchError(Exception):
    """A failure that is shown to the user without a traceback.

    Args:
        problem: One sentence that says what is wrong and names what was given.
        hint: What is allowed or what to do next; shown on its own line.
    """

    exit_code = EXIT_FAILED

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n{self.hint}" if self.hint else self.problem


class UsageError(MedbenchError):
    """The command line or the configuration asks for something that does not exist."""

    exit_code = EXIT_USAGE


class DataError(MedbenchError):
    """A dataset on disk is missing, incomplete or not in the layout that was promised."""


class RunError(MedbenchError):
    """A run cannot go on: its directory, its records or its model do not fit."""


class SampleError(MedbenchError):
    """One sample cannot be answered (a broken image, a prompt that does not fit); the run goes on."""


class StoppedError(MedbenchError):
    """The user stopped the command; the hint says what is kept."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, kept: str = "") -> None:
        super().__init__("Interrupted.", kept)


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """Return the error for a name that is not in a registry, with the closest names first."""
    names = sorted(allowed)
    close = get_close_matches(given, names, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(close)}? " if close else ""
    return UsageError(f"There is no {kind} named {given!r}.", f"{guess}Allowed: {', '.join(names) or 'none'}.")
