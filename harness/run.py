"""The main path on one page: load, plan, generate, score, publish."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from medbench.adapters.base import Adapter
from medbench.adapters.catalog import ChosenModel, choose_model
from medbench.adapters.function import Answering, own_model
from medbench.harness import models
from medbench.harness.answering import Answerers, InThisProcess, Told
from medbench.harness.generate import generate, make_plan
from medbench.harness.identity import run_identity, write_environment
from medbench.harness.models import ModelFacts, Share
from medbench.harness.phases import Phases
from medbench.harness.results import RESULTS_FILE, Results, felt_limits, read_results, write_results
from medbench.harness.rundir import RunDirectory, held_before_loading, open_run
from medbench.harness.score import Scores, score_tasks
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.console import Listener, heard_by, say, warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.metrics.meteor import start_meteor

Publish = Callable[[Path], None]
PAGE = "leaderboard.md"
REPORT = "report.html"
# Writes the pages of runs; named, not imported, since the leaderboard is built on the harness.
PAGES = "medbench.leaderboard.pages"
# Writes the pages of a run's folder from its `results.json`.
publish_run: Publish = imported_when_called(f"{PAGES}:publish_run")
# Writes one leaderboard of several runs into a folder, and shows it.
publish_together: Callable[[Sequence[Path], Path], None] = imported_when_called(f"{PAGES}:publish_together")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended."""

    path: Path  # Folder of the run.
    results: Results  # Its numbers.
    phases: Phases | None  # Where the time went; None if everything was there already.


def run(
    settings: Settings, publish: Publish = publish_run, *, adapter: Adapter | Answering | None = None, boxes: str = "",
    overwrite: str = "never", workload: Workload | None = None, listener: Listener | None = None,
) -> RunOutcome:  # fmt: skip
    """Run a model over tasks; the same settings continue what an interrupted run left.

    The model may be given itself, as `adapter`, instead of by `settings.model`, which is only its name then: an adapter
    that is loaded, or a function that returns the text of an answer (`medbench.adapters.function` says what it is
    given). Another function is another run, and so is the same one with another source. `boxes` is how such a model
    writes boxes: `pixels` by default, see `medbench.tasks.answers.box_space`.

    `publish` writes the pages of a run's folder from its `results.json`; `overwrite` is `never`, or `always` to start
    afresh; `workload` are its tasks, if they were read already; `listener` hears what is said meanwhile, the terminal
    by default. Raises a MedbenchError for whatever keeps the run from going on; what was answered is on disk.
    """
    phases = Phases()
    with nullcontext() if listener is None else heard_by(listener):
        with phases.time("load"):
            if adapter is None:
                model = choose_model(settings.model, settings.model_args)
            else:
                model = own_model(adapter, settings.model, boxes)
            if workload is None:
                workload = load_workload(settings)
                workload.say_left_out()
        # What was said by a kind, a pattern or `prepared` means the same tasks when run.yaml is run again.
        settings = replace(settings, tasks=workload.names)
        own = adapter is not None
        with (
            held_before_loading(settings, workload, model),
            answerers(settings, workload, model, phases, own=own) as answering,
        ):
            return _Run(settings, workload, model, phases, answering, own=own)(publish, overwrite)


def answerers(settings: Settings, workload: Workload, model: ChosenModel, phases: Phases, *, own: bool) -> Answerers:
    """Return who answers: this process, or workers, to whom a user's `own` object cannot be sent."""
    if settings.workers is None:
        return InThisProcess(settings, workload, model, phases)
    if own:
        problem = "A model that is given as an object cannot be sent to workers."
        raise UsageError(problem, "Leave `workers` out, or make the model a plugin, which has a name.")
    from medbench.harness.workers.hiring import hired

    return hired(settings, workload, model, phases)


@dataclass
class _Run:
    """One run under way."""

    settings: Settings
    workload: Workload
    model: ChosenModel
    phases: Phases
    answering: Answerers
    own: bool = field(kw_only=True)

    def __call__(self, publish: Publish, overwrite: str) -> RunOutcome:
        with self.phases.time("load"):
            shares = models.shares_of(self.settings, self.workload)
            first = self.answering.told(shares[0])
        for notice in (*self.workload.notices, *first.facts.notices):
            warn(notice)
        with self.phases.time("load"):
            parts = self._identity(shares, first)
        with open_run(self.settings, self.workload.suite, parts, overwrite=overwrite) as directory:
            finished = finished_results(directory)
            if finished is not None:
                say(f"{directory.path} is complete; nothing to do. Start afresh with --overwrite always.")
                return RunOutcome(path=directory.path, results=finished, phases=None)
            self._start_scorer_early()
            failures: list[str] = []
            facts = models.merged([(share, self._answer(share, directory, failures)) for share in shares])
            with self.phases.time("score"):
                results, scores = self._score(facts, directory)
            write_environment(directory.path / "env.json", facts.info, self.phases)
            publish(directory.path)
            if not failures and not scores.failed:
                write_atomically(directory.path / "done", f"{directory.identity}\n")
        if failures:
            warn(f"{len(failures)} samples failed and are counted as errors. The first: {failures[0]}")
            say("The same command tries them again.")
        kept = f"The numbers of the other tasks are in {directory.path}; the same command scores again."
        scores.raise_if_failed(kept)
        return RunOutcome(path=directory.path, results=results, phases=self.phases)

    def _identity(self, shares: Sequence[Share], first: Told) -> dict[str, object]:
        """Return what makes this run another one; of several checkpoints their files, since they come one by one."""
        weights = models.files_of(shares) if len(shares) > 1 else first.facts.info.weights
        return run_identity(
            self.settings, self.workload, first.facts.info, self.model, weights=weights, made_of=first.made_of,
            own=self.own, engine=first.engine,
        )  # fmt: skip

    def _start_scorer_early(self) -> None:
        # METEOR reads a 62 MB table before its first pair; it does so while the model writes. What keeps it from
        # starting is said where it is needed, and keeps no other task from its numbers.
        if self.workload.answerable({"report"}):
            with suppress(MedbenchError):
                start_meteor()

    def _answer(self, share: Share, directory: RunDirectory, failures: list[str]) -> ModelFacts:
        """Answer the tasks of a share, and note the error of each sample that failed."""
        with self.phases.time("load"):
            told = self.answering.told(share)
        if self.settings.checkpoint_for:
            say(f"{share.checkpoint}: {', '.join(share.tasks)}")
            models.refuse_other_weights(directory.path / "weights.json", share, told.facts.info.weights)
        plan = make_plan(self.workload.only(share.tasks).answerable(told.facts.kinds), directory)
        failures += generate(plan, self.answering.outcomes(share, plan, directory), directory, self.phases)
        return self.answering.facts(share)

    def _score(self, facts: ModelFacts, directory: RunDirectory) -> tuple[Results, Scores]:
        """Score what was generated and write `scores/` and `results.json`."""
        loads = self.workload.answerable(facts.kinds)
        scores = score_tasks(loads, directory, self.model)
        if not scores.tasks:
            scores.raise_if_failed("The answers are kept.")
        for notice in scores.notices():
            warn(notice)
        notices = (*self.workload.notices, *facts.notices, *scores.notices(), *felt_limits(scores.tasks))
        results = Results(
            run=directory.identity, model=facts.info, suite=self.workload.suite, limit=self.settings.limit,
            seed=self.settings.seed, notices=tuple(dict.fromkeys(notices)), tasks=scores.tasks,
            unsupported=tuple(load.spec.name for load in self.workload.loads if load not in loads),
            probe=self.settings.probe,
        )  # fmt: skip
        write_results(directory.path / RESULTS_FILE, results)
        return results, scores


def finished_results(directory: RunDirectory) -> Results | None:
    """Return the results of a run that is done, or None if something is left to do."""
    if (directory.path / "done").exists() and (directory.path / PAGE).exists():
        with suppress(MedbenchError):
            results = read_results(directory.path)
            return results if results.run == directory.identity else None
    return None
