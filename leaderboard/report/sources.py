"""What a report is made of: the folders of its runs, and the prepared data where they are still to be found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medbench.harness.results import Results, read_results
from medbench.harness.rundir import RunDirectory, read_run
from medbench.leaderboard.credentialed import is_credentialed
from medbench.leaderboard.score_table import ScoreTable, read_score_table
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import read_json, read_numbered_json_lines
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.suite import prepare_mini_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a record of a generation adds to the score of its sample.

    Attributes:
        text: Raw text of the model.
        stop: Why it ended.
        tokens: Tokens written.
        error: Why the sample failed; empty otherwise.
    """

    text: str
    stop: str
    tokens: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One run.

    Attributes:
        results: Its numbers.
        tables: Its scores by task.
        generations: By task and sample.
        document: Its `run.yaml`; empty where there is none.
        environment: Its `env.json`; None where there is none.
        audit: Its `audit/audit.json`; None where there is none.
        missing: What a report should hold and does not, for people.
    """

    results: Results
    tables: Mapping[str, ScoreTable]
    generations: Mapping[str, Mapping[str, Said]]
    document: Mapping[str, Any]
    environment: Mapping[str, Any] | None
    audit: Any
    missing: tuple[str, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the user asked for."""
        settings = self.document.get("settings")
        return settings if isinstance(settings, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    """The prepared data of one task, as far as they are there.

    Attributes:
        spec: Its declaration; None for a task that this installation does not know.
        samples: By id; empty where the data are gone.
        folder: What its images are relative to; None where the data are gone.
        withheld: Whether its texts and images are left out, since access to them needs a signed agreement.
        missing: Why samples are not there; empty if they are.
    """

    spec: TaskSpec | None
    samples: Mapping[str, Sample]
    folder: Path | None
    withheld: bool
    missing: str = ""


def read_run_source(path: Path) -> RunSource:
    """Read the folder of a run; only its results must be there.

    Raises:
        RunError: If the folder is no run, or was not scored yet.
        DataError: If its results are malformed.
    """
    results = read_results(path)
    missing: list[str] = []
    tables: dict[str, ScoreTable] = {}
    generations: dict[str, dict[str, Said]] = {}
    for task in results.tasks:
        try:
            tables[task] = read_score_table(path, results, task)
        except MedbenchError as error:
            missing.append(f"Samples of {task}: {_without(path, error)}")
            continue
        try:
            generations[task] = _read_generations(RunDirectory(path=path, identity=results.run), task)
        except MedbenchError as error:
            missing.append(f"Raw answers to {task}: {_without(path, error)}")
    document, environment = _optional(path, "run.yaml", missing), _optional(path, "env.json", missing)
    audit_there = (path / "audit" / "audit.json").is_file()
    return RunSource(
        results=results,
        tables=tables,
        generations=generations,
        document=document if isinstance(document, dict) else {},
        environment=environment if isinstance(environment, dict) else None,
        audit=_optional(path, "audit/audit.json", missing) if audit_there else None,
        missing=tuple(missing),
    )


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


def _read_generations(directory: RunDirectory, task: str) -> dict[str, Said]:
    path = directory.generations(task, ()).path
    if not path.is_file():
        raise DataError(f"{path} is missing.")
    found = {}
    for _, line in read_numbered_json_lines(path, torn_tail="drop"):
        tokens = line.get("output_tokens")
        found[str(line.get("sample_id"))] = Said(
            text=str(line.get("text", "")),
            stop=str(line.get("stop", "")),
            tokens=tokens if isinstance(tokens, int) else 0,
            error=str(line.get("error", "")),
        )
    return found


def read_task_source(task: str, runs: Sequence[RunSource], data_dir: Path | None, *, reveal: bool) -> TaskSource:
    """Find the prepared data that runs answered.

    Args:
        task: Name of the task.
        runs: Runs of the same data, one of which has the task.
        data_dir: Where the prepared tasks are now, if not where the runs found them.
        reveal: Whether texts and images of credentialed data may be shown.
    """
    run = next(run for run in runs if task in run.results.tasks)
    spec = _known(task)
    withheld = not reveal and is_credentialed(run.results, task)
    try:
        there = data_dir or _data_dir(run)
    except MedbenchError as error:
        return TaskSource(spec=spec, samples={}, folder=None, withheld=withheld, missing=error.problem)
    try:
        samples, folder = _read_samples(task, run.results.tasks[task].data, there)
    except MedbenchError as error:
        return TaskSource(spec=spec, samples={}, folder=None, withheld=withheld, missing=_without(there, error))
    return TaskSource(spec=spec, samples=samples, folder=folder, withheld=withheld)


def _known(task: str) -> TaskSpec | None:
    try:
        return get_task(task)
    except UsageError:
        return None


def _read_samples(task: str, fingerprint: str, data_dir: Path) -> tuple[dict[str, Sample], Path]:
    prepared = load_prepared(data_dir, task)
    if prepared.manifest.data_fingerprint != fingerprint:
        raise DataError("The prepared data are not those that the run answered.")
    return {sample.sample_id: sample for sample in prepared.samples("test")}, prepared.source


def _data_dir(run: RunSource) -> Path:
    named = run.settings.get("data_dir")
    if isinstance(named, str):
        if not Path(named).is_dir():
            raise DataError("The prepared data are no longer where the run found them.")
        return Path(named)
    if run.results.suite == "mini":
        return prepare_mini_suite()
    raise DataError("The run does not say where its prepared data are.")
