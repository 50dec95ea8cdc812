"""The 12 benchmarks, their variants and data beside them by name, plugins' tasks too, and what a selection means."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, get_args

from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.foundation.registry import Registry, imported
from medbench.tasks.spec import Kind, Reading, TaskSpec


def _declared() -> dict[str, TaskSpec]:
    """Return the tasks of `tasks.yaml`; their readers are imported when they read."""
    table = read_yaml_table(Path(__file__).with_name("tasks.yaml"))
    rows: dict[str, dict[str, Any]] = {}
    for name, row in table["tasks"].items():
        rows[name] = {**(rows[row.pop("like")] if "like" in row else {}), **row}
    return {name: _task(name, row, table["pools"]) for name, row in rows.items()}


def _task(name: str, row: Mapping[str, Any], pools: Mapping[str, list[str]]) -> TaskSpec:
    pool = tuple(pools[row["pool"]])

    def read(source: Path, options: Mapping[str, str]) -> Reading:
        native = imported("medbench.tasks.datasets.native:Native")(source, options, name, row["kind"], row["layout"])
        reading: Reading = imported(f"medbench.tasks.datasets.{row['reader']}")(native)
        return reading

    made = {"prompt": pool[row["prompt"]], "choices": tuple(row.get("choices", ()))}
    rest = {key: value for key, value in row.items() if key not in {"pool", "reader", *made}}
    return TaskSpec(name=name, train_prompts=pool, reader=read, **made, **rest)


BUILTIN: Mapping[str, TaskSpec] = _declared()

TASKS: Registry[TaskSpec] = Registry("task", BUILTIN, "medbench.tasks", TaskSpec)

PREPARED = "prepared"  # The word for all tasks that are prepared in a data folder.
_PATTERN_MARKS = frozenset("*?[")


def get_task(name: str) -> TaskSpec:
    """Return the declaration of a task; a UsageError with the closest names if there is none."""
    return TASKS.load(name)


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks: the 12 in the order of the paper's tables, others built in, and plugins' tasks."""
    return tuple(TASKS)


def benchmark_names() -> tuple[str, ...]:
    """Return the names of the 12 benchmarks, in the order of the paper's tables."""
    return tuple(name for name in BUILTIN if not get_task(name).only_by_name)


def main_task_names() -> tuple[str, ...]:
    """Return the names that `all`, kinds and patterns stand for: all tasks but those that run only when named."""
    return tuple(name for name in TASKS if not get_task(name).only_by_name)


def benchmark_of(name: str) -> str:
    """Return the task whose data a variant asks about in another way; of any other task its own name."""
    return (get_task(name).variant_of or name) if name in TASKS else name


def select_tasks(selection: str) -> tuple[str, ...]:
    """Return the tasks that a selection names, in catalogue order, each once.

    A selection is names, kinds (`vqa`), patterns (`slake-*`) or `all`, with commas between them. A variant of a task
    (`medqa-options`) and data beside the benchmark (`busi`) are selected by their names only.

    Raises UsageError if a part names nothing; the message has the closest names.
    """
    return _in_order({name for part in _parts(selection) for name in _matches(part)})


class Selected(NamedTuple):
    """What a selection names in a folder of prepared tasks, in catalogue order."""

    names: tuple[str, ...]  # Names in full and `all` whether they are there or not.
    # What a kind or a pattern matches and is not there, and what is there but runs only when it is named.
    left_out: tuple[str, ...]


def select_among(selection: str, there: Collection[str]) -> Selected:
    """Return what a selection means where only the tasks `there` are prepared.

    A kind or a pattern stands for those of its tasks that are there, or for all of them if none is; `prepared` stands
    for all that are there. A name in full, and `all`, mean what they say. Raises like `select_tasks`.
    """
    named: set[str] = set()
    wanted: set[str] = set()
    for part in _parts(selection):
        if part == PREPARED:
            named.update(name for name in TASKS if name in there)
            wanted.update(name for name in main_task_names() if name in there)
        else:
            matches = _matches(part)
            named |= matches
            wanted |= matches if part == "all" or part in TASKS else matches.intersection(there) or matches
    return Selected(names=_in_order(wanted), left_out=_in_order(named - wanted))


def _in_order(names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in TASKS if name in names)


def _parts(selection: str) -> list[str]:
    parts = [part.strip() for part in selection.split(",") if part.strip()]
    if not parts:
        raise UsageError("No task was named.", f"Name some of: all, {', '.join((*get_args(Kind), *TASKS))}.")
    return parts


def _matches(part: str) -> set[str]:
    if part == "all":
        return set(main_task_names())
    if part in TASKS:
        return {part}
    if part in get_args(Kind):
        return {name for name in main_task_names() if get_task(name).kind == part}
    found = {name for name in main_task_names() if _PATTERN_MARKS.intersection(part) and fnmatchcase(name, part)}
    if not found:
        raise unknown_name("task", part, ("all", *get_args(Kind), *TASKS))
    return found
