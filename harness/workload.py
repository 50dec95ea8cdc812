"""The tasks of a run with their samples, as they lie on disk."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medbench.harness.limits import with_limits
from medbench.harness.settings import Settings
from medbench.tasks.catalog import PREPARED, Selected, get_task, select_among, task_names
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepared import MANIFEST_NAME, Prepared, load_prepared, prepared_names
from medbench.tasks.probes import PROBES, probed
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.suite import SuiteName, prepare_mini_suite, suite_of

MINI_NOTICE = (
    "MINI SUITE: these are the bundled mini tasks (no --data-dir was given, or it holds them). Their stand-ins and "
    "phantoms are not the paper's datasets, and the numbers must never be shown beside the paper's."
)

PROBE_NOTICE = "PROBE {}: {}. These numbers are no results; read them with `medbench audit probe`."


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLoad:
    """One task of a run: its declaration, its prepared data, and the test samples to answer, in order."""

    spec: TaskSpec
    prepared: Prepared
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """All tasks of a run.

    Attributes:
        suite: `mini`, `paper` or `custom`.
        data_dir: Where the prepared tasks lie.
        loads: The tasks, in catalogue order.
        notices: Lines that the run must show loudly.
        left_out: Tasks that were asked for by a kind, a pattern or `prepared`, and that are left out.
    """

    suite: SuiteName
    data_dir: Path
    loads: tuple[TaskLoad, ...]
    notices: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(load.spec.name for load in self.loads)

    def say_left_out(self) -> None:
        """Say which tasks a kind, a pattern or `prepared` did not bring, and why."""
        missing = [name for name in self.left_out if not _is_there(self.data_dir, name)]
        if missing:
            say(f"Left out, since they are not prepared in {self.data_dir}: {', '.join(missing)}.")
        if variants := [name for name in self.left_out if name not in missing]:
            say(f"Left out, since variants run only when they are named: {', '.join(variants)}.")

    def only(self, names: Collection[str]) -> "Workload":
        """Return the same with some of its tasks."""
        return replace(self, loads=tuple(load for load in self.loads if load.spec.name in names))

    def train_samples(self, task: str) -> Sequence[Sample]:
        """Return the train split of a task."""
        return load_prepared(self.data_dir, task).samples("train")

    def source_of(self, task: str) -> Path:
        """Return the folder that the images of a task start from."""
        return load_prepared(self.data_dir, task).source


def load_workload(settings: Settings) -> Workload:
    """Read the prepared tasks that the settings name; without a data folder, prepare the mini suite.

    Raises:
        UsageError: If a task name is unknown.
        DataError: If a task is not prepared, or its test split is empty.
    """
    # A mistyped task is told before anything is prepared.
    select_among(",".join(settings.tasks), ())
    data_dir = prepare_mini_suite() if settings.data_dir is None else settings.data_dir
    if not data_dir.is_dir():
        raise DataError(
            f"The data folder {data_dir} does not exist.",
            "Prepare tasks into it: medbench data prepare TASK --source DIR --data-dir DIR",
        )
    selected = _selected(settings, data_dir)
    loads = _limited([_load_task(data_dir, name, settings.limit) for name in selected.names], settings.max_new_tokens)
    suite: SuiteName = "mini" if settings.data_dir is None else suite_of(load.prepared for load in loads)
    notices = (MINI_NOTICE,) if suite == "mini" else ()
    if settings.probe:
        loads = _probed(loads, settings)
        notices = (*notices, PROBE_NOTICE.format(settings.probe, PROBES[settings.probe].meaning))
    return Workload(suite=suite, data_dir=data_dir, loads=loads, notices=notices, left_out=selected.left_out)


def _limited(loads: Sequence[TaskLoad], limits: Mapping[str, int]) -> tuple[TaskLoad, ...]:
    specs = with_limits([load.spec for load in loads], limits)
    return tuple(replace(load, spec=spec) for load, spec in zip(loads, specs, strict=True))


def _probed(loads: Sequence[TaskLoad], settings: Settings) -> tuple[TaskLoad, ...]:
    changed = []
    for load in loads:
        asked = probed(settings.probe, load.spec, load.samples, settings.seed)
        if asked is not None:
            spec, samples = asked
            changed.append(replace(load, spec=spec, samples=samples))
    if not changed:
        names = ", ".join(load.spec.name for load in loads)
        raise UsageError(
            f"The probe {settings.probe!r} changes nothing of {names}.",
            "Name tasks that it applies to; options need `medqa-options`.",
        )
    return tuple(changed)


def _selected(settings: Settings, data_dir: Path) -> Selected:
    """Return the tasks to run, after a look that all of them are prepared."""
    there = [name for name in task_names() if _is_there(data_dir, name)]
    selected = select_among(",".join(settings.tasks), there)
    if settings.data_dir is None:
        selected = replace(selected, names=_in_suite(selected.names, there, settings.tasks))
    if not selected.names:
        prepared_names(data_dir)
        raise DataError(f"In {data_dir} only variants are prepared: {', '.join(there)}.", "Name them with --tasks.")
    _refuse_unprepared([name for name in selected.names if name not in there], there, data_dir)
    return selected


def _is_there(data_dir: Path, name: str) -> bool:
    return (data_dir / name / MANIFEST_NAME).is_file()


def _in_suite(names: Sequence[str], there: Collection[str], selection: Sequence[str]) -> tuple[str, ...]:
    # `all` on the mini suite means all of the suite; a plugin's task must be named to be missed.
    named = {word.strip() for part in selection for word in part.split(",")}
    return tuple(name for name in names if name in named or name in there)


def _refuse_unprepared(missing: Sequence[str], there: Sequence[str], data_dir: Path) -> None:
    if not missing:
        return
    others = f" ({', '.join(there)})" if there else ""
    raise DataError(
        f"Not prepared in {data_dir}: {', '.join(missing)}.",
        f"Prepare each: medbench data prepare {missing[0]} --source DIR --data-dir {data_dir}\n"
        f"or give --tasks {PREPARED} for those that are{others}, or name the tasks to run.",
    )


def _load_task(data_dir: Path, name: str, limit: int | None) -> TaskLoad:
    prepared = load_prepared(data_dir, name)
    samples = prepared.samples("test")
    if not samples:
        raise DataError(f"The test split of {name} in {data_dir} is empty.", f"See {data_dir / name}/manifest.json.")
    return TaskLoad(spec=get_task(name), prepared=prepared, samples=samples[:limit])
