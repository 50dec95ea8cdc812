"""The command `medbench interpret`."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import click

from medbench.harness.commands import known_device
from medbench.harness.rundir import held_output
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.suite import prepare_mini_suite

# Writes the page of a folder; named, not imported, since the leaderboard is built on the harness.
publish: Callable[[Path], Path] = imported_when_called("medbench.leaderboard.interpretation.page:publish")
_FOLDER = click.Path(path_type=Path)


@click.command("interpret")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks with train splits.  [default: the bundled mini suite]")
@click.option("--output", type=_FOLDER, help="Folder for what is measured.")
@click.option("--batches", type=click.IntRange(min=2), default=100, show_default=True, help="Batches of each task.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Samples of one batch.")
@click.option(
    "--images", type=click.IntRange(min=0), default=100, show_default=True,
    help="Test images of each task on the maps; 0 for none.",
)  # fmt: skip
@click.option(
    "--fisher", type=click.IntRange(min=2), metavar="N",
    help="Also the spectrum of the Fisher information, of so many samples of each task.",
)  # fmt: skip
@click.option("--tasks", help="Names, by commas.  [default: those that it was trained on, with images]")
@click.option("--seed", type=click.IntRange(min=0, max=2**31 - 1), help="Of the batches.  [default: the training's]")
@click.option("--device", default="auto", show_default=True, callback=known_device, help="auto, cpu, mps, cuda:N.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--no-lock", "lock", flag_value=False, default=True, help="Hold no lock, where the file system has none.")
@click.option("--dry-run", is_flag=True, help="Print passes, memory and time; load no weights, measure nothing.")
def interpret_command(
    models: tuple[str, ...], data_dir: Path | None, output: Path | None, tasks: str | None, images: int,
    fisher: int | None, *, lock: bool, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure how tasks disturb one another in a model's connector, and write a page with figures.

    By the gradients of the training loss (GD, GM, tug-of-war, statistics scores), routing and maps of features.

    MODEL is the folder of a checkpoint or of a run, uni-med for the bundled mini weights, or hf:NAME. Several are
    measured one after the other, and lie side by side in interference.json.

    \b
    Example:  medbench interpret uni-med --batches 10 --output interference
              medbench interpret checkpoints/mlp checkpoints/cmoe --data-dir data --output interference
    Stopped?  The same command goes on.
    """
    from medbench.adapters.interpreting import FILE, Work, fisher_tables, tables

    if data_dir is None:
        warn("MINI SUITE: no --data-dir was given, so the train split of the bundled mini suite is used.")
        data_dir = prepare_mini_suite()
    named = tuple(name for name in (tasks or "").split(",") if name)
    work = Work.of(models, data_dir=data_dir, tasks=named, **options)
    emit_table(*work.plan())
    singles = Work.of(models, data_dir=data_dir, tasks=named, **{**options, "batch_size": 1}) if fisher else None
    if singles and fisher:
        emit_table(*singles.fisher_plan(fisher))
    if dry_run:
        return
    if output is None:
        raise UsageError("There is no --output.", "Give a folder, or --dry-run to measure nothing.")
    with held_output(output, f"Another process is measuring into {output}.", lock=lock):
        found = work.measure(output)
        spectra = fisher_tables(singles.fisher(output, fisher)) if singles and fisher else ()
        work.map(output, images)
        page = publish(output)
    for title, columns, rows in chain(tables(found), spectra):
        emit_table(columns, rows, title=title)
    say(f"All numbers are in {output / FILE}, and as CSV in its folders. The page: {page}")
