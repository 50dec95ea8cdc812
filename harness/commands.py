"""The commands `medbench run`, `medbench merge`, `medbench score` and `medbench train`."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click

from medbench.adapters.base import DEVICE, DeviceMap, Quantization
from medbench.harness import models
from medbench.harness.finish import RunOutcome
from medbench.harness.merging import merge_runs
from medbench.harness.outcomes import code_of_metrics, code_of_results, exit_code, show_outcome, show_results
from medbench.harness.predictions import scoring
from medbench.harness.results import percent
from medbench.harness.run import ShardOutcome, publish_run, run, run_shard
from medbench.harness.rundir import held
from medbench.harness.score import rescore
from medbench.harness.settings import MAX_SEED, Settings, read_limits
from medbench.harness.several import run_several, show_plan
from medbench.harness.shards import Shard, read_shard
from medbench.harness.sweep import MODELS, Sweep, read_sweep, save_sweep
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import StoppedError, UsageError
from medbench.tasks.foundation.files import canonical_json, read_yaml_table
from medbench.tasks.foundation.last_resort import kept_in
from medbench.tasks.metrics.asked import NO_METRIC, wanted_metrics
from medbench.tasks.probes import PROBES
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.suite import prepare_mini_suite

_FOLDER = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
Command = TypeVar("Command", bound=Callable[..., Any])
_NO_LOCK = click.option(
    "--no-lock", "lock", flag_value=False, default=None,
    help="Hold no lock, where the file system has none; see to it that no other process writes there.",
)  # fmt: skip

_METRIC = click.option(
    "--metric", "metrics", multiple=True, metavar="NAME[:VARIANT]",
    help="Score by this metric too; repeatable. See `medbench metrics`.",
)  # fmt: skip
_METRIC_ARG = click.option(
    "--metric-arg", "metric_args", multiple=True, callback=lambda *given: as_table(*given) or {},
    metavar="METRIC:NAME=VALUE", help="A choice of such a metric; see `medbench metrics NAME`.",
)  # fmt: skip
_PROFILE = click.option("--profile", is_flag=True, help="Show where the time went, by phase and by task.")


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
@_METRIC
@_METRIC_ARG
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
@click.option(
    "--config", type=_FOLDER,
    help="A file of many runs (docs/sweeps.md), or a run.yaml to run again; options override it.",
)  # fmt: skip
@click.option(
    "--save-config", type=_FOLDER, help="Write these runs as a file for --config first; with --dry-run only that."
)
@_PROFILE
@click.option(
    "--overwrite", type=click.Choice(["never", "always"]), default="never", show_default=True,
    help="What to do with what an earlier run with these settings left.",
)  # fmt: skip
def run_command(
    named: tuple[str, ...], model_args: dict[str, str] | None, checkpoints: tuple[str, ...], config: Path | None, *,
    save_config: Path | None, overwrite: str, only_shown: bool, shard: Shard | None, profile: bool,
    metrics: tuple[str, ...], metric_args: dict[str, str], **options: Any,
) -> int:  # fmt: skip
    """Run a model over tasks and write a leaderboard; several models one after the other.

    An interrupted run continues when the same command is given again.

    \b
    Example:  medbench run --model uni-med --tasks slake-vqa,cls --limit 20
              medbench run --model uni-med --model blind --tasks prepared --data-dir data
              medbench run --config sweep.yaml
              medbench run --model uni-med --tasks all --shard 2/8
    """
    if shard is not None and (only_shown or overwrite == "always" or options["lock"] is False):
        _refuse_with_shard(overwrite, only_shown=only_shown)
    asked = wanted_metrics(metrics, metric_args) or None
    others = {**options, "tasks": options["tasks"] or None, "metrics": asked}
    said = models.ModelOptions(models=named, arguments=model_args or {}, checkpoints=checkpoints, others=others)
    planned = _planned(config, said)
    if save_config is not None:
        save_sweep(save_config, planned)
        say(f"These runs are written to {save_config}: medbench run --config {save_config}")
    if only_shown:
        return show_plan(planned)

    def run_one(settings: Settings) -> RunOutcome | ShardOutcome:
        return run(settings, overwrite=overwrite) if shard is None else run_shard(settings, shard)

    try:
        if len(planned.runs) > 1:
            return run_several(planned, run_one, profile=profile)
        outcome = run_one(planned.runs[0].settings)
        show_outcome(outcome, profile=profile)
        return exit_code(outcome)
    except KeyboardInterrupt:
        raise StoppedError("What was answered is on disk; the same command continues.") from None


def _planned(config: Path | None, said: models.ModelOptions) -> Sweep:
    """Return the runs of a command: those of a sweep's file, or those of its models."""
    if config is None or MODELS not in read_yaml_table(config):
        return Sweep.of(models.settings_of(config, said))
    given = {"--model": said.models, "--model-arg": said.arguments, "--checkpoint": said.checkpoints}
    if wrong := [option for option, value in given.items() if value]:
        raise UsageError(f"{wrong[0]} says what {config} says of its models.", "Write it there, below `models`.")
    return read_sweep(config, said.others)


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


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, type=_FOLDER)
@click.option(
    "--output-dir", type=_FOLDER, help="Where the merged run's folder goes.  [default: into the first of RUNS]"
)
@click.option("--data-dir", type=_FOLDER, help="Where the prepared tasks of RUNS are now.")
@_NO_LOCK
@_PROFILE
def merge_command(
    runs: tuple[Path, ...], output_dir: Path | None, data_dir: Path | None, lock: bool | None, *, profile: bool
) -> int:
    """Merge the shards of one run, in one folder or in several copies of it, and score; needs no model.

    The last of `medbench run --shard` does so by itself where all have one output folder.

    \b
    Example:  medbench merge runs/uni-med-mini-0123456789ab
              medbench merge machine-1/uni-med-mini-0123456789ab machine-2/uni-med-mini-0123456789ab
    """
    publish = partial(publish_run, data_dir=data_dir)
    outcome = merge_runs(runs, publish, output_dir=output_dir, data_dir=data_dir, lock=lock is None)
    show_outcome(outcome, profile=profile)
    return exit_code(outcome)


_FORMATS = ("table", "lm-eval", "lmms-eval", "inspect", "medevalkit", "multimedeval", "llava-med", "uni-med")


@click.command("score")
@click.argument("runs", nargs=-1, type=_FOLDER)
@click.option("--data-dir", type=_FOLDER, help="Where the prepared tasks of RUNS are now.")
@_METRIC
@_METRIC_ARG
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
def score_command(
    runs: tuple[Path, ...], data_dir: Path | None, task: str | None, metrics: tuple[str, ...],
    metric_args: dict[str, str], **options: Any,
) -> int:  # fmt: skip
    """Score the answers of RUNS again without the model, or score anybody's predictions of one task.

    A row of predictions has at least `prediction` and `reference`; for REC `prediction`, `box` [x1, y1, x2, y2] in
    pixels and `image_size` [width, height]; optional are `answer_type` (OPEN or CLOSED), `choices` and `group`.
    Names of columns that are common for these are understood; `medbench import` makes a run of such files.

    Numbers of an earlier --metric stay and are made again; `--metric none` leaves them out.

    \b
    Example:  medbench score runs/uni-med-mini-0123456789ab
              medbench score runs/uni-med-paper-0123456789ab --metric radgraph
              medbench score --task slake-vqa --predictions answers.jsonl --format json
              medbench score --task medqa-options --predictions MedQA.csv --from multimedeval
    """
    asked = {} if metrics == (NO_METRIC,) else wanted_metrics(metrics, metric_args) or None
    if task is not None:
        if asked is not None:
            way_out = "Make a run of the file first: medbench import; then give that run to medbench score."
            raise UsageError("--metric is for runs, not for a file of predictions.", way_out)
        if runs or data_dir is not None:
            raise UsageError("Runs and --task exclude each other.", "Score runs or predictions, each by a command.")
        return _score_predictions(task, **options)
    if given := [one.opts[0] for one in score_command.params if options.get(one.name or "") is not None]:
        raise UsageError(f"{given[0]} needs --task.", "Add --task NAME; `medbench tasks` lists them.")
    if not runs:
        raise UsageError("There is nothing to score.", "Give folders of runs, or --task NAME --predictions FILE.")
    return _score_runs(runs, data_dir, asked)


def _score_runs(runs: Sequence[Path], data_dir: Path | None, metrics: dict[str, dict[str, str]] | None) -> int:
    codes = [0]
    for path in runs:
        # One run that cannot be scored does not keep the others from it.
        with models.Attempt(str(path)) as attempt:
            results = rescore(path, data_dir, metrics)
            publish_run(path, data_dir)
            say(str(path))
            show_results(results)
            codes.append(code_of_results(results))
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
    return code_of_metrics(metric for _, _, metric in numbers)


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
    from medbench.adapters.uni_med_training import plan_uni_med, recipe_of, train_uni_med
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
    recipe = recipe_of(config, overrides)  # a mistake in it leaves nothing behind
    # Of several processes that train together the first one holds the folder.
    locked = lock is None and os.environ.get("RANK", "0") == "0"
    file = output.absolute().with_name(f".{output.absolute().name}.lock")
    with held(file, f"Another process is training into {output}.", lock=locked), kept_in(output):
        train_uni_med(recipe, data_dir=data_dir, output=output, resume=resume, examine=examine)
    say(f"The checkpoint is in {output}. Run it: medbench run --model uni-med --checkpoint {output} --tasks all")
