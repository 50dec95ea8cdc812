"""The tasks of a run with their samples, as they lie on disk."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from medbench.harness.settings import EVERY_TASK, Settings
from medbench.tasks.catalog import PREPARED, get_task, select_among, select_tasks, task_names
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepared import Prepared, has_manifest, load_prepared, prepared_names
from medbench.tasks.probes import PROBES, probed
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.suite import SuiteName, prepare_mini_suite, suite_of

MINI_NOTICE = (
    "MINI SUITE: these are the bundled mini tasks (no --data-dir was given, or it holds them). Their stand-ins and "
    "phantoms are not the paper's datasets, and the numbers must never be shown beside the paper's."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLoad:
    """One task of a run: its declaration, its prepared data, and the test samples to answer, in order."""

    spec: TaskSpec
    prepared: Prepared
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """All tasks of a run, in catalogue order."""

    suite: SuiteName
    data_dir: Path
    loads: tuple[TaskLoad, ...]
    notices: tuple[str, ...] = ()  # Lines that the run must show loudly.
    left_out: tuple[str, ...] = ()  # Tasks that a kind, a pattern or `prepared` asked for, and that are left out.
    unchanged: tuple[str, ...] = ()  # Tasks that were asked for, and of which the probe changes nothing.

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(load.spec.name for load in self.loads)

    def say_left_out(self) -> None:
        """Say which tasks a kind, a pattern or `prepared` did not bring, or a probe leaves as they are, and why."""
        if missing := [name for name in self.left_out if not has_manifest(self.data_dir, name)]:
            say(f"Left out, since they are not prepared in {self.data_dir}: {', '.join(missing)}.")
        if only_by_name := [name for name in self.left_out if name not in missing]:
            say(f"Left out, since they run only when they are named: {', '.join(only_by_name)}.")
        if self.unchanged:
            say(f"Left out, since the probe changes nothing of them: {', '.join(self.unchanged)}.")

    def only(self, names: Collection[str]) -> "Workload":
        """Return the same with some of its tasks."""
        return replace(self, loads=tuple(load for load in self.loads if load.spec.name in names))

    def answerable(self, kinds: Collection[Kind]) -> tuple[TaskLoad, ...]:
        """Return the tasks of some kinds, those that a model can answer."""
        return tuple(load for load in self.loads if load.spec.kind in kinds)

    def train_samples(self, task: str) -> Sequence[Sample]:
        """Return the train split of a task."""
        return load_prepared(self.data_dir, task).samples("train")

    def source_of(self, task: str) -> Path:
        """Return the folder that the images of a task start from."""
        return load_prepared(self.data_dir, task).source


def load_workload(settings: Settings) -> Workload:
    """Read the prepared tasks that the settings name; without a data folder, prepare the mini suite.

    UsageError if a task is unknown; DataError if one is not prepared, or its test split is empty.
    """
    # A mistyped task is told before anything is prepared.
    select_among(",".join(settings.tasks), ())
    data_dir = prepare_mini_suite() if settings.data_dir is None else settings.data_dir
    if not data_dir.is_dir():
        way_out = "Prepare tasks into it: medbench data prepare TASK --source DIR --data-dir DIR"
        raise DataError(f"The data folder {data_dir} does not exist.", way_out)
    names, left_out = _selected(settings, data_dir)
    loads: tuple[TaskLoad, ...] = ()
    for spec in with_limits([get_task(name) for name in names], settings.max_new_tokens):
        prepared = load_prepared(data_dir, spec.name)
        samples = prepared.samples("test")
        if not samples:
            where = f"See {data_dir / spec.name}/manifest.json."
            raise DataError(f"The test split of {spec.name} in {data_dir} is empty.", where)
        loads += (TaskLoad(spec=spec, prepared=prepared, samples=samples[: settings.limit]),)
    suite: SuiteName = "mini" if settings.data_dir is None else suite_of(load.prepared for load in loads)
    notices = [MINI_NOTICE] if suite == "mini" else []
    if settings.probe:
        loads = _probed(loads, settings)
        said = f"PROBE {settings.probe}: {PROBES[settings.probe].meaning}."
        notices.append(f"{said} These numbers are no results; read them with `medbench audit probe`.")
    found = Workload(suite=suite, data_dir=data_dir, loads=loads, notices=tuple(notices), left_out=left_out)
    return replace(found, unchanged=tuple(name for name in names if name not in found.names))


def tasks_named(word: str, names: Sequence[str], given: str) -> list[str]:
    """Return which of a run's tasks a word names; UsageError with what was `given` if none, or if it means nothing."""
    chosen = [name for name in select_tasks(word) if name in names]
    if not chosen:
        raise UsageError(f"{given}: no task of this run.", f"It has {', '.join(names)}.")
    return chosen


def with_limits(specs: Sequence[TaskSpec], limits: Mapping[str, int]) -> tuple[TaskSpec, ...]:
    """Return tasks with the lengths that a user chose; the most special word decides: name, kind, pattern, all."""
    chosen: dict[str, int] = {}
    names = [spec.name for spec in specs]
    ranks = {EVERY_TASK: 3, **dict.fromkeys(get_args(Kind), 1)}
    for word in sorted(limits, key=lambda word: -ranks.get(word, 2 if set("*?[") & set(word) else 0)):
        # `all` means all of the run, variants too, which a selection by that word leaves out.
        given = f"--max-new-tokens {word}={limits[word]}"
        chosen |= dict.fromkeys(names if word == EVERY_TASK else tasks_named(word, names, given), limits[word])
    return tuple(
        replace(spec, max_new_tokens=chosen[spec.name], limit_chosen=True) if spec.name in chosen else spec
        for spec in specs
    )


def _probed(loads: Sequence[TaskLoad], settings: Settings) -> tuple[TaskLoad, ...]:
    asked = [(load, probed(settings.probe, load.spec, load.samples, settings.seed)) for load in loads]
    changed = tuple(replace(load, spec=one[0], samples=one[1]) for load, one in asked if one is not None)
    if not changed:
        problem = f"The probe {settings.probe!r} changes nothing of {', '.join(load.spec.name for load in loads)}."
        raise UsageError(problem, "Name tasks that it applies to; options need `medqa-options`.")
    return changed


def _selected(settings: Settings, data_dir: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tasks to run, all of them prepared, and those that are left out."""
    there = [name for name in task_names() if has_manifest(data_dir, name)]
    selected = select_among(",".join(settings.tasks), there)
    names = selected.names
    if settings.data_dir is None:
        # `all` on the mini suite means all of the suite; a plugin's task must be named to be missed.
        named = {word.strip() for part in settings.tasks for word in part.split(",")}
        names = tuple(name for name in names if name in named or name in there)
    if not names:
        prepared_names(data_dir)
        problem = f"What is prepared in {data_dir} runs only when it is named: {', '.join(there)}."
        raise DataError(problem, "Name it with --tasks.")
    if missing := [name for name in names if name not in there]:
        others = f" ({', '.join(there)})" if there else ""
        raise DataError(
            f"Not prepared in {data_dir}: {', '.join(missing)}.",
            f"Prepare each: medbench data prepare {missing[0]} --source DIR --data-dir {data_dir}\n"
            f"or give --tasks {PREPARED} for those that are{others}, or name the tasks to run.",
        )
    return names, selected.left_out
