"""The bundled mini suite: prepared once per machine, and recognised wherever its data turn up.

`tasks/mini_suite/prepared.json`, which `python -m tools.locks` writes, has the digest of each of its prepared test
splits: by these it is recognised without being prepared.
"""

import shutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import file_sha256, fingerprint, inside
from medbench.tasks.foundation.home import medbench_home
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import Prepared, damaged_files, load_prepared
from medbench.tasks.validation import NativeRow, parse_json_file

SuiteName = Literal["mini", "paper", "custom"]

# Folder of the built suite; `suite.json` in it says where each item comes from.
DATA = Path(__file__).parent / "mini_suite" / "data"
RECORD_FILE = DATA.with_name("prepared.json")
_SUITE_FILE = "suite.json"
# What is read is decided by the readers; what is written, also by the checks and by whatever both use.
_DECIDING = ("", "datasets", "foundation")


class _SuiteTask(NativeRow):
    source: str
    options: dict[str, str] = Field(default_factory=dict)


class _Suite(NativeRow):
    tasks: dict[str, _SuiteTask]


def suite_of(tasks: Iterable[Prepared]) -> SuiteName:
    """Return which suite prepared tasks make up; nothing is prepared for it.

    `mini` if any of them holds the very samples of the bundled suite, from wherever it was prepared; `paper` if
    every test split has the paper's count; `custom` otherwise.
    """
    prepared = list(tasks)
    if any(recorded_test_splits().get(task.task) == task.manifest.sha256["test"] for task in prepared):
        return "mini"
    whole = all(task.manifest.counts["test"] == task.spec.counts.get("test") for task in prepared)
    return "paper" if whole else "custom"


@cache
def recorded_test_splits() -> Mapping[str, str]:
    """Return the digest of each bundled task's prepared test split, as it was recorded."""
    return parse_json_file(dict[str, str], RECORD_FILE)


def open_task(name: str, data_dir: Path | None = None) -> Prepared:
    """Return the prepared data of a task, whose `samples("test")` and `images(sample)` a notebook can walk through.

    `data_dir` is the folder given to `medbench data prepare`; without it the task's part of the bundled mini suite is
    taken, prepared when it is first used. Raises UsageError if there is no such task, DataError if it is not there.
    """
    return load_prepared(data_dir if data_dir is not None else prepare_mini_suite(), name)


def prepare_mini_suite() -> Path:
    """Return the folder of the prepared mini suite, preparing it on first use."""
    return prepare_suite(DATA)


def prepare_suite(suite_dir: Path, cache_dir: Path | None = None) -> Path:
    """Prepare all tasks of a bundled suite, once: the folder is used again as long as it is whole.

    The folder's name is made of the suite's place, its manifest and the code of this package, so that neither another
    installation, an edited suite nor an edited reader or check meets old samples. It is built aside and moved into
    place whole, by one process at a time, in `cache_dir` (`medbench_home()` by default). `suite_dir` has `suite.json`:
    `{"tasks": {<task>: {"source": <folder>, "options": {...}}}}`.

    Returns the data folder, for `load_prepared`. Raises DataError if the suite is malformed, RunError if the cache
    cannot be written to.
    """
    # Whoever has a prepared suite needs no lock.
    from filelock import FileLock

    suite = parse_json_file(_Suite, suite_dir / _SUITE_FILE)
    home = cache_dir or medbench_home()
    target = home / f"mini-{_suite_key(suite_dir)[:12]}"
    if _is_whole(suite, suite_dir, target):
        return target
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".mini.lock", fallback_to_soft=False):
            # Another process may have been faster.
            if not _is_whole(suite, suite_dir, target):
                _prepare_aside(suite, suite_dir, target)
    except OSError as error:
        hint = "Set MEDBENCH_HOME to a folder that you may write to, on a file system that has locks."
        raise RunError(f"Cannot write to {home}: {error.strerror or error}.", hint) from error
    return target


def _prepare_aside(suite: _Suite, suite_dir: Path, target: Path) -> None:
    staging = target.with_name(f".{target.name}")
    try:
        for name, task in suite.tasks.items():
            prepare_task(get_task(name), inside(suite_dir, task.source), staging, task.options)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _suite_key(suite_dir: Path) -> str:
    here = Path(__file__).parent
    files = (path for folder in _DECIDING for path in (here / folder).iterdir())
    code = sorted(path for path in files if path.suffix in {".py", ".yaml"})
    # Pictures stay where the suite lies: two installations would take one folder from each other again and again.
    return fingerprint([str(suite_dir.resolve()), *(file_sha256(path) for path in (suite_dir / _SUITE_FILE, *code))])


def _is_whole(suite: _Suite, suite_dir: Path, target: Path) -> bool:
    found = ((load_prepared(target, name), inside(suite_dir, task.source)) for name, task in suite.tasks.items())
    try:
        return all(prepared.source == source.resolve() and not damaged_files(prepared) for prepared, source in found)
    except DataError:
        return False
