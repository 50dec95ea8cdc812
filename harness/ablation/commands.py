"""The command `medbench ablate`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import click

from medbench.adapters.uni_med_ablation import TABLES, cost_of, measured_step, row_plans
from medbench.harness.ablation.grid import Grid, trained_rows
from medbench.harness.settings import Settings
from medbench.harness.workers.hiring import local_gpus, on_gpus
from medbench.harness.workers.processes import processors
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED, StoppedError, UsageError
from medbench.tasks.foundation.last_resort import kept_in
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.suite import prepare_mini_suite

# Makes the table; named, not imported, since the leaderboard is built on the harness.
publish_ablation: Callable[..., None] = imported_when_called("medbench.leaderboard.ablation.pages:publish_ablation")
_GIB, _HOUR = 1 << 30, 3600
_FOLDER = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command line says."""

    tables: tuple[str, ...]
    rows: tuple[str, ...]
    base: str
    overrides: tuple[str, ...]
    data_dir: Path | None
    seeds: int
    output: Path | None
    workers: int
    measure: bool
    dry_run: bool
    lock: bool
    only_train: bool

    def grid(self) -> Grid:
        """Return the trainings that are asked for; errors of `row_plans`."""
        data_dir = self.data_dir or prepare_mini_suite()
        base, rows = row_plans(
            self.tables, self.rows, self.base, self.overrides, data_dir=data_dir, seeds=self.seeds,
            planned=self.dry_run and not self.measure,
        )  # fmt: skip
        return Grid(folder=self.output or Path(), data_dir=data_dir, base=base, rows=rows, lock=self.lock)

    def shown(self) -> Grid:
        """Return what the tables show: every row that is through, in as many trainings as those asked for have.

        A table of some rows would adjust p for these alone, which invites to choose them.
        """
        seeds = self.seeds
        while not replace(self, seeds=seeds + 1).grid().left():
            seeds += 1
        return replace(self, rows=(), seeds=seeds).grid()

    def as_worker(self) -> list[str]:
        """Return the words that let a process do the same, without a plan and a table."""
        said = {"table": self.tables, "rows": self.rows, "base": [self.base], "set": self.overrides,
                "data-dir": [self.data_dir], "seeds": [self.seeds], "output": [self.output]}  # fmt: skip
        words = [f"--{name}={one}" for name, values in said.items() for one in values]
        return ["ablate", *words, "--only-train", *([] if self.lock else ["--no-lock"])]


@click.command("ablate")
@click.option(
    "--table", "tables", multiple=True, required=True, type=click.Choice(TABLES), help="A table of the paper; repeat."
)
@click.option(
    "--rows", multiple=True, metavar="NAME", help="A row, as the paper's table names it; repeat.  [default: all]"
)
@click.option(
    "--base", default="mini-ablation", show_default=True, help="A recipe that all rows share, or a YAML file."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Trainings of each row.")
@click.option("--output", type=_FOLDER, help="Folder for trainings, runs and tables; one for any tables.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Trainings at a time.")
@click.option("--measure", is_flag=True, help="Measure a few steps of the largest row first, for the estimate of time.")
@click.option("--dry-run", is_flag=True, help="Only show the trainings and what they cost.")
@click.option("--no-lock", "lock", flag_value=False, default=True, help="Hold no lock, where the file system has none.")
@click.option("--only-train", is_flag=True, hidden=True, help="Be a worker: no plan, no table.")
def ablate_command(**given: Any) -> int:
    """Train, answer and score the rows of the paper's Tables 2 and 5, and put them into its table.

    What is done is used again, also by other tables; after a stop the same command goes on. Rows that the chosen ones
    are counted over are trained too. Each table is written to OUTPUT/TABLE: ablation.json, .md, .csv, .tex, curves.svg.

    \b
    Example:  medbench ablate --table 2a --table 5 --dry-run
              medbench ablate --table 2a --table 5 --output ablations/mini
              medbench ablate --table 2a --rows MLP --rows "CMoE, hard" --base official --data-dir data --output DIR \\
                --set model.language_model=... --set model.vision_weights=... --workers 8
    """
    asked = _Asked(**given)
    if asked.output is None and not asked.dry_run:
        raise UsageError("There is no --output.", "Give a folder for trainings and tables, or --dry-run.")
    if asked.data_dir is None:
        if not asked.only_train:
            warn("MINI SUITE: no --data-dir was given, so the bundled mini suite is trained on and answered.")
        asked = replace(asked, data_dir=prepare_mini_suite())
    grid = asked.grid()
    if not asked.dry_run:
        grid.claim()
    if not asked.only_train:
        show_plan(grid, measure=asked.measure)
    if asked.dry_run:
        return 0
    with kept_in(grid.folder):
        try:
            failed, busy = _train(asked, grid)
        except KeyboardInterrupt as error:
            if asked.only_train:
                return EXIT_INTERRUPTED
            raise StoppedError("What was trained, answered and scored is kept: the same command goes on.") from error
        return (EXIT_FAILED if failed else 0) if asked.only_train else _end(asked, grid, failed, busy)


def show_plan(grid: Grid, *, measure: bool) -> None:
    """Show the trainings of a grid and what they cost, before any of them begins."""
    left, lines, largest, sizes = grid.left(), list[Sequence[str]](), (0, ""), ""
    for row in grid.rows:
        recipe = next(iter(row.trainings.values())).recipe
        trained, memory, sizes = cost_of(recipe)
        largest = max(largest, (trained, next(iter(row.trainings))))
        done = f"{len(row.trainings.keys() - left.keys())} of {len(row.trainings)}"
        counted = (f"{trained:,}", f"{memory / _GIB:.2f}", f"{recipe.steps:,}")
        lines.append((row.table, row.name, row.over or "-", *counted, done))
    emit_table(("table", "row", "gain over", "trained parameters", "memory, GiB", "steps", "done"), lines)
    recipe = grid.trainings[largest[1]].recipe
    seconds = measured_step(recipe, grid.data_dir) if measure else grid.seconds_per_step()
    steps = sum(one.recipe.steps for one in left.values())
    shared = sum(len(row.trainings) for row in grid.rows) - len(grid.trainings)
    say(f"Base {grid.base.told}. {sizes}")
    say(
        f"{len(grid.trainings)} trainings{f' ({shared} more are shared by rows)' if shared else ''}, of which "
        f"{len(left)} are left, {steps:,} steps in all; each answers {', '.join(recipe.tasks())}."
    )
    say(
        f"Time of training: {steps * seconds / _HOUR:.1f} h one after the other, at {seconds:.2f} s a step as "
        f"{'measured now' if measure else 'in those that were done'}; answering comes on top."
        if seconds else "Time: not known before something was trained; --measure takes a few steps."
    )  # fmt: skip


def _train(asked: _Asked, grid: Grid) -> tuple[list[str], list[str]]:
    """Do all that is left, with others where several are asked for; return like `Grid.work`."""
    if asked.only_train:
        Thread(target=_end_with_parent, daemon=True).start()
    if asked.workers > 1:
        _train_together(asked.as_worker(), asked.workers)
    return grid.work()


def _end_with_parent() -> None:
    """End as by a signal when the pipe ends, which is when the parent does, also after `kill -9`."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _train_together(words: Sequence[str], workers: int) -> None:
    """Let processes train what is left, each on a GPU if there are some; each takes what no other holds."""
    settings = Settings(model="uni-med")
    gpus = local_gpus(workers, settings) if on_gpus(settings) else []
    threads = str(max(1, processors() // workers))
    children = []
    for number in range(workers):
        own = {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {"OMP_NUM_THREADS": threads}
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, **own, "PYTHONPATH": path}
        command = [sys.executable, "-P", "-m", "medbench", *words]
        # Ctrl-C reaches this process alone, which ends them.
        children.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True))  # noqa: S603 - ourselves
    try:
        for child in children:
            child.wait()
    finally:
        # Where this one is stopped; each keeps a checkpoint of the step that it is at.
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


def _end(asked: _Asked, grid: Grid, failed: Sequence[str], busy: Sequence[str]) -> int:
    """Write the tables of what is through, and say what is not."""
    shown = asked.shown()
    for table in dict.fromkeys(asked.tables):
        rows = trained_rows(shown, table)
        missing = [row.name for row in grid.rows if row.table == table and row.name not in {one.name for one in rows}]
        if any(row.over for row in rows):
            publish_ablation(grid.folder / table, table, rows, missing, grid.base)
        elif rows:
            warn(f"Table {table} has no row yet that is counted over {rows[0].name}: add some, with --rows.")
        else:
            warn(f"Table {table} has no row yet whose trainings, and those it is counted over, are all through.")
    for what, which in (("failed", failed), ("are done by other processes", busy)):
        if which:
            warn(f"{len(which)} of {len(grid.trainings)} trainings {what}: {', '.join(map(grid.titles, which))}.")
    if failed or busy:
        say("The same command does what is left, and makes the tables.")
    return EXIT_FAILED if failed or busy else 0
