"""The end of a run, whoever answered it: score, write `results.json`, `env.json` and the pages, and then `done`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medbench.adapters.catalog import ChosenModel
from medbench.harness.failing import Failed, Watch, kinds_of, tell
from medbench.harness.identity import write_environment
from medbench.harness.models import ModelFacts
from medbench.harness.phases import Phases
from medbench.harness.results import RESULTS_FILE, Imported, Results, felt_limits, read_results, write_results
from medbench.harness.rundir import RunDirectory
from medbench.harness.score import Scores, rescore, score_tasks
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.metrics.asked import notices_of, read_asked

Publish = Callable[[Path], None]
PAGE, REPORT, AUDIT = "leaderboard.md", "report.html", "audit/audit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended."""

    path: Path  # Folder of the run.
    results: Results  # Its numbers.
    phases: Phases | None  # Where the time went; None if everything was there already.


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A run whose samples all have a record."""

    settings: Settings
    workload: Workload
    model: ChosenModel
    facts: ModelFacts
    phases: Phases
    failures: Sequence[Failed]  # The samples that got no answer.
    shards: Mapping[str, Any] = field(default_factory=dict)  # What env.json says of each shard, if there were some.
    again: str = "The same command tries them again."
    imported: Imported | None = None  # Where the answers come from, if they are somebody else's.

    def finish(self, directory: RunDirectory, publish: Publish) -> RunOutcome:
        """Score the answers and write all that is made of them, and `done` when nothing of it is missing.

        RunError, before anything is scored, if more samples failed than may; and for tasks that could not be scored,
        pages that could not be written, and a folder that is gone.
        """
        loads = self.workload.answerable(self.facts.kinds)
        complete = Watch.of(self.settings, loads, directory.path).judge(self.failures)
        if self.failures:
            self.phases.notes["errors"] = kinds_of(self.failures)
        with self.phases.time("score"):
            results, scores = self._score(directory)
        write_environment(directory.path / "env.json", self.facts.info, self.phases, self.shards)
        publish(directory.path)
        directory.refuse_if_gone(results.tasks)
        if complete and not scores.failed:
            write_atomically(directory.path / "done", f"{directory.identity}\n")
        tell(
            self.failures, "The run is complete with them. --retry-errors asks them again." if complete else self.again
        )
        kept = f"The numbers of the other tasks are in {directory.path}; the same command scores again."
        scores.raise_if_failed(kept)
        return RunOutcome(path=directory.path, results=results, phases=self.phases)

    def _score(self, directory: RunDirectory) -> tuple[Results, Scores]:
        """Score what was generated and write `scores/` and `results.json`."""
        loads = self.workload.answerable(self.facts.kinds)
        wanted = {**_metrics_before(directory), **self.settings.metrics}
        asked = read_asked(wanted)
        scores = score_tasks(loads, directory, self.model, asked)
        if not scores.tasks:
            scores.raise_if_failed("The answers are kept.")
        for notice in scores.notices():
            warn(notice)
        known = (*self.workload.notices, *self.facts.notices, *notices_of(asked))
        notices = (*known, *scores.notices(), *felt_limits(scores.tasks))
        results = Results(
            run=directory.identity, model=self.facts.info, suite=self.workload.suite, limit=self.settings.limit,
            seed=self.settings.seed, notices=tuple(dict.fromkeys(notices)), tasks=scores.tasks,
            unsupported=tuple(load.spec.name for load in self.workload.loads if load not in loads),
            probe=self.settings.probe, imported=self.imported, metrics=wanted,
        )  # fmt: skip
        write_results(directory.path / RESULTS_FILE, results)
        return results, scores


def _metrics_before(directory: RunDirectory) -> Mapping[str, Mapping[str, str]]:
    """Return what was asked for when the run was scored before; nothing if it was not."""
    with suppress(MedbenchError):
        return read_results(directory.path).metrics
    return {}


def finished(
    directory: RunDirectory, publish: Publish, metrics: Mapping[str, Mapping[str, str]] | None = None,
    data_dir: Path | None = None,
) -> RunOutcome | None:  # fmt: skip
    """Return how a run ended that is done, or None if something is left to answer or to score.

    Pages that are missing are made again: a run that wrote none, or from which they were taken, does not pass as whole.
    By `metrics` that it was not scored by it is scored now; `data_dir` is where its tasks are.
    """
    path, results = directory.path, _whole_results(directory)
    if results is None:
        return None
    missing = [page for page in (PAGE, REPORT, AUDIT) if not (path / page).exists()]
    lacks = {name: one for name, one in (metrics or {}).items() if results.metrics.get(name) != one}
    if lacks:
        say(f"{path} is complete; scored now by {', '.join(lacks)}.")
        results = rescore(path, data_dir, lacks)
    elif missing:
        say(f"{path} is complete but for {', '.join(missing)}, written now.")
    if lacks or missing:
        publish(path)
    return RunOutcome(path=path, results=results, phases=None)


def _whole_results(directory: RunDirectory) -> Results | None:
    if (directory.path / "done").exists():
        with suppress(MedbenchError):
            results = read_results(directory.path)
            directory.refuse_if_gone(results.tasks)
            if results.run == directory.identity and all(map(Path.exists, map(directory.scores, results.tasks))):
                return results
    return None
