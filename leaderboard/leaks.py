"""Which runs carry evidence of a leak: what `medbench audit` left in their folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medbench.harness.results import Results
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json

AUDIT_FILE = Path("audit") / "audit.json"
_LEAKED = frozenset({"suspicious", "strong"})


def leaks_of(paths: Sequence[Path], runs: Sequence[Results]) -> dict[str, frozenset[str]]:
    """Return the tasks with evidence by the identity of each run that was audited.

    Raises:
        DataError: If an audit's file is broken, or belongs to another run.
    """
    found = {}
    for path, run in zip(paths, runs, strict=True):
        file = path / AUDIT_FILE
        if file.is_file():
            found[run.run] = _tasks_in(file, run)
    return found


def overlaps_in(file: Path) -> frozenset[str]:
    """Return the tasks that an audit of the data marked: their test and training data overlap.

    Raises:
        DataError: If the file is missing or is no such audit.
    """
    document = read_json(file)
    marks = document.get("marks") if isinstance(document, dict) else None
    if not isinstance(marks, dict):
        raise DataError(f"{file} is no audit of data.", "Make one: medbench audit data --output DIR")
    return frozenset(task for task, mark in marks.items() if mark)


def _tasks_in(file: Path, run: Results) -> frozenset[str]:
    document = read_json(file)
    verdicts = document.get("verdicts") if isinstance(document, dict) else None
    if not isinstance(verdicts, dict) or document.get("run") != run.run:
        raise DataError(f"{file} is no audit of this run.", "Make it again: medbench audit model RUN")
    return leaked_in(verdicts)


def leaked_in(verdicts: Mapping[str, object]) -> frozenset[str]:
    """Return the tasks whose verdict speaks of a leak."""
    return frozenset(task for task, verdict in verdicts.items() if verdict in _LEAKED)
