"""Errors that a user can act on: what was given, what is allowed, what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PureWindowsPath
from traceback import extract_tb
from typing import Literal

from medbench.tasks.foundation.confidential import masked

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
FailureKind = Literal[
    "picture", "prompt", "refused", "sample", "model", "memory", "numbers", "worker", "rate limit", "overloaded",
    "timeout", "unreachable", "cut off", "server error", "malformed",
]  # fmt: skip
"""Why a sample got no answer; docs/reliability.md says what each means. The first four lie in the sample itself."""
_LONGEST = 300


class MedbenchError(Exception):
    """A failure that is shown to the user without a traceback.

    `problem` is one sentence that says what is wrong and names what was given, `hint` what is allowed or to do next.
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

    def __init__(self, problem: str, hint: str = "", *, kind: FailureKind = "sample") -> None:
        super().__init__(problem, hint)
        self.kind: FailureKind = kind


class PictureError(SampleError):
    """An image of a sample is missing, or cannot be read."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint, kind="picture")


class StoppedError(MedbenchError):
    """The user stopped the command; the hint says what is kept."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, kept: str = "") -> None:
        super().__init__("Interrupted.", kept)


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """Return the error for a name that is not in a registry, with the closest names first."""
    # A name with a comma would look like two.
    shown = {name: f'"{name}"' if "," in name else name for name in sorted(allowed)}
    close = get_close_matches(given, shown, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(map(shown.__getitem__, close))}? " if close else ""
    return UsageError(f"There is no {kind} named {given!r}.", f"{guess}Allowed: {', '.join(shown.values()) or 'none'}.")


def refuse_secret(kept: object, where: str) -> None:
    """Raise a UsageError if what would be kept in files holds a password or a key; it is not repeated."""
    try:
        text = str(kept)
    except ValueError as error:
        raise UsageError(f"{where} holds a number of thousands of digits.", "Correct it.") from error
    if masked(text) != text:
        hint = "Leave it out. Keys are read from environment variables, which are named and never written down."
        raise UsageError(f"{where} holds a password or a key, which would be written into files.", hint)


def described(error: BaseException, home: str = "") -> str:
    """Return what a stranger's code raised, and where: `ValueError: no words (echo.py, line 3, in answer)`.

    `home` is the file of the code that is looked at: of its lines the innermost is named, not one of a library below.
    """
    words = masked(" ".join(str(error).split()))[:_LONGEST]
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    frames = extract_tb(error.__traceback__)
    if not frames:
        return said
    frame = next((one for one in reversed(frames) if one.filename == home), frames[-1])
    return f"{said} ({PureWindowsPath(frame.filename).name}, line {frame.lineno}, in {frame.name})"
