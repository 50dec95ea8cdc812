"""The main path on one page: load, plan, generate, score, summarise, publish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.base import Adapter, AdapterEntry, LoadOptions, LocalAdapter
from adapters.catalog import ChosenModel, choose_model
from harness.answering_code import made_of
from harness.environment import write_environment
from harness.generate import answerable, generate, make_plan
from harness.phases import Phases
from harness.results import Results, read_results, write_results
from harness.rundir import RunDirectory, open_run
from harness.score import score_tasks
from harness.settings import Settings
from harness.shares import Seat, Share, Told, files_of, merged, refuse_other_weights, shares_of, told_by
from harness.summarise import summarise
from harness.workload import Workload, load_workload
from tasks.foundation.console import say, warn
from tasks.foundation.errors import MedbenchError, UsageError
from tasks.metrics.meteor import start_meteor

Publish = Callable[[Path], None]
PAGE = "leaderboard.md"
REPORT = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        path: Folder of the run.
        results: Its numbers.
        phases: Where the time went; None if everything was there already.
    """

    path: Path
    results: Results
    phases: Phases | None


def run(settings: Settings, publish: Publish, *, overwrite: str = "never") -> RunOutcome:
    """Run a model over tasks; the same settings continue what an interrupted run left.

    Args:
        settings: What to do.
        publish: Writes the pages of a run's folder from its `results.json`.
        overwrite: `never`, or `always` to start afresh.
    """
    phases = Phases()
    with phases.time("load"):
        model = choose_model(settings.model, settings.model_args)
        workload = load_workload(settings)
        shares = shares_of(settings, workload)
        seat = Seat(lambda share: load_share(settings, model, workload, share))
        first = told_by(seat.adapter(shares[0]))
        parts = made_of(seat.adapter(shares[0]), [load.spec.name for load in workload.loads])
    for notice in (*workload.notices, *first.notices):
        warn(notice)
    with open_run(
        settings, workload, first.info, model, weights=_weights(shares, first), made_of=parts, overwrite=overwrite
    ) as directory:
        finished = finished_results(directory)
        if finished is not None:
            say(f"{directory.path} is complete; nothing to do. Start afresh with --overwrite always.")
            return RunOutcome(path=directory.path, results=finished, phases=None)
        _start_scorer_early(workload)
        answered = [_answer(share, seat, workload, directory, phases, settings) for share in shares]
        told = merged([(share, one.told) for share, one in zip(shares, answered, strict=True)])
        failures = [failure for one in answered for failure in one.failures]
        with phases.time("score"):
            results = score_run(workload, told, model, directory, settings)
        write_environment(directory.path / "env.json", told.info, phases)
        publish(directory.path)
        if not failures:
            directory.finish()
    _tell_of_failures(failures)
    return RunOutcome(path=directory.path, results=results, phases=phases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a share: what is known of its model, and the error of each sample that failed."""

    told: Told
    failures: Sequence[str]


def _answer(
    share: Share, seat: Seat, workload: Workload, directory: RunDirectory, phases: Phases, settings: Settings
) -> Answered:
    with phases.time("load"):
        adapter = seat.adapter(share)
    if settings.checkpoint_for:
        say(f"{share.checkpoint}: {', '.join(share.tasks)}")
        refuse_other_weights(directory.weights, share, adapter)
    plan = make_plan(workload.only(share.tasks), adapter.card.kinds, directory)
    adapter.expect([load.spec for load in plan.loads])
    failures = generate(plan, adapter, directory, phases, settings)
    return Answered(told=told_by(adapter), failures=failures)


def load_share(settings: Settings, model: ChosenModel, workload: Workload, share: Share) -> Adapter:
    """Load the checkpoint of a share.

    Raises:
        UsageError: If an option was given that the model does not take.
    """
    _refuse_ignored(settings, model.entry)
    adapter = model.entry.load(load_options(settings, model, workload, share.checkpoint))
    _refuse_decoding(settings, adapter)
    return adapter


def _weights(shares: Sequence[Share], first: Told) -> object:
    """Return what identifies the weights; of several checkpoints their files, since they are loaded one by one."""
    return files_of(shares) if len(shares) > 1 else first.info.weights


def finished_results(directory: RunDirectory) -> Results | None:
    """Return the results of a run that is done, or None if something is left to do."""
    if not directory.done or not (directory.path / PAGE).exists():
        return None
    try:
        results = read_results(directory.path)
    except MedbenchError:
        return None
    return results if results.run == directory.identity else None


def _tell_of_failures(failures: Sequence[str]) -> None:
    if failures:
        warn(f"{len(failures)} samples failed and are counted as errors. The first: {failures[0]}")
        say("The same command tries them again.")


def _start_scorer_early(workload: Workload) -> None:
    # METEOR reads a 62 MB table before its first pair; it does so while the model writes.
    if any(load.spec.kind == "report" for load in workload.loads):
        start_meteor()


def _refuse_ignored(settings: Settings, entry: AdapterEntry) -> None:
    given = {
        "checkpoint": settings.checkpoint is not None or bool(settings.checkpoint_for),
        "device": settings.device not in {"auto", "cpu"},
        "dtype": settings.dtype not in {"auto", "float32"},
    }
    ignored = [f"--{name}" for name, is_given in given.items() if is_given and name not in entry.takes]
    if ignored:
        raise UsageError(f"The model {entry.card.name!r} does not take {', '.join(ignored)}.", "Leave the option out.")


def _refuse_decoding(settings: Settings, adapter: Adapter) -> None:
    """Refuse options of the engine for a model that it does not drive."""
    given = [f"--{name.replace('_', '-')}" for name in (*settings.decoding(), *(("compile",) * settings.compile))]
    if given and not isinstance(adapter, LocalAdapter):
        raise UsageError(
            f"The model {adapter.card.name!r} chooses its tokens itself and does not take {', '.join(given)}.",
            "Leave the option out.",
        )


def load_options(settings: Settings, model: ChosenModel, workload: Workload, checkpoint: Path | None) -> LoadOptions:
    """Return what the model's loader gets."""
    return LoadOptions(
        variant=model.variant,
        arguments=model.arguments,
        checkpoint=checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        seed=settings.seed,
        train_samples=workload.train_samples,
        source_of=workload.source_of,
    )


def score_run(
    workload: Workload, told: Told, model: ChosenModel, directory: RunDirectory, settings: Settings
) -> Results:
    """Score what was generated and write `scores/` and `results.json`."""
    loads = answerable(workload, told.kinds)
    results = summarise(
        score_tasks(loads, directory, model),
        run=directory.identity,
        model=told.info,
        suite=workload.suite,
        limit=settings.limit,
        seed=settings.seed,
        notices=(*workload.notices, *told.notices),
        unsupported=tuple(load.spec.name for load in workload.loads if load not in loads),
        probe=settings.probe,
    )
    write_results(directory.results, results)
    return results
