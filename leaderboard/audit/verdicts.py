"""The words of every audit, and what a script gets for them."""

from collections.abc import Collection, Iterable
from typing import Literal, get_args

Verdict = Literal["not_testable", "no_evidence", "suspicious", "strong"]
"""`not_testable` is not `no_evidence`: nothing could have been found."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
EXIT_CODES: dict[Verdict, int] = {"no_evidence": 0, "suspicious": 3, "strong": 4, "not_testable": 5}


def strongest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the strongest finding of checks that were all needed: one that was not made leaves no all-clear."""
    found = set(verdicts)
    return _strongest(found, incomplete="not_testable" in found)


def exit_code(verdicts: Iterable[Verdict], *, incomplete: bool = False) -> int:
    """Return the exit code of several tasks, of which some cannot be tested by their nature.

    Args:
        verdicts: Of the tasks.
        incomplete: Whether something needed could not be seen, so that nothing found is no answer.
    """
    return EXIT_CODES[_strongest(set(verdicts), incomplete=incomplete)]


def _strongest(found: Collection[Verdict], *, incomplete: bool) -> Verdict:
    for verdict in ("strong", "suspicious"):
        if verdict in found:
            return verdict
    return "no_evidence" if "no_evidence" in found and not incomplete else "not_testable"
