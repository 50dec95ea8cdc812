"""The main path on one page: load, plan, generate, score, publish."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from medbench.adapters.base import Adapter
from medbench.adapters.catalog import ChosenModel, choose_model
from medbench.adapters.function import Answering, own_model
from medbench.harness import models, shards
from medbench.harness.answering import Answerers, InThisProcess, Told
from medbench.harness.failing import Failed, Watch, counted, failures_of, tell
from medbench.harness.finish import Answers, Publish, RunOutcome, finished
from medbench.harness.generate import again, generate, make_plan
from medbench.harness.identity import run_identity
from medbench.harness.merging import Merger, take_in
from medbench.harness.models import ModelFacts, Share
from medbench.harness.phases import Phases
from medbench.harness.rundir import BusyError, RunDirectory, held_before_loading, open_run, shards_at_work
from medbench.harness.score import Reopened
from medbench.harness.settings import Settings
from medbench.harness.shards import Shard
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.console import Listener, heard_by, say, warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.metrics.asked import notices_of, read_asked, refuse_useless
from medbench.tasks.metrics.meteor import start_meteor

# Writes the pages of runs; named, not imported, since the leaderboard is built on the harness.
PAGES = "medbench.leaderboard.pages"
# Writes the pages of a run's folder from its `results.json`.
publish_run: Callable[..., None] = imported_when_called(f"{PAGES}:publish_run")
# Writes one leaderboard of several runs, named by folder, into a folder, and shows it.
publish_together: Callable[..., None] = imported_when_called(f"{PAGES}:publish_together")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """How a shard ended whose run still misses others: the last of them merges all."""

    path: Path  # Folder of the run.
    phases: Phases  # Where the time went.
    failed: bool  # Whether it has samples and all of them failed.


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
    heard = nullcontext() if listener is None else heard_by(listener)
    with heard, _begun(settings, workload, adapter, boxes) as this:
        return this.whole(publish, overwrite)


def run_shard(
    settings: Settings, shard: Shard, publish: Publish = publish_run, *, workload: Workload | None = None
) -> RunOutcome | ShardOutcome:
    """Answer one shard of a run; the one that finds all samples recorded when it ends merges, scores and publishes.

    The others may be answered meanwhile, by other processes on other machines that see the same output folder, or
    later. Arguments and errors are those of `run`.
    """
    with _begun(settings, workload, shard=shard) as this:
        return this.one_shard(shard, publish)


@contextmanager
def _begun(
    settings: Settings, workload: Workload | None, own: Adapter | Answering | None = None, boxes: str = "",
    shard: Shard | None = None,
) -> Iterator["_Run"]:  # fmt: skip
    """Read the tasks and hold the output folder; the model is loaded when it is needed, and leaves at the end."""
    phases = Phases()
    with phases.time("load"):
        if own is None:
            model = choose_model(settings.model, settings.model_args)
        else:
            model = own_model(own, settings.model, boxes)
        if workload is None:
            workload = load_workload(settings)
            workload.say_left_out()
    # What was said by a kind, a pattern or `prepared` means the same tasks when run.yaml is run again.
    settings = replace(settings, tasks=workload.names)
    asked = read_asked(settings.metrics)
    for line in (*refuse_useless(asked, [load.spec for load in workload.loads]), *notices_of(asked)):
        warn(line)
    with (
        held_before_loading(settings, workload, model, shard.name if shard else ""),
        answerers(settings, workload, model, phases, own=own is not None) as answering,
    ):
        yield _Run(settings, workload, model, phases, answering, own=own is not None)


def answerers(settings: Settings, workload: Workload, model: ChosenModel, phases: Phases, *, own: bool) -> Answerers:
    """Return who answers: this process, or workers, to whom a user's `own` object cannot be sent."""
    if settings.workers is None:
        return InThisProcess(settings, workload, model, phases, own=own)
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
    asked: Workload = field(init=False)  # What this process answers of the workload.

    def __post_init__(self) -> None:
        self.asked = self.workload

    def whole(self, publish: Publish, overwrite: str) -> RunOutcome:
        """Answer all that is left of the run, what its shards left included, score it and publish."""
        shares, first, parts = self._known()
        with open_run(self.settings, self.workload.suite, parts, overwrite=overwrite) as run:
            if not self._opens_again(run, first) and (outcome := self._finished(run, publish)) is not None:
                return outcome
            self._start_scorer_early()
            take_in(run, self.workload.answerable(first.kinds))
            facts, failures = self._answer_all(shares, run, run)
            self.answering.leave()
            answers = Answers(
                settings=self.settings, workload=self.workload, model=self.model, facts=facts, phases=self.phases,
                failures=failures,
            )  # fmt: skip
            return answers.finish(run, publish)

    def one_shard(self, shard: Shard, publish: Publish) -> RunOutcome | ShardOutcome:
        """Answer what is left of a shard; merge, score and publish if that was all that was missing of the run."""
        shares, first, parts = self._known()
        opened = partial(open_run, self.settings, self.workload.suite, parts, shard=True)
        with ExitStack() as stack:
            with opened() as run:
                if (outcome := self._finished(run, publish)) is not None:
                    return outcome
                own = stack.enter_context(shards.hold(run, shard))
            loads = shards.dealt_to(shard, self.workload.answerable(first.kinds))
            self.asked = replace(self.workload, loads=loads)
            facts, failures = self._answer_all(shares, run, own)
            shards.note_environment(own, facts, self.phases)
        self.answering.leave()
        tell(failures, f"They are samples of shard {shard}.")
        try:
            with opened() as run:
                if (outcome := self._finished(run, publish) or self._merged(run, shard, publish)) is not None:
                    return outcome
        except BusyError:
            # It was not at work on this shard, so it finds what this one wrote.
            say(f"Shard {shard} is done. Another process holds {run.path}; if it is stopped: medbench merge {run.path}")
        failed = bool(failures) and len(failures) == sum(len(load.samples) for load in loads)
        return ShardOutcome(path=run.path, phases=self.phases, failed=failed)

    def _merged(self, run: RunDirectory, shard: Shard, publish: Publish) -> RunOutcome | None:
        """Merge the shards of a run that is held, if all its samples have a record and nobody is at work on one."""
        # Who is at work is asked first: nobody begins while the run is held, so what is read then is all there is.
        busy = shards_at_work(run.path)
        known = Reopened(directory=run, settings=self.settings, workload=self.workload, model=self.model)
        merger = Merger.of(known, shards.sources_of(run))
        left = merger.missing(shard.of)
        if not left and not busy:
            return merger.merge(publish, "The commands of their shards try them again.")
        missing = shards.told(left) if left else "all samples have a record"
        at_work = f"; at work: shard {', '.join(busy)}" if busy else ""
        say(f"Shard {shard} is done; {missing}{at_work}. The last one merges, scores and writes the leaderboard.")
        return None

    def _finished(self, run: RunDirectory, publish: Publish) -> RunOutcome | None:
        if (outcome := finished(run, publish, self.settings.metrics, self.settings.data_dir)) is not None:
            # Who merged them may have been stopped before they were gone.
            shards.clear(run)
            say(f"{run.path} is complete; nothing to do. Start afresh with --overwrite always.")
        return outcome

    def _opens_again(self, run: RunDirectory, first: ModelFacts) -> bool:
        """Open a finished run again if its failures are to be tried again, or are more than this command allows."""
        done, said = run.path / "done", self.settings.retry_errors or self.settings.fail_on_error is not None
        if not said or not done.exists():
            return False
        loads = self.workload.answerable(first.kinds)
        failed = [one for load in loads for one in failures_of(load.spec.name, run.of_task(load).read().values())]
        if self.settings.retry_errors == 0 and Watch.of(self.settings, loads, run.path).may_end_with(len(failed)):
            return False
        if failed:
            say(f"{run.path} is opened again: {len(failed)} samples failed ({counted(failed)}).")
            done.unlink()
        return bool(failed)

    def _known(self) -> tuple[Sequence[Share], ModelFacts, dict[str, object]]:
        """Return the shares of the run, what is known of the model of the first, and what makes it another run."""
        with self.phases.time("load"):
            shares = models.shares_of(self.settings, self.workload)
            first = self.answering.told(shares[0])
        for notice in (*self.workload.notices, *first.facts.notices):
            warn(notice)
        with self.phases.time("load"):
            parts = self._identity(shares, first)
        return shares, first.facts, parts

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

    def _answer_all(
        self, shares: Sequence[Share], run: RunDirectory, own: RunDirectory
    ) -> tuple[ModelFacts, list[Failed]]:
        """Answer what is asked of all shares of a run into a folder; return the samples that failed."""
        failures: list[Failed] = []
        facts = models.merged([(share, self._answer(share, run, own, failures)) for share in shares])
        return facts, failures

    def _answer(self, share: Share, run: RunDirectory, own: RunDirectory, failures: list[Failed]) -> ModelFacts:
        """Answer the tasks of a share, and note the samples that failed."""
        with self.phases.time("load"):
            told = self.answering.told(share)
        sources, kinds = shards.sources_of(run), told.facts.kinds
        if self.settings.checkpoint_for:
            say(f"{share.checkpoint}: {', '.join(share.tasks)}")
            ours = dict.fromkeys(share.tasks, told.facts.info.weights)
            models.refuse_other_weights(own.path, ours, [source.path for source in sources])
        recorded = shards.recorded(sources, self.workload.only(share.tasks).answerable(kinds)).records
        plan = make_plan(self.asked.only(share.tasks).answerable(kinds), recorded)
        if own != run:
            shards.note_facts(own, share, self.answering.facts(share))
        watch = Watch.of(self.settings, self.workload.answerable(kinds), own.path)
        for rounds_left in range(self.settings.retry_errors, -1, -1):
            watch.begin(failures, last_round=not rounds_left)
            failed = generate(plan, self.answering.outcomes(share, plan, own), own, self.phases, watch)
            if not failed:
                break
            plan = again(plan, failed)
            if rounds_left:
                say(f"{len(failed)} samples that failed are asked again ({counted(failed)}).")
        failures += failed
        if own != run:
            shards.note_facts(own, share, self.answering.facts(share))
        return self.answering.facts(share)
