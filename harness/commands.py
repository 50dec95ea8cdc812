"""The commands `medbench run`, `medbench merge`, `medbench score` and `medbench train`."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click

from medbench.adapters.base import DEVICE, DeviceMap, Quantization
from medbench.harness import dry_run, models
from medbench.harness.cache.memory import cached
from medbench.harness.finish import PAGE, REPORT, RunOutcome
from medbench.harness.merging import merge_runs
from medbench.harness.phases import Phases
from medbench.harness.predictions import scoring
from medbench.harness.results import MetricResult, Results, felt_limits, percent, read_results
from medbench.harness.run import ShardOutcome, publish_run, publish_together, run, run_shard
from medbench.harness.rundir import held
from medbench.harness.score import rescore
from medbench.harness.settings import MAX_SEED, Settings, read_limits
from medbench.harness.shards import Shard, read_shard
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import EXIT_FAILED, MedbenchError, StoppedError, UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.foundation.last_resort import kept_in
from medbench.tasks.probes import PROBES
from medbench.tasks.protocols import PROTOCOLS, metric_ids
from medbench.tasks.suite import prepare_mini_suite

_FOLDER = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
Command = TypeVar("Command", bound=Callable[..., Any])
_NO_LOCK = click.option(
    "--no-lock", "lock", flag_value=False, default=None,
    help="Hold no lock, where the file system has none; see to it that no other process writes there.",
)  # fmt: skip


def as_table(_: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str] | None:
    """Return repeated `NAME=VALUE` as a table, or None if there are none; UsageError if one is none or comes twice."""
    table: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option.opts[0]} {pair} is no pair.", f"Write {option.opts[0]} NAME=VALUE.")
        if name in table:
            raise UsageError(f"{option.opts[0]} {name} was given twice.", "Give it once.")
        table[name] = value
    return table or None


def known_device(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Return a device as it was given; UsageError if no device is called so."""
    if given is not None and not DEVICE.fullmatch(given):
        raise UsageError(
            f"--device {given!r} names no device.", "Allowed: auto, cpu, mps, cuda, or one of several: cuda:1."
        )
    return given


def weight_options(command: Command) -> Command:
    """Add the options of how a local model's weights are laid out, which a run and the doctor share."""
    for option in (
        click.option("--lora", type=_FOLDER, help="Folder of a LoRA in peft's format that goes onto the model."),
        click.option(
            "--quantize", type=click.Choice(get_args(Quantization)),
            help="Round the decoder to nf4 (bitsandbytes) or int8 (torchao) while it is loaded.  [default: no]",
        ),
        click.option(
            "--device-map", type=click.Choice(get_args(DeviceMap)),
            help="Lay the layers on all GPUs, then the CPU, then the disk.  [default: all on --device]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("run")
@click.option(
    "-m", "--model", "named", multiple=True, metavar="NAME[:VARIANT]",
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
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--output-dir", type=_FOLDER, help="Where run folders go.  [default: runs]")
@click.option("--limit", type=_COUNT, help="Only the first N test samples of each task.")
@click.option("--batch-size", type=_COUNT, help="Most rows at a time.  [default: by free memory]")
@click.option("--device", callback=known_device, metavar="auto|cpu|cuda[:N]|mps", help="[default: auto]")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Type of the weights.  [default: auto: float32 on the CPU, bfloat16 elsewhere]",
)  # fmt: skip
@weight_options
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Seed of everything random.  [default: 0]")
@click.option(
    "--max-new-tokens", multiple=True, callback=lambda _, __, given: read_limits(given) if given else None,
    metavar="N | TASK=N,...",
    help="Longest answer in tokens, thoughts included, for all tasks or by name, kind or glob.",
)  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, 100), help="Of sampling.  [default: 0, the likeliest token]")
@click.option("--top-k", type=click.IntRange(min=0), help="Sample among so many tokens.  [default: 0, all]")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Sample within this probability.  [default: 1]"
)
@click.option("--repetition-penalty", type=click.FloatRange(0, 100, min_open=True), help="[default: 1, none]")
@click.option("--beams", type=_COUNT, help="Width of a beam search.  [default: 1, none]")
@click.option(
    "--engine", type=click.Choice(["auto", "medbench", "vllm", "transformers"]),
    help="What writes the answers of a local model.  [default: auto: vLLM on a GPU where it can, else ours]",
)  # fmt: skip
@click.option(
    "--workers", metavar="N|[N@]ray[://ADDRESS]",
    help="Answer in N processes, one for each GPU, or on a Ray cluster: docs/scaling.md.  [default: in this one]",
)  # fmt: skip
@click.option(
    "--cache", metavar="DIR|auto",
    help="Folder of answers that runs keep for one another, `auto` for the usual one: docs/cache.md.  [default: none]",
)  # fmt: skip
@click.option("--compile", is_flag=True, default=None, help="Let torch.compile fuse the decoder's layers.")
@click.option(
    "--fail-on-error", metavar="N|P%",
    help="How many samples may fail: more end the run, no more complete it.  [default: 0, but none ends it]",
)  # fmt: skip
@click.option(
    "--retry-errors", type=click.IntRange(min=0), is_flag=False, flag_value=1, metavar="[ROUNDS]",
    help="Ask samples that failed again at the end, so many times (1); also those of a complete run.  [default: 0]",
)  # fmt: skip
@click.option("--probe", type=click.Choice(list(PROBES)), help="Ask in another way, for `medbench audit probe`.")
@click.option(
    "--dry-run", "only_shown", is_flag=True,
    help="Show prompts, sizes, time and memory; answer nothing, write nothing.",
)  # fmt: skip
@click.option(
    "--shard", callback=lambda _, __, given: None if given is None else read_shard(given), metavar="I/N",
    help="Answer the I-th of N parts alone, beside processes that answer the others; the last one merges them.",
)  # fmt: skip
@_NO_LOCK
@click.option("--config", type=_FOLDER, help="A run.yaml to run again; options override it.")
@click.option(
    "--overwrite", type=click.Choice(["never", "always"]), default="never", show_default=True,
    help="What to do with what an earlier run with these settings left.",
)  # fmt: skip
def run_command(
    named: tuple[str, ...], model_args: dict[str, str] | None, checkpoints: tuple[str, ...], config: Path | None,
    overwrite: str, only_shown: bool, shard: Shard | None, **options: Any,
) -> int:  # fmt: skip
    """Run a model over tasks and write a leaderboard; several models one after the other.

    An interrupted run continues when the same command is given again.

    \b
    Example:  medbench run --model uni-med --tasks slake-vqa,cls --limit 20
              medbench run --model uni-med --model blind --tasks prepared --data-dir data
              medbench run --model uni-med --tasks all --shard 2/8
    """
    if shard is not None and (only_shown or overwrite == "always" or options["lock"] is False):
        _refuse_with_shard(overwrite, only_shown=only_shown)
    others = {**options, "tasks": options["tasks"] or None}
    said = models.ModelOptions(models=named, arguments=model_args or {}, checkpoints=checkpoints, others=others)
    found = models.settings_of(config, said)
    if only_shown:
        for settings in found:
            dry_run.show_dry_run(settings)
        return 0
    try:
        if len(found) == 1:
            return _exit_code_of(_run_one(found[0], overwrite, shard))
        return _run_several(found, overwrite, shard)
    except KeyboardInterrupt:
        raise StoppedError("What was answered is on disk; the same command continues.") from None


def _refuse_with_shard(overwrite: str, *, only_shown: bool) -> NoReturn:
    if only_shown:
        raise UsageError("--dry-run shows the whole run, not a shard of it.", "Leave out --shard.")
    if overwrite == "always":
        problem = "--overwrite always would throw away what other shards answered."
        raise UsageError(problem, "Leave it out; to start afresh, remove the run's folder first.")
    way_out = (
        "Give an --output-dir that has locks, each machine its own if need be: `medbench merge` puts them together."
    )
    raise UsageError("--no-lock and --shard exclude each other: the last shard merges under a lock.", way_out)


def _run_one(
    settings: Settings, overwrite: str, shard: Shard | None, workload: Workload | None = None
) -> RunOutcome | ShardOutcome:
    if shard is None:
        outcome: RunOutcome | ShardOutcome = run(settings, overwrite=overwrite, workload=workload)
    else:
        outcome = run_shard(settings, shard, workload=workload)
    _show_outcome(outcome)
    return outcome


def _show_outcome(outcome: RunOutcome | ShardOutcome) -> None:
    if isinstance(outcome, RunOutcome):
        show_results(outcome.results)
        for line in felt_limits(outcome.results.tasks):
            warn(line)
    if outcome.phases is not None:
        _show_phases(outcome.phases)
    for page in (PAGE, REPORT):
        if isinstance(outcome, RunOutcome) and (outcome.path / page).exists():
            say(f"{outcome.path / page}")


def _exit_code_of(outcome: RunOutcome | ShardOutcome) -> int:
    if isinstance(outcome, RunOutcome):
        return exit_code(outcome.results)
    if outcome.failed:
        say("No sample of this shard got an answer; the same command tries them again.")
    return EXIT_FAILED if outcome.failed else 0


def _run_several(found: Sequence[Settings], overwrite: str, shard: Shard | None) -> int:
    """Run models one after the other; return failure if one of them failed."""
    workload = load_workload(found[0])
    workload.say_left_out()
    scored: dict[str, Path] = {}
    waiting: dict[str, Path] = {}

    def run_one(settings: Settings) -> None:
        outcome = _run_one(settings, overwrite, shard, workload)
        if _exit_code_of(outcome) == 0:
            (scored if isinstance(outcome, RunOutcome) else waiting)[settings.model] = outcome.path

    models.one_by_one(found, run_one)
    # Other processes may have merged a model meanwhile; whoever merges the last one writes of all.
    scored |= {model: path for model, path in waiting.items() if _is_scored(path)}
    together = [scored[one.model] for one in found if one.model in scored]
    if together and scored.keys() >= waiting.keys():
        publish_together(together, found[0].output_dir)
    failed = [settings.model for settings in found if settings.model not in {**scored, **waiting}]
    if failed:
        warn(f"{len(failed)} of {len(found)} models have no numbers: {models.shown(*failed)}.")
        say("The same command tries them again, and leaves the others as they are.")
    return EXIT_FAILED if failed else 0


def _is_scored(path: Path) -> bool:
    try:
        return bool(read_results(path).tasks)
    except MedbenchError:
        return False


def _show_phases(phases: Phases) -> None:
    spent = sorted(phases.seconds.items(), key=lambda item: -item[1])
    total = sum(phases.seconds.values())
    rows = [[phase, f"{seconds:.1f}", f"{100 * seconds / total:.0f}"] for phase, seconds in spent if total]
    several = phases.notes.get("workers", {}).get("count", 0)
    whose = f"of {several} worker{'s' if several > 1 else ''} " if several else ""
    beside = [[f"{phase} (beside)", f"{seconds:.1f}", ""] for phase, seconds in sorted(phases.background.items())]
    emit_table(["phase", "seconds", "%"], [*rows, *beside], title=f"Where the time {whose}went")
    if phases.tasks:
        rates = [
            [task, f"{rate.output_tokens:,}", f"{rate.seconds:.1f}", f"{rate.tokens_per_second:,.0f}"]
            for task, rate in sorted(phases.tasks.items(), key=lambda item: -item[1].seconds)
        ]
        emit_table(["task", "output tokens", "seconds", "tokens/s"], rates, title="Where the engine's time went")
    if kept := phases.counts.get("answers kept"):
        written = phases.seconds["write"]
        cost = f"{1e6 * written / kept:,.0f} µs, {100 * written / total:.1f} % of all"
        say(f"To have an answer safe on the disk took {cost}.")
    if said := cached(phases):
        say(said)
    if efficiency := phases.efficiency():
        say(
            f"Engine: {100 * efficiency['useful_row_share']:.1f} % of rows useful, "
            f"{100 * efficiency['prefill_padding']:.1f} % of prefill padding, "
            f"{100 * efficiency['shared_prompt_share']:.1f} % of prompt tokens shared, "
            f"{phases.counts.get('images encoded', 0):,} images encoded, "
            f"{efficiency['output_tokens_per_second']:,.0f} output tokens/s"
        )


def exit_code(results: Results) -> int:
    """Return the exit code of a run that has ended: failure if nothing could be scored."""
    tasks = results.tasks.values()
    return _ended(metric for task in tasks for metric in (*task.paper.values(), *task.strict.values()))


def _ended(metrics: Iterable[MetricResult]) -> int:
    if any(metric.value is not None for metric in metrics):
        return 0
    say("Nothing could be scored.")
    return EXIT_FAILED


def show_results(results: Results) -> None:
    """Write a run's numbers under the paper protocol."""
    rows = []
    for name in (name for name in task_names() if name in results.tasks):
        task = results.tasks[name]
        failed = [f"{count} {state}" for state, count in sorted(task.states.items()) if count and state != "ok"]
        rows += [
            [task.title, metric_id, percent(metric), str(metric.n), ", ".join(failed)]
            for metric_id in metric_ids(name, task.kind, "paper")
            if (metric := task.paper.get(metric_id)) is not None
        ]
    columns = ["task", "metric", "value % [95 % interval]", "n", "not ok"]
    emit_table(columns, rows, title=f"{results.title}, paper protocol")


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, type=_FOLDER)
@click.option(
    "--output-dir", type=_FOLDER, help="Where the merged run's folder goes.  [default: into the first of RUNS]"
)
@click.option("--data-dir", type=_FOLDER, help="Where the prepared tasks of RUNS are now.")
@_NO_LOCK
def merge_command(runs: tuple[Path, ...], output_dir: Path | None, data_dir: Path | None, lock: bool | None) -> int:
    """Merge the shards of one run, in one folder or in several copies of it, and score; needs no model.

    The last of `medbench run --shard` does so by itself where all have one output folder.

    \b
    Example:  medbench merge runs/uni-med-mini-0123456789ab
              medbench merge machine-1/uni-med-mini-0123456789ab machine-2/uni-med-mini-0123456789ab
    """
    publish = partial(publish_run, data_dir=data_dir)
    outcome = merge_runs(runs, publish, output_dir=output_dir, data_dir=data_dir, lock=lock is None)
    _show_outcome(outcome)
    return exit_code(outcome.results)


_FORMATS = ("table", "lm-eval", "lmms-eval", "inspect", "medevalkit", "multimedeval", "llava-med", "uni-med")


@click.command("score")
@click.argument("runs", nargs=-1, type=_FOLDER)
@click.option("--data-dir", type=_FOLDER, help="Where the prepared tasks of RUNS are now.")
@click.option("-t", "--task", help="The task that --predictions answer.")
@click.option("--predictions", type=_FOLDER, help="A file of predictions, made by anybody.")
@click.option("--from", "source", type=click.Choice(_FORMATS), help="Format of the file.  [default: by the file]")
@click.option(
    "--column", "columns", multiple=True, callback=as_table, metavar="OURS=THEIRS",
    help="Name of a table's column: prediction=answer; repeat.  [default: guessed]",
)  # fmt: skip
@click.option("--references", type=_FOLDER, help="The right answers, where the format has none.")
@click.option(
    "--boxes", type=click.Choice(list(BOX_SPACES)), help="How the model writes boxes (REC).  [default: uni-med]"
)
@click.option("--protocol", type=click.Choice([*PROTOCOLS, "both"]), help="[default: both]")
@click.option("--format", "form", type=click.Choice(["table", "json"]), help="[default: table]")
def score_command(runs: tuple[Path, ...], data_dir: Path | None, task: str | None, **options: Any) -> int:
    """Score the answers of RUNS again without the model, or score anybody's predictions of one task.

    A row of predictions has at least `prediction` and `reference`; for REC `prediction`, `box` [x1, y1, x2, y2] in
    pixels and `image_size` [width, height]; optional are `answer_type` (OPEN or CLOSED), `choices` and `group`.
    Names of columns that are common for these are understood; `medbench import` makes a run of such files.

    \b
    Example:  medbench score runs/uni-med-mini-0123456789ab
              medbench score --task slake-vqa --predictions answers.jsonl --format json
              medbench score --task medqa-options --predictions MedQA.csv --from multimedeval
    """
    if task is not None:
        if runs or data_dir is not None:
            raise UsageError("Runs and --task exclude each other.", "Score runs or predictions, each by a command.")
        return _score_predictions(task, **options)
    if given := [one.opts[0] for one in score_command.params if options.get(one.name or "") is not None]:
        raise UsageError(f"{given[0]} needs --task.", "Add --task NAME; `medbench tasks` lists them.")
    if not runs:
        raise UsageError("There is nothing to score.", "Give folders of runs, or --task NAME --predictions FILE.")
    return _score_runs(runs, data_dir)


def _score_runs(runs: Sequence[Path], data_dir: Path | None) -> int:
    codes = [0]
    for path in runs:
        # One run that cannot be scored does not keep the others from it.
        with models.Attempt(str(path)) as attempt:
            results = rescore(path, data_dir)
            publish_run(path, data_dir)
            say(str(path))
            show_results(results)
            codes.append(exit_code(results))
        codes.append(attempt.exit_code)
    return max(codes)


def _score_predictions(
    task: str, predictions: Path | None, source: str | None, columns: dict[str, str] | None, references: Path | None,
    boxes: str | None, protocol: str | None, form: str | None,
) -> int:  # fmt: skip
    if predictions is None:
        raise UsageError("--task needs --predictions.", "Add --predictions FILE.")
    protocols = [name for name in PROTOCOLS if protocol in {None, "both", name}]
    scores = scoring.score(
        task, predictions, source=source or "", columns=columns or {}, references=references, boxes=boxes or "",
        protocols=protocols,
    )  # fmt: skip
    numbers = [(name, *found) for name, metrics in scores.protocols.items() for found in metrics.items()]
    if form == "json":
        emit(canonical_json(scores.as_json(), indent=2))
    else:
        rows = [[name, metric, percent(one), str(one.n), one.signature] for name, metric, one in numbers]
        states = ", ".join(f"{count} {state}" for state, count in scores.states.items() if count)
        title = f"{scores.task}: {scores.samples} predictions ({states})"
        emit_table(["protocol", "metric", "value % [95 % interval]", "n", "signature"], rows, title=title)
    if scores.samples and scores.states["unparsed"] == scores.samples - scores.states["error"]:
        say("No answer could be read. Is --boxes the space that the model writes in, or --from another format?")
    for doubt in scores.doubts:
        warn(doubt)
    return _ended(metric for _, _, metric in numbers)


@click.command("train")
@click.option("--config", default="mini", show_default=True, help="A recipe: official, paper, mini, or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--output", type=_FOLDER, help="Folder for the checkpoints and the finished model.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --output.")
@click.option("--dry-run", is_flag=True, help="Print parameters, memory and steps; load no weights, train nothing.")
@_NO_LOCK
def train_command(
    config: str, overrides: tuple[str, ...], data_dir: Path | None, output: Path | None, resume: bool, dry_run: bool,
    lock: bool | None,
) -> None:  # fmt: skip
    """Train Uni-Med by a recipe.

    \b
    Example:  medbench train --config mini --output checkpoints/mini
              medbench run --model uni-med --checkpoint checkpoints/mini --tasks all
    Stopped?  medbench train --config mini --output checkpoints/mini --resume
    Several GPUs:  accelerate launch -m medbench.harness.cli train --config official ...
    """
    from medbench.adapters.uni_med_training import plan_uni_med, train_uni_med
    from medbench.harness.trials import examine

    if dry_run:
        plan = plan_uni_med(config, overrides, data_dir)
        say(plan.heading)
        for columns, rows in plan.tables:
            emit_table(columns, rows)
        say(plan.closing)
        return
    if output is None:
        raise UsageError("There is no --output.", "Give a folder for the checkpoints, or --dry-run to train nothing.")
    if data_dir is None:
        warn("MINI SUITE: no --data-dir was given, so the train split of the bundled mini suite is used.")
        data_dir = prepare_mini_suite()
    # Of several processes that train together the first one holds the folder.
    locked = lock is None and os.environ.get("RANK", "0") == "0"
    file = output.absolute().with_name(f".{output.absolute().name}.lock")
    with held(file, f"Another process is training into {output}.", lock=locked), kept_in(output):
        train_uni_med(config, overrides, data_dir=data_dir, output=output, resume=resume, examine=examine)
    say(f"The checkpoint is in {output}. Run it: medbench run --model uni-med --checkpoint {output} --tasks all")
