"""A run as it may be shown to anybody: its numbers, and its scores by sample as far as each task's terms go."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from medbench.harness.results import MetricResult, Results, TaskResult, read_results
from medbench.harness.rundir import read_run
from medbench.leaderboard.credentialed import terms_of
from medbench.leaderboard.export.scrub import Scrubber, machine_scrubber
from medbench.leaderboard.score_table import ItemScore, ScoreRecord, read_score_table
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.protocols import Protocol, State
from medbench.tasks.terms import Terms

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESULTS = TypeAdapter(Results)
_PATHS = ("checkpoint", "data_dir", "output_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRun:
    """A run with everything that is needed to publish it.

    Attributes:
        path: Its folder.
        results: Its results, without paths, servers and secrets.
        settings: Its `run.yaml` as it lies there.
        terms: By task.
        scrubber: What is known of the machine.
    """

    path: Path
    results: Results
    settings: Mapping[str, Any]
    terms: Mapping[str, Terms]
    scrubber: Scrubber


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicScore:
    """The scores of one sample, as far as they may be passed on.

    Attributes:
        sample_id: Name of the sample; a running number where names are under an agreement.
        cluster: What ties samples together; a running number likewise.
        state: State of the answer.
        prediction: The answer as it was read; None where texts stay here.
        box: The box that was read, in pixels; None where there is none or texts stay here.
        labels: The dataset's labels; None where texts stay here.
        paper: Scores by metric under the paper's protocol.
        strict: Scores by metric under the strict protocol.
    """

    sample_id: str
    cluster: str
    state: State
    prediction: str | None
    box: tuple[float, float, float, float] | None
    labels: Mapping[str, str] | None
    paper: Mapping[str, ItemScore]
    strict: Mapping[str, ItemScore]

    def scores(self, protocol: Protocol) -> Mapping[str, ItemScore]:
        """Return the scores under a protocol by metric; metrics that do not apply are absent."""
        return self.paper if protocol == "paper" else self.strict


def read_public(path: Path, environment: Mapping[str, str] | None = None) -> PublicRun:
    """Return a finished run as it may be shown.

    Args:
        path: Its folder.
        environment: Variables of the shell, whose secrets are kept back; this process's own by default.

    Raises:
        RunError: If the folder is no finished run, or its results are another's.
        DataError: If its results are malformed.
    """
    results, settings = read_results(path), read_run(path)
    _refuse_foreign(path, results, settings)
    scrubber = machine_scrubber(
        [path, path.absolute().parent, *_named_paths(settings.get("settings", {}))], environment
    )
    return PublicRun(
        path=path,
        results=public_results(results, scrubber),
        settings=settings,
        terms={task: terms_of(results, task) for task in results.tasks},
        scrubber=scrubber,
    )


def _refuse_foreign(path: Path, results: Results, settings: Mapping[str, Any]) -> None:
    """Refuse results whose names, which become names of files, are not those that a run gives."""
    if results.run != settings["identity"]:
        raise RunError(f"The results in {path} are those of another run.", f"Score it again: medbench score {path}")
    odd = [task for task in results.tasks if not _TASK.fullmatch(task)]
    if odd:
        raise DataError(
            f"The results in {path} name a task {odd[0]!r}, which is no name.", "Put back the run's own file."
        )


def _named_paths(settings: Mapping[str, Any]) -> list[Path]:
    named = [settings.get(name) for name in _PATHS] + list((settings.get("checkpoint_for") or {}).values())
    named.append(str(settings.get("model", "")).partition(":")[2])
    return [Path(path) for path in named if isinstance(path, str) and Path(path).is_absolute()]


def public_results(results: Results, scrubber: Scrubber) -> Results:
    """Return results without paths of the machine, servers and secrets; every number stays as it is."""
    model = replace(
        results.model,
        name=scrubber.model(results.model.name),
        title=scrubber.model(results.model.title),
        weights=scrubber.text(results.model.weights),
        device=scrubber.text(results.model.device),
    )
    return replace(
        results,
        model=model,
        notices=tuple(scrubber.text(notice) for notice in results.notices),
        tasks={name: _public_task(task, scrubber) for name, task in results.tasks.items()},
    )


def _public_task(task: TaskResult, scrubber: Scrubber) -> TaskResult:
    def public(metrics: Mapping[str, MetricResult]) -> dict[str, MetricResult]:
        return {name: replace(metric, signature=scrubber.text(metric.signature)) for name, metric in metrics.items()}

    return replace(
        task, title=scrubber.text(task.title), licence=scrubber.text(task.licence), paper=public(task.paper),
        strict=public(task.strict),
    )  # fmt: skip


def results_text(results: Results) -> str:
    """Return results as `results.json` holds them."""
    return canonical_json(_RESULTS.dump_python(results, mode="json"), indent=2) + "\n"


def read_public_scores(run: PublicRun, task: str) -> list[PublicScore]:
    """Return the scores of a task by sample, in the order of the task; raises like `read_score_table`."""
    records = read_score_table(run.path, run.results, task).records
    return public_scores(records, task, run.terms[task], run.scrubber)


def public_scores(records: Sequence[ScoreRecord], task: str, terms: Terms, scrubber: Scrubber) -> list[PublicScore]:
    """Return what the terms of a task leave of its scores."""
    clusters = {group: number for number, group in enumerate(dict.fromkeys(record.group for record in records), 1)}
    closed, texts = terms.openness == "closed", terms.openness == "open"
    return [
        PublicScore(
            sample_id=f"{task}/{number:06d}" if closed else scrubber.known(record.sample_id),
            cluster=f"{task}/cluster-{clusters[record.group]:06d}" if closed else scrubber.known(record.group),
            state=record.state,
            prediction=scrubber.known(record.prediction) if texts else None,
            box=record.box if texts else None,
            labels={name: scrubber.known(label) for name, label in record.labels.items()} if texts else None,
            paper=record.paper,
            strict=record.strict,
        )
        for number, record in enumerate(records, 1)
    ]
