"""Exceptions of code that is not ours to trust, told in a sentence: what was raised, and where."""

from traceback import extract_tb
from types import TracebackType

_LONGEST = 300


def described(error: BaseException, home: str = "") -> str:
    """Return an exception's type, its words and its place, such as `ValueError: no words (echo.py, line 3, in answer)`.

    Args:
        error: The exception.
        home: File of the code that is looked at: of its lines the innermost is named, not one of a library below.
    """
    words = " ".join(str(error).split())[:_LONGEST]
    place = _place(error.__traceback__, home)
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{said} ({place})" if place else said


def _place(trace: TracebackType | None, home: str) -> str:
    frames = extract_tb(trace)
    if not frames:
        return ""
    frame = next((one for one in reversed(frames) if one.filename == home), frames[-1])
    return f"{frame.filename.replace(chr(92), '/').rpartition('/')[2]}, line {frame.lineno}, in {frame.name}"
