"""The command `medbench probe`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from medbench.adapters.base import Dtype
from medbench.harness.commands import as_table, known_device, weight_options
from medbench.harness.models import ModelOptions, settings_of
from medbench.harness.rundir import held_output
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import StoppedError, UsageError
from medbench.tasks.foundation.registry import imported_when_called

if TYPE_CHECKING:
    from medbench.harness.probing.document import Mode, Probed
    from medbench.harness.probing.work import Work

# Writes the page of a folder; named, not imported, since the leaderboard is built on the harness.
publish: Callable[[Path], Path] = imported_when_called("medbench.leaderboard.probing.page:publish")
_FOLDER, _COUNT = click.Path(path_type=Path), click.IntRange(min=1)
_LONGEST_LABEL = 60


@click.command("probe")
@click.option(
    "-m", "--model", "models", multiple=True, required=True, metavar="NAME[:VARIANT]", help="A local model; repeatable."
)
@click.option(
    "-t", "--tasks", multiple=True, required=True, metavar="TASK[:LABEL],...",
    help="What is to be told: a task's closed answers or boxes, or a label of its samples (slake-vqa:modality).",
)  # fmt: skip
@click.option("--output", type=_FOLDER, help="Folder for states, answers and the page; one for any models.")
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks with train splits.  [default: the bundled mini suite]")
@click.option(
    "--checkpoint", "checkpoints", multiple=True, metavar="[MODEL=]DIR",
    help="Folder of weights, once for each model.  [default: the model's own]",
)  # fmt: skip
@click.option(
    "--model-arg", "model_args", multiple=True, callback=as_table, metavar="[MODEL:]NAME=VALUE",
    help="A choice of the model, or of one of several; see `medbench models NAME`.",
)  # fmt: skip
@click.option("--label", help="Name of the model in the folder and on the page.  [default: of model and checkpoint]")
@click.option("--run", type=_FOLDER, help="A finished run whose answers are taken.  [default: the model is asked here]")
@click.option(
    "--reference", default="none", show_default=True, metavar="small|none|PATH",
    help="Networks that vision is compared with: small ones trained here, a folder of one to train on, or a file of "
    "predictions or scores.",
)  # fmt: skip
@click.option("--no-random", "random", flag_value=False, default=True, help="Read no states of random weights.")
@click.option("--published", is_flag=True, help="Also the published two-layer probe and its health scores.")
@click.option("--train-samples", type=_COUNT, help="Draw so many of each train split.  [default: all]")
@click.option("--limit", type=_COUNT, help="Only the first N test samples of each task.")
@click.option("--batch-size", "batch", type=_COUNT, default=16, show_default=True, help="Prompts at a time.")
@click.option(
    "--margin", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="A loss up to this is called none."
)
@click.option(
    "--refits", type=click.IntRange(2, 100), default=10, show_default=True,
    help="Trainings of a compared probe on resampled clusters.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of everything drawn.")
@click.option("--device", callback=known_device, metavar="auto|cpu|cuda[:N]|mps", default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(get_args(Dtype)), default="auto", show_default=True)
@weight_options
@click.option("--no-lock", "lock", flag_value=False, default=True, help="Hold no lock, where the file system has none.")
@click.option("--dry-run", is_flag=True, help="Load the model, read one batch of each task, and show what all takes.")
def probe_command(
    models: tuple[str, ...], tasks: tuple[str, ...], output: Path | None, *, lock: bool, dry_run: bool, **given: Any
) -> None:
    """Find where a model loses what a picture shows: in vision, connector or decoder, or in its answer.

    Probes are trained on the states at every place of the model, under the evaluation's own prompts.

    \b
    Example:  medbench probe --model uni-med --tasks dermamnist,slake-vqa:modality --output probed
              medbench probe --model hf:google/medgemma-4b-it --tasks busi --data-dir data --output probed --dry-run
    Stopped?  The same command goes on.
    """
    if given["data_dir"] is None:
        warn("MINI SUITE: no --data-dir was given, so the bundled mini suite is probed.")
    if output is None and not dry_run:
        raise UsageError("There is no --output.", "Give a folder, or --dry-run to write nothing.")
    if len(models) > 1 and (given["label"] or given["run"]):
        raise UsageError("--label and --run are for one model.", "Probe the models one by one into one --output.")
    works = _works(models, tasks, output or Path(), given)
    if dry_run:
        for work in works:
            columns, rows, title = work.plan()
            emit_table(columns, rows, title=title)
        return
    try:
        with held_output(works[0].folder.parent, f"Another process is probing into {output}.", lock=lock):
            for work in works:
                show(work.do())
            say(f"All numbers and figures: {publish(works[0].folder.parent)}")
    except KeyboardInterrupt:
        raise StoppedError("What was read is on disk; the same command continues.") from None


def _works(models: Sequence[str], tasks: Sequence[str], output: Path, given: dict[str, Any]) -> "list[Work]":
    from medbench.harness.probing.curves import Options
    from medbench.harness.probing.targets import Asked
    from medbench.harness.probing.work import Work

    asked = tuple(dict.fromkeys(Asked.of(name) for word in tasks for name in word.split(",") if name))
    names = tuple(dict.fromkeys(one.task for one in asked))
    of_model = ("data_dir", "device", "dtype", "lora", "quantize", "device_map", "seed", "limit")
    others = {**{name: given[name] for name in of_model}, "tasks": names}
    arguments, checkpoints = given["model_args"] or {}, given["checkpoints"]
    said = ModelOptions(models=models, arguments=arguments, checkpoints=checkpoints, others=others)
    options = Options(**{name: given[name] for name in ("margin", "refits", "seed", "published")})
    chosen = {name: given[name] for name in ("batch", "train_samples", "random", "run", "reference")}
    works = []
    for settings in settings_of(None, said):
        label = given["label"] or _label(settings.model, settings.checkpoint)
        folder = output.absolute() / label
        works.append(Work(settings=settings, asked=asked, label=label, folder=folder, options=options, **chosen))
    return works


def _label(model: str, checkpoint: Path | None) -> str:
    name = "-".join([model[-_LONGEST_LABEL:], *([checkpoint.resolve().name] if checkpoint else [])])
    return "".join(one if one.isalnum() or one in "-._" else "-" for one in name).strip("-.")


def show(found: "Probed") -> None:
    """Write the verdicts on a model, a line for each target and mode."""
    rows = [[target.name, *_line(mode)] for target in found.targets for mode in target.modes]
    columns = ("target", "loss", "verdict", "from", "to", "difference [95 %]", "p", "would show")
    emit_table(columns, rows, title=f"{found.title}: scores between chance (0) and all right (1)")
    for why in dict.fromkeys(mode.why for target in found.targets for mode in target.modes if mode.why):
        say(f"Cannot be tested: {why}.")


def _line(mode: "Mode") -> list[str]:
    bounds = mode.difference
    told = "-" if bounds is None else f"{bounds.value:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
    numbers = ["-" if one is None else f"{one:.3f}" for one in (mode.p, mode.would_show)]
    return [mode.name, mode.verdict, mode.first or "-", mode.second or "-", told, *numbers]
