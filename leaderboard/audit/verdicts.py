"""The words of every audit, and what a script gets for them."""

from collections.abc import Iterable
from typing import Literal, get_args

Verdict = Literal["not_testable", "no_evidence", "suspicious", "strong"]
"""`not_testable` is not `no_evidence`: nothing could have been found."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
EXIT_CODES: dict[Verdict, int] = {"no_evidence": 0, "suspicious": 3, "strong": 4, "not_testable": 5}


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return the exit code of several verdicts: the strongest finding, else 0 if anything could be tested, else 5."""
    found = set(verdicts)
    for verdict in ("strong", "suspicious", "no_evidence"):
        if verdict in found:
            return EXIT_CODES[verdict]
    return EXIT_CODES["not_testable"]
