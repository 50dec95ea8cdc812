"""The main path on one page: load, plan, generate, score, summarise, publish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.base import Adapter, AdapterEntry, LoadOptions, LocalAdapter
from adapters.catalog import ChosenModel, choose_model
from harness.environment import write_environment
from harness.generate import answerable, generate, make_plan
from harness.phases import Phases
from harness.results import ModelInfo, Results, read_results, write_results
from harness.rundir import RunDirectory, open_run
from harness.score import score_tasks
from harness.settings import Settings
from harness.summarise import summarise
from harness.workload import Workload, load_workload
from tasks.foundation.console import say, warn
from tasks.foundation.errors import MedbenchError, UsageError
from tasks.metrics.meteor import start_meteor

Publish = Callable[[Path], None]
PAGE = "leaderboard.md"


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
        _refuse_ignored(settings, model.entry)
        workload = load_workload(settings)
        adapter = model.entry.load(load_options(settings, model, workload))
        _refuse_decoding(settings, adapter)
    _warn_loudly(workload, adapter)
    with open_run(settings, workload, adapter, model, overwrite=overwrite) as directory:
        finished = finished_results(directory)
        if finished is not None:
            say(f"{directory.path} is complete; nothing to do. Start afresh with --overwrite always.")
            return RunOutcome(path=directory.path, results=finished, phases=None)
        _start_scorer_early(workload)
        plan = make_plan(workload, adapter, directory)
        failures = generate(plan, adapter, directory, phases, settings)
        with phases.time("score"):
            results = score_run(workload, adapter, model, directory, settings)
        publish(directory.path)
        write_environment(directory.path / "env.json", adapter, phases)
        if not failures:
            directory.finish()
    _tell_of_failures(failures)
    return RunOutcome(path=directory.path, results=results, phases=phases)


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
        "checkpoint": settings.checkpoint is not None,
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


def load_options(settings: Settings, model: ChosenModel, workload: Workload) -> LoadOptions:
    """Return what the model's loader gets."""
    return LoadOptions(
        variant=model.variant,
        arguments=model.arguments,
        checkpoint=settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        seed=settings.seed,
        train_samples=workload.train_samples,
        source_of=workload.source_of,
    )


def score_run(
    workload: Workload, adapter: Adapter, model: ChosenModel, directory: RunDirectory, settings: Settings
) -> Results:
    """Score what was generated and write `scores/` and `results.json`."""
    loads = answerable(workload, adapter)
    results = summarise(
        score_tasks(loads, directory, model),
        run=directory.identity,
        model=_model_info(adapter),
        suite=workload.suite,
        limit=settings.limit,
        seed=settings.seed,
        notices=(*workload.notices, *adapter.notices),
        unsupported=tuple(load.spec.name for load in workload.loads if load not in loads),
    )
    write_results(directory.results, results)
    return results


def _model_info(adapter: Adapter) -> ModelInfo:
    return ModelInfo(
        name=adapter.card.name,
        title=adapter.title,
        weights=adapter.weights_fingerprint,
        device=adapter.device.partition(":")[0],
        dtype=adapter.dtype,
        trained_on=tuple(sorted(adapter.trained_on)),
    )


def _warn_loudly(workload: Workload, adapter: Adapter) -> None:
    for notice in (*workload.notices, *adapter.notices):
        warn(notice)
