"""The bundled mini suite: prepared once per machine, and recognised wherever it lies."""

from pathlib import Path

from tasks.mini_suite import DATA
from tasks.prepare import prepare_suite

SUITE_FILE = "suite.json"


def prepare_mini_suite() -> Path:
    """Return the folder of the prepared mini suite, preparing it on first use."""
    return prepare_suite(DATA)


def is_bundled(source: Path) -> bool:
    """Return whether a task's source folder belongs to a copy of the mini suite."""
    return any((folder / SUITE_FILE).is_file() for folder in (source, source.parent))
