"""The main path on one page: load, plan, generate, score, summarise, publish."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters.base import Adapter, LoadOptions, Parser
from adapters.catalog import find_adapter
from harness.environment import write_environment
from harness.generate import generate, make_plan
from harness.phases import Phases
from harness.results import ModelInfo, Results, read_results, write_results
from harness.rundir import RunDirectory, open_run
from harness.score import score_task
from harness.settings import Settings
from harness.summarise import summarise
from harness.workload import Workload, load_workload
from tasks.foundation.console import say, warn
from tasks.metrics.meteor import start_meteor

Publish = Callable[[Path], None]


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
        workload = load_workload(settings)
        adapter, parse = load_model(settings, workload)
    _warn_loudly(workload, adapter)
    with open_run(settings, workload, adapter, overwrite=overwrite) as directory:
        if directory.done:
            say(f"{directory.path} is complete; nothing to generate. Start afresh with --overwrite always.")
            return RunOutcome(path=directory.path, results=read_results(directory.path), phases=None)
        _start_scorer_early(workload)
        plan = make_plan(workload, adapter, directory)
        generate(plan, adapter, directory, phases, batch_size=settings.batch_size)
        with phases.time("score"):
            results = score_run(workload, adapter, parse, directory, settings)
        publish(directory.path)
        write_environment(directory.path / "env.json", adapter, phases)
        directory.finish()
    return RunOutcome(path=directory.path, results=results, phases=phases)


def _start_scorer_early(workload: Workload) -> None:
    # METEOR reads a 62 MB table before its first pair; it does so while the model writes.
    if any(load.spec.kind == "report" for load in workload.loads):
        start_meteor()


def load_model(settings: Settings, workload: Workload) -> tuple[Adapter, Parser]:
    """Load the model that the settings name."""
    entry, variant = find_adapter(settings.model)
    options = LoadOptions(
        variant=variant,
        checkpoint=settings.checkpoint,
        device=settings.device,
        dtype=settings.dtype,
        seed=settings.seed,
        train_samples=workload.train_samples,
    )
    return entry.load(options), entry.parse


def score_run(
    workload: Workload, adapter: Adapter, parse: Parser, directory: RunDirectory, settings: Settings
) -> Results:
    """Score what was generated and write `scores/` and `results.json`."""
    answerable = [load for load in workload.loads if load.spec.kind in adapter.card.kinds]
    results = summarise(
        [score_task(load, directory, parse) for load in answerable],
        run=directory.identity,
        model=_model_info(adapter),
        suite=workload.suite,
        limit=settings.limit,
        seed=settings.seed,
        notices=(*workload.notices, *adapter.notices),
        unsupported=tuple(load.spec.name for load in workload.loads if load not in answerable),
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
        trained_on=tuple(sorted(adapter.card.trained_on)),
    )


def _warn_loudly(workload: Workload, adapter: Adapter) -> None:
    for notice in (*workload.notices, *adapter.notices):
        warn(notice)
