"""The command `medbench run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from medbench.harness.options import as_limits, as_table
from medbench.harness.phases import Phases
from medbench.harness.results import MetricResult, Results, TaskResult
from medbench.harness.run import PAGE, REPORT
from medbench.harness.settings import MAX_SEED, Settings
from medbench.harness.workload import Workload
from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import EXIT_FAILED, StoppedError
from medbench.tasks.probes import PROBES
from medbench.tasks.protocols import metric_ids

PAGES = "medbench.leaderboard.publish"
"""Writes the pages of runs; named, not imported, since the leaderboard is built on the harness."""


def publish(path: Path) -> None:
    """Write the pages of a run's folder."""
    import_module(PAGES).publish_run(path)


def publish_together(paths: Sequence[Path], folder: Path) -> None:
    """Write one leaderboard of several runs into a folder, and show it."""
    import_module(PAGES).publish_together(paths, folder)


@click.command("run")
@click.option(
    "-m", "--model", "models", multiple=True, metavar="NAME[:VARIANT]",
    help="See `medbench models`. Repeated: one run after the other, and one leaderboard.",
)  # fmt: skip
@click.option(
    "--model-arg", "model_args", multiple=True, callback=as_table, metavar="[MODEL:]NAME=VALUE",
    help="A choice of the model, or of one of several; see `medbench models NAME`.",
)  # fmt: skip
@click.option(
    "-t", "--tasks", multiple=True, help="Names, kinds, globs, `prepared` or `all`, comma-separated.  [default: all]"
)
@click.option(
    "--checkpoint", "checkpoints", multiple=True, metavar="[MODEL=]DIR",
    help="Folder of weights, once for each model.  [default: the model's own]",
)  # fmt: skip
@click.option(
    "--checkpoint-for", multiple=True, callback=as_table, metavar="TASK=DIR",
    help="Folder of weights for a task of its own (name, kind or glob); repeatable.",
)  # fmt: skip
@click.option("--data-dir", type=click.Path(path_type=Path), help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Where run folders go.  [default: runs]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N test samples of each task.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Most rows at a time.  [default: by free memory]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="[default: auto]")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Type of the weights.  [default: auto: float32 on the CPU, bfloat16 elsewhere]",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Seed of everything random.  [default: 0]")
@click.option(
    "--max-new-tokens", multiple=True, callback=as_limits, metavar="N | TASK=N,...",
    help="Longest answer in tokens, thoughts included, for all tasks or by name, kind or glob.",
)  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, 100), help="Of sampling.  [default: 0, the likeliest token]")
@click.option("--top-k", type=click.IntRange(min=0), help="Sample among so many tokens.  [default: 0, all]")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Sample within this probability.  [default: 1]"
)
@click.option("--repetition-penalty", type=click.FloatRange(0, 100, min_open=True), help="[default: 1, none]")
@click.option("--beams", type=click.IntRange(min=1), help="Width of a beam search.  [default: 1, none]")
@click.option("--compile", is_flag=True, default=None, help="Let torch.compile fuse the decoder's layers.")
@click.option("--probe", type=click.Choice(list(PROBES)), help="Ask in another way, for `medbench audit probe`.")
@click.option("--dry-run", is_flag=True, help="Show prompts, sizes, time and memory; answer nothing, write nothing.")
@click.option("--config", type=click.Path(path_type=Path), help="A run.yaml to run again; options override it.")
@click.option(
    "--overwrite",
    type=click.Choice(["never", "always"]),
    default="never",
    show_default=True,
    help="What to do with what an earlier run with these settings left.",
)
def run_command(
    models: tuple[str, ...],
    model_args: dict[str, str] | None,
    checkpoints: tuple[str, ...],
    config: Path | None,
    overwrite: str,
    dry_run: bool,
    **options: Any,
) -> int:
    """Run a model over tasks and write a leaderboard; several models one after the other.

    An interrupted run continues when the same command is given again.

    \b
    Example:  medbench run --model uni-med --tasks slake-vqa,cls --limit 20
              medbench run --model uni-med --model blind --tasks prepared --data-dir data
    """
    from medbench.harness.several import Said, settings_of, tell_whose

    said = Said(
        models=models, arguments=model_args or {}, checkpoints=checkpoints,
        others={**options, "tasks": options["tasks"] or None},
    )  # fmt: skip
    found = settings_of(config, said)
    tell_whose(said, found)
    if dry_run:
        for settings in found:
            _show_dry_run(settings)
        return 0
    try:
        if len(found) == 1:
            return _run_one(found[0], overwrite).exit_code
        return _run_several(found, overwrite)
    except KeyboardInterrupt:
        raise StoppedError("What was answered is on disk; the same command continues.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A run that came to its end: its folder, and whether anything could be scored."""

    path: Path
    exit_code: int


def _run_one(settings: Settings, overwrite: str, workload: Workload | None = None) -> _Ended:
    from medbench.harness.run import run
    from medbench.harness.summarise import felt_limits

    outcome = run(settings, publish, overwrite=overwrite, workload=workload)
    show_results(outcome.results)
    for line in felt_limits(outcome.results.tasks):
        warn(line)
    if outcome.phases is not None:
        _show_phases(outcome.phases)
    for page in (PAGE, REPORT):
        if (outcome.path / page).exists():
            say(f"{outcome.path / page}")
    return _Ended(path=outcome.path, exit_code=exit_code(outcome.results))


def _run_several(found: Sequence[Settings], overwrite: str) -> int:
    """Run models one after the other; return failure if one of them failed."""
    from medbench.harness.several import one_by_one, shown
    from medbench.harness.workload import load_workload

    workload = load_workload(found[0])
    workload.say_left_out()
    ended: dict[str, _Ended] = {}

    def run_one(settings: Settings) -> None:
        ended[settings.model] = _run_one(settings, overwrite, workload)

    one_by_one(found, run_one)
    scored = [run.path for run in ended.values() if run.exit_code == 0]
    if scored:
        publish_together(scored, found[0].output_dir)
    failed = [one.model for one in found if one.model not in ended or ended[one.model].exit_code]
    if failed:
        warn(f"{len(failed)} of {len(found)} models have no numbers: {shown(*failed)}.")
        say("The same command tries them again, and leaves the others as they are.")
    return EXIT_FAILED if failed else 0


def _show_dry_run(settings: Settings) -> None:
    from medbench.harness.dry_run import page
    from medbench.harness.dry_run.dry_run import dry_run

    for dry in dry_run(settings):
        for notice in dry.notices:
            warn(notice)
        emit(page.prompts(dry))
        title = f"{dry.title}, {dry.dtype} on {dry.device}"
        emit_table(page.COLUMNS, page.rows(dry), title=title)
        for failure in page.failures(dry):
            warn(f"Cannot be asked: {failure}")
        for line in page.estimated(dry.estimate):
            say(line)
        if dry.unsupported:
            say(f"Not answered by this model: {', '.join(dry.unsupported)}.")


def _show_phases(phases: Phases) -> None:
    spent = sorted(phases.seconds.items(), key=lambda item: -item[1])
    total = sum(phases.seconds.values())
    rows = [[phase, f"{seconds:.1f}", f"{100 * seconds / total:.0f}"] for phase, seconds in spent if total]
    beside = [[f"{phase} (beside)", f"{seconds:.1f}", ""] for phase, seconds in sorted(phases.background.items())]
    emit_table(["phase", "seconds", "%"], [*rows, *beside], title="Where the time went")
    if phases.tasks:
        rates = [
            [task, f"{rate.output_tokens:,}", f"{rate.seconds:.1f}", f"{rate.tokens_per_second:,.0f}"]
            for task, rate in sorted(phases.tasks.items(), key=lambda item: -item[1].seconds)
        ]
        emit_table(["task", "output tokens", "seconds", "tokens/s"], rates, title="Where the engine's time went")
    efficiency, counts = phases.efficiency(), phases.counts
    if efficiency:
        say(
            f"Engine: {100 * efficiency['useful_row_share']:.1f} % of rows useful, "
            f"{100 * efficiency['prefill_padding']:.1f} % of prefill padding, "
            f"{100 * efficiency['shared_prompt_share']:.1f} % of prompt tokens shared, "
            f"{counts.get('images encoded', 0):,} images encoded, "
            f"{efficiency['output_tokens_per_second']:,.0f} output tokens/s"
        )


def exit_code(results: Results) -> int:
    """Return the exit code of a run that has ended: failure if nothing could be scored."""
    scored = any(
        metric.value is not None
        for task in results.tasks.values()
        for metric in (*task.paper.values(), *task.strict.values())
    )
    if not scored:
        say("Nothing could be scored.")
    return 0 if scored else EXIT_FAILED


def show_results(results: Results) -> None:
    """Write a run's numbers under the paper protocol."""
    rows = [
        [task.title, metric_id, percent(metric), str(metric.n), _failures(task)]
        for name in (name for name in task_names() if name in results.tasks)
        for task in [results.tasks[name]]
        for metric_id in metric_ids(name, task.kind, "paper")
        if (metric := task.paper.get(metric_id)) is not None
    ]
    emit_table(
        ["task", "metric", "value % [95 % interval]", "n", "not ok"],
        rows,
        title=f"{results.model.title}, paper protocol",
    )


def percent(metric: MetricResult) -> str:
    """Return a number as a percentage with its interval and, where boxes limit it, its ceiling."""
    if metric.value is None:
        return "not scored"
    interval = "" if metric.ci is None else f" [{100 * metric.ci[0]:.1f}, {100 * metric.ci[1]:.1f}]"
    ceiling = "" if metric.limiting_ceiling is None else f" of {100 * metric.limiting_ceiling:.1f}"
    return f"{100 * metric.value:6.2f}{interval}{ceiling}"


def _failures(task: TaskResult) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(task.states.items()) if count and state != "ok")
