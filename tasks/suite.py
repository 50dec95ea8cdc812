"""The bundled mini suite: prepared once per machine, and recognised wherever its data turn up."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tasks.mini_suite import DATA
from tasks.prepare import prepare_suite
from tasks.prepared import Prepared, load_prepared

SuiteName = Literal["mini", "paper", "custom"]


def prepare_mini_suite() -> Path:
    """Return the folder of the prepared mini suite, preparing it on first use."""
    return prepare_suite(DATA)


def suite_of(tasks: Iterable[Prepared]) -> SuiteName:
    """Return which suite prepared tasks make up.

    `mini` if any of them holds the very samples of the bundled suite, from wherever it was prepared; `paper` if
    every test split has the paper's count; `custom` otherwise.
    """
    prepared = list(tasks)
    if any(_is_bundled(task) for task in prepared):
        return "mini"
    whole = all(task.manifest.counts["test"] == task.spec.counts.get("test") for task in prepared)
    return "paper" if whole else "custom"


def _is_bundled(task: Prepared) -> bool:
    bundled = prepare_mini_suite()
    if not (bundled / task.task).is_dir():
        return False
    return load_prepared(bundled, task.task).manifest.sha256["test"] == task.manifest.sha256["test"]
