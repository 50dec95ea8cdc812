"""Several runs in one command: one after the other, what is done is skipped, and one table of all at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medbench.harness import models
from medbench.harness.dry_run import show_dry_run
from medbench.harness.finish import RunOutcome
from medbench.harness.outcomes import exit_code, show_outcome
from medbench.harness.results import read_results
from medbench.harness.run import ShardOutcome, publish_together
from medbench.harness.settings import Settings
from medbench.harness.sweep import Planned, Sweep
from medbench.harness.workload import load_workload
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import EXIT_FAILED, MedbenchError

RunOne = Callable[[Settings], RunOutcome | ShardOutcome]
# What a dry run does not look at: models that differ in nothing else are shown once.
_UNSEEN = ("seed", "temperature", "top_k", "top_p", "repetition_penalty", "beams")


def run_several(sweep: Sweep, run_one: RunOne, *, profile: bool) -> int:
    """Run one after the other, then show how each ended and the numbers of all; return failure if one failed."""
    scored: dict[str, Path] = {}
    waiting: dict[str, Path] = {}
    ends: dict[str, str] = {}
    for number, one in enumerate(sweep.runs, start=1):
        with _attempted(number, len(sweep.runs), one):
            outcome = run_one(one.settings)
            known = isinstance(outcome, RunOutcome) and outcome.phases is None
            if not known:
                show_outcome(outcome, profile=profile, table=False)
            if exit_code(outcome) == 0:
                (scored if isinstance(outcome, RunOutcome) else waiting)[one.name] = outcome.path
                ends[one.name] = "was done" if known else "done"
    # Other processes may have merged a run meanwhile; whoever merges the last one writes of all.
    scored |= {name: path for name, path in waiting.items() if _is_scored(path)}
    ends |= dict.fromkeys(waiting.keys() - scored.keys(), "waits for other shards")
    folders = {name: path.name for name, path in (scored | waiting).items()}
    rows = [[one.name, ends.get(one.name, "failed"), folders.get(one.name, "")] for one in sweep.runs]
    output = sweep.runs[0].settings.output_dir
    emit_table(["run", "how it ended", "folder"], rows, title=f"In {output}")
    if scored and scored.keys() >= waiting.keys():
        together = {scored[one.name]: one.name for one in sweep.runs if one.name in scored}
        publish_together(together, output, grouped=sweep.mean)
    failed = [one.name for one in sweep.runs if one.name not in ends]
    if failed:
        warn(f"{len(failed)} of {len(sweep.runs)} runs have no numbers: {', '.join(failed)}.")
        say("The same command tries them again, and leaves the others as they are.")
    return EXIT_FAILED if failed else 0


def show_plan(sweep: Sweep) -> int:
    """Show what would be run, then each model once with its prompts and what it takes; answer nothing."""
    if len(sweep.runs) == 1:
        show_dry_run(sweep.runs[0].settings)
        return 0
    rows, seen, shown = list[list[str]](), dict[str, Planned](), set[str]()
    for one in sweep.runs:
        loads = load_workload(one.settings).loads
        rows.append([one.name, str(len(loads)), f"{sum(len(load.samples) for load in loads):,}"])
        seen.setdefault(str({key: told for key, told in one.settings.as_yaml().items() if key not in _UNSEEN}), one)
    emit_table(["run", "tasks", "samples"], rows, title=f"{len(rows)} runs")
    for number, one in enumerate(seen.values(), start=1):
        with _attempted(number, len(seen), one):
            show_dry_run(one.settings)
            shown.add(one.name)
    return EXIT_FAILED if len(shown) < len(seen) else 0


@contextmanager
def _attempted(number: int, of: int, one: Planned) -> Iterator[None]:
    """Say which run begins; whatever is raised is told and does not keep the others from running."""
    say(f"{number} of {of}: {one.name}")
    with models.Attempt(one.name):
        yield
    models.release()


def _is_scored(path: Path) -> bool:
    try:
        return bool(read_results(path).tasks)
    except MedbenchError:
        return False
