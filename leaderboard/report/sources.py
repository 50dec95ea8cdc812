"""What a report is made of: the folders of its runs, and the prepared data where they are still to be found."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medbench.harness.results import Results, read_results
from medbench.harness.rundir import RunDirectory, read_run
from medbench.leaderboard.runs import AUDIT_FILE, in_catalogue_order, is_credentialed
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import JsonObject, read_json, read_numbered_json_lines
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.suite import prepare_mini_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One run; only its results must be there, `missing` tells people what else is not."""

    results: Results
    tables: Mapping[str, ScoreTable] = field(default_factory=dict)
    generations: Mapping[str, Mapping[str, JsonObject]] = field(default_factory=dict)  # lines by task and sample
    document: Mapping[str, Any] = field(default_factory=dict)  # run.yaml
    environment: Mapping[str, Any] | None = None  # env.json
    audit: Any = None  # audit/audit.json
    missing: Sequence[str] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the user asked for."""
        settings = self.document.get("settings")
        return settings if isinstance(settings, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    """The prepared data of one task, as far as they are there; `missing` says why they are not."""

    spec: TaskSpec | None  # None for a task that this installation does not know
    samples: Mapping[str, Sample]
    folder: Path | None  # what its images are relative to
    withheld: bool  # texts and images are left out, since access to them needs a signed agreement
    missing: str = ""


def tasks_of(runs: Sequence[RunSource]) -> list[str]:
    """Return the tasks that any of the runs has, in catalogue order."""
    return in_catalogue_order(name for run in runs for name in run.results.tasks)


def read_run_source(path: Path) -> RunSource:
    """Read the folder of a run; raises like `read_results`."""
    results = read_results(path)
    missing: list[str] = []
    tables: dict[str, ScoreTable] = {}
    generations: dict[str, dict[str, JsonObject]] = {}
    for task in results.tasks:
        what = f"Samples of {task}"
        try:
            tables[task] = read_score_table(path, results, task)
            what = f"Raw answers to {task}"
            generations[task] = _read_generations(RunDirectory(path=path, identity=results.run), task)
        except MedbenchError as error:
            missing.append(f"{what}: {_without(path, error)}")
    document, environment = _optional(path, "run.yaml", missing), _optional(path, "env.json", missing)
    audit = _optional(path, str(AUDIT_FILE), missing) if (path / AUDIT_FILE).is_file() else None
    return RunSource(
        results=results, tables=tables, generations=generations, audit=audit, missing=missing,
        document=document if isinstance(document, dict) else {},
        environment=environment if isinstance(environment, dict) else None,
    )  # fmt: skip


def _optional(path: Path, name: str, missing: list[str]) -> Any:  # noqa: ANN401 - a document may hold anything
    try:
        return read_run(path) if name == "run.yaml" else read_json(path / name)
    except (MedbenchError, ValueError, RecursionError) as error:
        missing.append(f"{name}: {_without(path, error)}")
        return None


def _without(path: Path, error: Exception) -> str:
    """Return what is wrong without the way to a folder, which is nobody's business who reads a report."""
    problem = error.problem if isinstance(error, MedbenchError) else str(error)
    return problem.replace(f"{path}/", "").replace(str(path), "the folder")


def _read_generations(directory: RunDirectory, task: str) -> dict[str, JsonObject]:
    path = directory.generations(task, ()).path
    if not path.is_file():
        raise DataError(f"{path} is missing.")
    return {str(line.get("sample_id")): line for _, line in read_numbered_json_lines(path, torn_tail="drop")}


def read_task_source(task: str, runs: Sequence[RunSource], data_dir: Path | None, *, reveal: bool) -> TaskSource:
    """Find the prepared data that runs answered, in `data_dir` or where they were.

    Unless `reveal`, texts and images of credentialed data are withheld.
    """
    run = next(run for run in runs if task in run.results.tasks)
    spec = None
    with suppress(UsageError):
        spec = get_task(task)
    samples: Mapping[str, Sample] = {}
    folder, missing = data_dir, ""
    try:
        folder = data_dir or _data_dir(run)
        prepared = load_prepared(folder, task)
        if prepared.manifest.data_fingerprint != run.results.tasks[task].data:
            raise DataError("The prepared data are not those that the run answered.")
        samples = {sample.sample_id: sample for sample in prepared.samples("test")}
        folder = prepared.source
    except MedbenchError as error:
        missing = error.problem if folder is None else _without(folder, error)
        folder, samples = None, {}
    withheld = not reveal and is_credentialed(run.results, task)
    return TaskSource(spec=spec, samples=samples, folder=folder, withheld=withheld, missing=missing)


def _data_dir(run: RunSource) -> Path:
    named = run.settings.get("data_dir")
    if isinstance(named, str):
        if not Path(named).is_dir():
            raise DataError("The prepared data are no longer where the run found them.")
        return Path(named)
    if run.results.suite == "mini":
        return prepare_mini_suite()
    raise DataError("The run does not say where its prepared data are.")
