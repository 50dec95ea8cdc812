"""What is known of runs before they are compared: where they are, which may stand side by side, what may be shown."""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from medbench.harness.results import RESULTS_FILE, Results, TaskResult, read_results
from medbench.tasks.catalog import TASKS, select_tasks, task_names
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.prepared import load_prepared, prepared_names
from medbench.tasks.protocols import PROTOCOLS, Protocol, metric_ids
from medbench.tasks.spec import Kind
from medbench.tasks.suite import prepare_mini_suite
from medbench.tasks.terms import Terms, needs_agreement, terms_of_data

AUDIT_FILE = Path("audit") / "audit.json"
# The one metric by which a task is decided, as the Uni-Med paper's Tables 2 and 5 count; the others describe.
PRIMARY: dict[Kind, str] = {
    "qa": "accuracy", "vqa": "bleu1", "report": "bleu1", "rec": "iou", "reg": "bleu1", "cls": "accuracy",
}  # fmt: skip
NOT_OK = ("errors", "unparsed", "refused", "truncated", "empty")
"""Why a sample has no answer; fields of `MetricResult`, and the same names in the same order everywhere."""
_PROBE_AMONG_RUNS = UsageError(
    "Some of the runs asked in another way (--probe).", "A probe is no result: see `medbench audit probe`."
)
_GIVEN_TWICE = UsageError("One run was given twice.", "Give each run once.")
_RUN_FILE = "run.yaml"
T = TypeVar("T")
Leaks = Mapping[str, frozenset[str]]
"""Tasks with evidence of a leak, by the identity of the run."""


def picked(record: object, names: Iterable[str]) -> dict[str, Any]:
    """Return some attributes of a record by name."""
    return {name: getattr(record, name) for name in names}


def primary_metric(kind: Kind, there: Container[str]) -> str | None:
    """Return a task's primary metric, or None if a protocol does not have it."""
    return PRIMARY[kind] if PRIMARY[kind] in there else None


def _in_order(order: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return names, each once, in an order; those that it does not have at the end."""
    there = set(names)
    return [name for name in order if name in there] + sorted(there.difference(order))


def in_catalogue_order(names: Iterable[str]) -> list[str]:
    """Return names of tasks, each once, in the order of the catalogue; those that it does not know at the end."""
    return _in_order(task_names(), names)


def in_table_order(task: str, kind: Kind, protocol: Protocol, names: Iterable[str]) -> list[str]:
    """Return ids of metrics, each once, in the order of the task's tables; those that it does not know at the end."""
    return _in_order(metric_ids(task, kind, protocol), names)


def mixture(runs: Sequence[Results], fit: int = 0, tasks: Container[str] | None = None) -> UsageError | None:
    """Return why runs may not share a table: suite, data, probe, definitions, one twice; None if they may.

    Of the first `fit` it is known that they may; a table may be of some `tasks` only.
    """
    if len(suites := {run.suite for run in runs}) > 1:
        return UsageError(
            f"The runs answered different suites: {', '.join(sorted(suites))}.",
            "The mini suite's numbers are never shown beside others; make one table of each suite.",
        )
    if len({run.probe for run in runs}) > 1:
        return _PROBE_AMONG_RUNS
    if len({run.run for run in runs}) < len(runs):
        return _GIVEN_TWICE
    for name in {name for run in runs[fit:] for name in run.tasks if tasks is None or name in tasks}:
        # Of those that are known to fit, one stands for all, but for metrics that not all of them have.
        one_of_them = _standing_for(name, runs[:fit])
        having = [run.tasks[name] for run in (*one_of_them, *runs[fit:]) if name in run.tasks]
        if (problem := _defined_apart(name, having)) is not None:
            return problem
        if len({task.data for task in having}) > 1:
            way_out = "Run them on the same prepared data, then compare."
            return UsageError(f"The runs answered different data of {name}.", way_out)
    return None


def _definitions(task: TaskResult) -> tuple[object, ...]:
    """Return what the metrics of a task are, without those that were asked for: not every run has these."""
    of_metrics = [sorted(task.metrics(protocol).items()) for protocol in PROTOCOLS]
    metrics = [
        [(name, definition_of(one.signature)) for name, one in found if one.traits is None] for found in of_metrics
    ]
    return (task.version, *map(tuple, metrics))


def _defined_apart(name: str, having: Sequence[TaskResult]) -> UsageError | None:
    if len(set(map(_definitions, having))) > 1:
        way_out = "Bring them up to date: medbench score RUN"
        return UsageError(f"The runs scored {name} by different definitions.", way_out)
    if different := _asked_differently(having):
        way_out = "Score them alike: medbench score RUN --metric NAME, with the same library and --metric-arg."
        return UsageError(f"The runs scored {name} by different definitions of {', '.join(different)}.", way_out)
    return None


def _standing_for(task: str, runs: Sequence[Results]) -> list[Results]:
    chosen: dict[tuple[str, ...], Results] = {}
    for run in runs:
        if task in run.tasks:
            chosen.setdefault(tuple(run.metrics), run)
    return list(chosen.values())


def _asked_differently(having: Sequence[TaskResult]) -> list[str]:
    """Return the metrics that were asked for and have several definitions."""
    found: dict[str, set[str]] = {}
    for name, one in (item for task in having for item in task.strict.items() if item[1].traits is not None):
        found.setdefault(name, set()).add(definition_of(one.signature))
    return sorted(name for name, definitions in found.items() if len(definitions) > 1)


def definition_of(signature: str) -> str:
    """Return a metric's signature without the count of samples, which belongs to a run."""
    return signature.rpartition("|n=")[0] or signature


def distinct_names(runs: Sequence[Results]) -> tuple[str, ...]:
    """Return the titles of the models, those that several runs share with the beginning of the run's identity."""
    titles = [run.title for run in runs]
    pairs = zip(titles, runs, strict=True)
    return tuple(title if titles.count(title) == 1 else f"{title} #{run.run[:6]}" for title, run in pairs)


def renamed(paths: Sequence[Path], runs: Sequence[Results], names: Mapping[str, str]) -> list[Results]:
    """Return runs whose models have other names: by the run's folder, its identity or the name that it has now.

    Raises UsageError if a name is of no run, or of several.
    """
    shown = distinct_names(runs)
    titles = [run.model.title for run in runs]
    calls = [
        {path.name, str(path), run.run, run.model.title, name}
        for path, run, name in zip(paths, runs, shown, strict=True)
    ]
    for given, name in names.items():
        places = [place for place, called in enumerate(calls) if given.rstrip("/") in called]
        if len(places) != 1:
            there = ", ".join(f"{path.name} ({name})" for path, name in zip(paths, shown, strict=True))
            which = "is no run of these" if not places else f"is {len(places)} runs"
            raise UsageError(f"--name {given}: {given!r} {which}.", f"There are {there}: give the folder's name.")
        if not name.strip():
            raise UsageError(f"--name {given}= gives an empty name.", f"Write --name {given}=NAME.")
        titles[places[0]] = name.strip()
    return [replace(run, model=replace(run.model, title=title)) for run, title in zip(runs, titles, strict=True)]


def notices_by_run(runs: Sequence[Results]) -> dict[str, list[int]]:
    """Return what must be said beside the numbers of runs, each once, with the places of the runs that say it."""
    told = dict.fromkeys(notice for run in runs for notice in run.notices)
    return {one: [place for place, run in enumerate(runs) if one in run.notices] for one in told}


def notices_of(runs: Sequence[Results], names: Sequence[str] = ()) -> list[str]:
    """Return the same as lines; what not all runs say with their names, by default those of `distinct_names`."""
    shown = names or distinct_names(runs)
    return [
        told if len(places) == len(runs) else f"{told} ({', '.join(shown[place] for place in places)})"
        for told, places in notices_by_run(runs).items()
    ]


def chosen_tasks(there: Collection[str], tasks: str | None) -> tuple[str, ...]:
    """Return those of the tasks at hand that a user named, a UsageError if there is none; all if none was named."""
    if tasks is None:
        return tuple(there)
    wanted = tuple(name for name in select_tasks(tasks) if name in there)
    if not wanted:
        raise UsageError(f"There is none of {tasks}.", f"There are {', '.join(there)}.")
    return wanted


class Gathered(NamedTuple):
    """Folders of runs that may stand side by side, their results, and what was left out with the reason."""

    paths: list[Path]
    runs: list[Results]
    skipped: list[tuple[Path, MedbenchError]]


def gather(given: Sequence[Path]) -> Gathered:
    """Return the runs among folders, and among the folders below those that are no runs themselves.

    Left out, with a line, is what is not finished or broken, and what may not share a table with the others, of which
    the most are shown. A folder that is named twice, a probe beside a run that is none, a path that leads nowhere, and
    that no run is left are errors.
    """
    if len({path.absolute() for path in given}) < len(given):
        raise _GIVEN_TWICE
    found = Gathered([], [], [])
    read: list[tuple[Path, Results]] = []
    for folder in (folder for path in given for folder in _folders_in(path, found)):
        try:
            read.append((folder, read_results(folder)))
        except MedbenchError as error:
            found.skipped.append((folder, error))
    # A probe in a folder is left out; one that was named was meant, and is no result.
    if len({results.probe for folder, results in read if folder in given}) > 1:
        raise _PROBE_AMONG_RUNS
    largest = max(grouped(read, _share_a_table), key=len, default=[])
    for folder, results in (*largest, *(one for one in read if one not in largest)):
        again = any(results.run == other.run for other in found.runs)
        problem = (
            UsageError(f"Run {results.run} is there already.")
            if again
            else mixture([*found.runs, results], len(found.runs))
        )
        if problem is None:
            found.paths.append(folder)
            found.runs.append(results)
        else:
            found.skipped.append((folder, problem))
    if not found.runs:
        if len(found.skipped) == 1:
            raise found.skipped[0][1]
        reasons = "; ".join(f"{path.name}: {error.problem}" for path, error in found.skipped)
        raise RunError(f"None of these is a finished run: {reasons}", "Give folders of finished runs.")
    for path, why in found.skipped:
        warn(f"Not shown: {path}: {why.problem.removeprefix(f'{path} ')} {why.hint}".rstrip())
    return found


def _share_a_table(group: Sequence[tuple[Path, Results]], one: tuple[Path, Results]) -> bool:
    others = {results.run: results for _, results in group if results.run != one[1].run}.values()
    return not any(results.probe for results in (*others, one[1])) and mixture([*others, one[1]], len(others)) is None


def grouped(found: Iterable[T], fits: Callable[[Sequence[T], T], bool]) -> list[list[T]]:
    """Return groups of what fits together: each joins the first group that takes it."""
    groups: list[list[T]] = []
    for one in found:
        home = next((group for group in groups if fits(group, one)), [])
        groups += [] if home else [home]
        home.append(one)
    return groups


def _folders_in(path: Path, found: Gathered) -> Iterator[Path]:
    if (path / _RUN_FILE).is_file() or (path / RESULTS_FILE).is_file():
        yield path
        return
    if not path.exists():
        raise RunError(f"{path} is no run: there is no such folder.", "Give folders that `medbench run` made.")
    below = run_folders(path) if path.is_dir() else []
    if not below:
        found.skipped.append((path, RunError(f"{path} is no run: it has no {_RUN_FILE}.")))
    yield from below


def run_folders(folder: Path) -> list[Path]:
    """Return what looks like the folder of a run in a folder and below it, in an order that is not the disk's."""
    return sorted(file.parent for file in folder.rglob(_RUN_FILE) if file.is_file())


def leaks_of(paths: Sequence[Path], runs: Sequence[Results]) -> dict[str, frozenset[str]]:
    """Return the tasks with evidence of a leak by audited run; a DataError if an audit is broken or another's."""
    found = {}
    for file, run in ((path / AUDIT_FILE, run) for path, run in zip(paths, runs, strict=True)):
        if file.is_file():
            document = read_json(file)
            if not isinstance(_part(document, "verdicts"), dict) or document.get("run") != run.run:
                raise DataError(f"{file} is no audit of this run.", "Make it again: medbench audit model RUN")
            found[run.run] = leaked_in(document)
    return found


def _part(document: object, name: str) -> object:
    return document.get(name) if isinstance(document, dict) else None


def leaked_in(audit: object) -> frozenset[str]:
    """Return the tasks of which an audit's verdict speaks of a leak."""
    verdicts = _part(audit, "verdicts")
    pairs = verdicts.items() if isinstance(verdicts, dict) else ()
    return frozenset(task for task, verdict in pairs if verdict in ("suspicious", "strong"))


def overlaps_in(file: Path) -> frozenset[str]:
    """Return the tasks that an audit of the data marked: their test and training data overlap."""
    marks = _part(read_json(file), "marks")
    if not isinstance(marks, dict):
        raise DataError(f"{file} is no audit of data.", "Make one: medbench audit data --output DIR")
    return frozenset(task for task, mark in marks.items() if mark)


def is_credentialed(results: Results, task: str) -> bool:
    """Return whether the data of a task of a run count as under a signed agreement, so that nobody is shown them."""
    return needs_agreement(task) and not _is_bundled(results, task)


def terms_of(results: Results, task: str) -> Terms:
    """Return what may be passed on of a task of a run: by the fingerprint of its data, and what their owner said."""
    found = results.tasks[task]
    return terms_of_data(task, found.data, bundled=_is_bundled(results, task), licence=found.licence)


def _is_bundled(results: Results, task: str) -> bool:
    """Return whether a run answered the mini suite's own samples: a folder may hold them beside real data."""
    return results.suite == "mini" and task in TASKS and _bundled_data().get(task) == results.tasks[task].data


@cache
def _bundled_data() -> Mapping[str, str]:
    folder = prepare_mini_suite()
    return {name: load_prepared(folder, name).manifest.data_fingerprint for name in prepared_names(folder)}
