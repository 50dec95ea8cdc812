"""The main path on one page: load, plan, generate, score, summarise, publish."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medbench.adapters.base import Adapter, AdapterEntry, LoadOptions, LocalAdapter
from medbench.adapters.catalog import ChosenModel, choose_model
from medbench.adapters.guarding import named, plugin_faults
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.answering_code import made_of
from medbench.harness.environment import write_environment
from medbench.harness.generate import answerable, generate, make_plan
from medbench.harness.locking import held_before_loading
from medbench.harness.phases import Phases
from medbench.harness.results import Results, read_results, write_results
from medbench.harness.rundir import RunDirectory, open_run
from medbench.harness.score import Scores, doubts_about_boxes, score_tasks
from medbench.harness.settings import Settings
from medbench.harness.shares import Seat, Share, Told, files_of, merged, refuse_other_weights, shares_of, told_by
from medbench.harness.summarise import summarise
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import MedbenchError, RunError, UsageError
from medbench.tasks.foundation.memory import room_for
from medbench.tasks.metrics.meteor import start_meteor

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


def run(
    settings: Settings, publish: Publish, *, overwrite: str = "never", workload: Workload | None = None
) -> RunOutcome:
    """Run a model over tasks; the same settings continue what an interrupted run left.

    Args:
        settings: What to do.
        publish: Writes the pages of a run's folder from its `results.json`.
        overwrite: `never`, or `always` to start afresh.
        workload: Its tasks, if they were read already.
    """
    phases = Phases()
    with phases.time("load"):
        model = choose_model(settings.model, settings.model_args)
        if workload is None:
            workload = load_workload(settings)
            workload.say_left_out()
    # What was said by a kind, a pattern or `prepared` means the same tasks when run.yaml is run again.
    settings = replace(settings, tasks=workload.names)
    with held_before_loading(settings, workload, model):
        return _run(settings, workload, model, publish, phases, overwrite)


def _run(
    settings: Settings, workload: Workload, model: ChosenModel, publish: Publish, phases: Phases, overwrite: str
) -> RunOutcome:
    with phases.time("load"):
        shares = shares_of(settings, workload)
        seat = Seat(lambda share: load_share(settings, model, workload, share))
        adapter = seat.adapter(shares[0])
        with plugin_faults(settings.model.partition(":")[0], "what it says of itself", type(adapter).__module__):
            first = told_by(adapter)
        # Only the seat may hold a model: two may not fit.
        del adapter
    for notice in (*workload.notices, *first.notices):
        warn(notice)
    with phases.time("load"):
        parts = _parts(seat.adapter(shares[0]), workload)
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
            results, scores = score_run(workload, told, model, directory, settings)
        write_environment(directory.path / "env.json", told.info, phases)
        publish(directory.path)
        if not failures and not scores.failed:
            directory.finish()
    _tell_of_failures(failures)
    scores.raise_if_failed(f"The numbers of the other tasks are in {directory.path}; the same command scores again.")
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
    with plugin_faults(adapter.card.name, "expect()", type(adapter).__module__):
        adapter.expect([load.spec for load in plan.loads])
    failures = generate(plan, adapter, directory, phases, settings)
    return Answered(told=told_by(adapter), failures=failures)


def load_share(settings: Settings, model: ChosenModel, workload: Workload, share: Share) -> Adapter:
    """Load the checkpoint of a share.

    Raises:
        UsageError: If an option was given that the model does not take.
    """
    _refuse_ignored(settings, model.entry)
    name = model.entry.card.name
    with plugin_faults(name, "load()"), room_for(f"The model {name!r}"):
        adapter = model.entry.load(load_options(settings, model, workload, share.checkpoint))
    if not isinstance(adapter, Adapter):
        raise RunError(f"{named(name)} returned from load() a {type(adapter).__name__}, which is no Adapter.", "")
    _refuse_decoding(settings, adapter)
    return adapter


def _parts(adapter: Adapter, workload: Workload) -> dict[str, object]:
    """Return what answers depend on beside settings, weights and data; a server may be asked for it."""
    if isinstance(adapter, RemoteAdapter):
        from medbench.harness.remote.serving import refuse_to_send

        refuse_to_send(adapter, answerable(workload, adapter.card.kinds))
    with plugin_faults(adapter.card.name, "what it says of itself", type(adapter).__module__):
        return made_of(adapter, [load.spec.name for load in workload.loads])


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
        with suppress(MedbenchError):
            # What keeps it from starting is said where it is needed, and keeps no other task from its numbers.
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
) -> tuple[Results, Scores]:
    """Score what was generated and write `scores/` and `results.json`."""
    loads = answerable(workload, told.kinds)
    scores = score_tasks(loads, directory, model)
    if not scores.tasks:
        scores.raise_if_failed("The answers are kept.")
    doubts = (*scores.notices(), *doubts_about_boxes(scores.tasks, model))
    for doubt in doubts:
        warn(doubt)
    results = summarise(
        scores.tasks,
        run=directory.identity,
        model=told.info,
        suite=workload.suite,
        limit=settings.limit,
        seed=settings.seed,
        notices=(*workload.notices, *told.notices, *doubts),
        unsupported=tuple(load.spec.name for load in workload.loads if load not in loads),
        probe=settings.probe,
    )
    write_results(directory.results, results)
    return results, scores
