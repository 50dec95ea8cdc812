"""The bundled mini suite: prepared once per machine, and recognised wherever its data turn up.

`python -m tasks.suite --record` writes `tasks/mini_suite/prepared.json`, by which it is recognised without being
prepared, after its data or a reader have changed.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from medbench.tasks.foundation.console import say, show_error
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, read_json, write_atomically
from medbench.tasks.mini_suite import DATA
from medbench.tasks.prepare import prepare_suite
from medbench.tasks.prepared import Prepared, load_prepared, prepared_names

SuiteName = Literal["mini", "paper", "custom"]

RECORD_FILE = DATA.with_name("prepared.json")
RECORD_COMMAND = "python -m medbench.tasks.suite --record"


def prepare_mini_suite() -> Path:
    """Return the folder of the prepared mini suite, preparing it on first use."""
    return prepare_suite(DATA)


def suite_of(tasks: Iterable[Prepared]) -> SuiteName:
    """Return which suite prepared tasks make up; nothing is prepared for it.

    `mini` if any of them holds the very samples of the bundled suite, from wherever it was prepared; `paper` if
    every test split has the paper's count; `custom` otherwise.
    """
    prepared = list(tasks)
    if any(_is_bundled(task) for task in prepared):
        return "mini"
    whole = all(task.manifest.counts["test"] == task.spec.counts.get("test") for task in prepared)
    return "paper" if whole else "custom"


def _is_bundled(task: Prepared) -> bool:
    return recorded_test_splits().get(task.task) == task.manifest.sha256["test"]


@cache
def recorded_test_splits() -> Mapping[str, str]:
    """Return the digest of each bundled task's prepared test split, as it was recorded."""
    record: dict[str, str] = read_json(RECORD_FILE)
    return record


def prepared_test_splits() -> dict[str, str]:
    """Return the digest of each bundled task's test split, prepared now."""
    folder = prepare_mini_suite()
    return {name: load_prepared(folder, name).manifest.sha256["test"] for name in prepared_names(folder)}


def main(arguments: Sequence[str]) -> int:
    """Write the record when asked to; return the exit code."""
    try:
        if list(arguments) != ["--record"]:
            raise UsageError(f"The arguments {list(arguments)} are not understood.", f"Usage: {RECORD_COMMAND}")
        write_atomically(RECORD_FILE, f"{canonical_json(prepared_test_splits(), indent=2)}\n")
    except MedbenchError as error:
        show_error(error)
        return error.exit_code
    say(f"Wrote {RECORD_FILE.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
