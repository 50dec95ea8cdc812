"""A grid of trainings: each is trained, answers and is scored once, by whichever process comes first.

A training has a name of its own (recipe, data and seed), so that the folder of a grid takes any table, row and seed:
what is there is used again. Processes, of this machine or of others that see it, take trainings that nobody holds.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from medbench.adapters.uni_med_ablation import Base, RowPlan, Training, cost_of, seconds_per_step
from medbench.adapters.uni_med_training import train_uni_med
from medbench.harness import models
from medbench.harness.finish import RunOutcome
from medbench.harness.run import publish_run, run
from medbench.harness.rundir import BusyError, held
from medbench.harness.settings import Settings
from medbench.harness.trials import examine
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, RunError, StoppedError, UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.validation import parse_json_file

__all__ = ["Base", "Grid", "TrainedRow", "read_base", "trained_rows"]
_LOG = "train_log.jsonl"
_NOTE = "scored.json"
_BASE = "base.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """The note that a training is through: its run's folder, by name."""

    run: Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The trainings of one or more tables in a folder."""

    folder: Path
    data_dir: Path
    base: Base
    rows: Sequence[RowPlan]
    lock: bool = True  # Whether a training is held against other processes.
    trainings: Mapping[str, Training] = field(init=False)  # All that the rows ask for, each once.

    def __post_init__(self) -> None:
        """Collect the trainings."""
        everything = {name: one for row in self.rows for name, one in row.trainings.items()}
        # Seed by seed, so that of a grid that is stopped all rows have some.
        ordered = sorted(everything.items(), key=lambda item: item[1].recipe.seed)
        object.__setattr__(self, "trainings", dict(ordered))

    def claim(self) -> None:
        """Note whose folder it is; UsageError if it is another base's, RunError if it cannot be written."""
        note = self.folder / _BASE
        if not note.is_file():
            write_atomically(note, canonical_json(asdict(self.base)) + "\n")
        elif (there := read_base(note)).key != self.base.key:
            raise UsageError(
                f"{self.folder} holds trainings of {there.told}, or on other data, and not of {self.base.told}.",
                "Give another --output: the tables of both would stand in one place.",
            )

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a training, which becomes its checkpoint."""
        return self.folder / "trainings" / name

    def log(self, name: str) -> Path:
        """Return the log of a training."""
        return self.checkpoint(name) / _LOG

    def run_of(self, name: str) -> Path | None:
        """Return the folder of a training's finished run, or None."""
        runs = self.folder / "runs" / name
        try:
            path = runs / parse_json_file(_Scored, runs / _NOTE).run
        except DataError:
            return None
        return path if (path / "done").is_file() else None

    def runs(self, row: RowPlan) -> tuple[Path, ...] | None:
        """Return the finished runs of all of a row's trainings, or None if one is missing."""
        found = [self.run_of(name) for name in row.trainings]
        return tuple(path for path in found if path is not None) if None not in found else None

    def left(self) -> Mapping[str, Training]:
        """Return the trainings that are not through."""
        return {name: one for name, one in self.trainings.items() if self.run_of(name) is None}

    def seconds_per_step(self) -> float | None:
        """Return the mean time of a step over all that was trained so far, None if nothing was."""
        told = [found for name in self.trainings if (found := seconds_per_step(self.log(name))) is not None]
        return sum(told) / len(told) if told else None

    def work(self) -> tuple[list[str], list[str]]:
        """Do all that is left and that nobody else does; return the trainings that failed, and those others are at.

        A KeyboardInterrupt goes through, also where a training kept its state first; the same command goes on.
        """
        failed, busy = list[str](), list[str]()
        for number, (name, training) in enumerate(self.trainings.items(), start=1):
            if self.run_of(name) is not None:
                continue
            say(f"Training {number} of {len(self.trainings)}: {self.titles(name)}, seed {training.recipe.seed}")
            with models.Attempt(name) as attempt:
                try:
                    self._do(name, training)
                except BusyError:
                    busy.append(name)
                except StoppedError as error:
                    raise KeyboardInterrupt from error
            failed += [name] if attempt.exit_code else []
            models.release()
        return failed, busy

    def titles(self, name: str) -> str:
        """Return which rows ask for a training."""
        return "; ".join(f"{row.table} {row.name}" for row in self.rows if name in row.trainings)

    def _do(self, name: str, training: Training) -> None:
        """Train, answer and score, from where it was left."""
        output, runs = self.checkpoint(name), self.folder / "runs" / name
        with held(output.with_name(f".{name}.lock"), f"Another process trains {name}.", lock=self.lock):
            if self.run_of(name) is not None:
                return
            recipe, begun = training.recipe, self.log(name).is_file()
            tower = self.folder / "towers" / training.tower if training.tower else None
            train_uni_med(recipe, data_dir=self.data_dir, output=output, resume=begun, examine=examine, tower=tower)
            settings = Settings(
                model="uni-med", checkpoint=output, tasks=recipe.tasks(), data_dir=self.data_dir, output_dir=runs,
                lock=self.lock,
            )  # fmt: skip
            outcome: RunOutcome = run(settings, publish_run)
            if not (outcome.path / "done").is_file():
                raise RunError(f"Not all of {outcome.path} was scored.", "The same command tries it again.")
            write_atomically(runs / _NOTE, canonical_json({"run": outcome.path.name}) + "\n")
            # Nobody goes on from there any more, and of a large model they are the most of a grid.
            shutil.rmtree(output / "checkpoints", ignore_errors=True)


def read_base(note: Path) -> Base:
    """Return whose a folder of trainings is; DataError if the file is malformed."""
    return parse_json_file(Base, note)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRow:
    """A row of a table whose trainings are all through, in the order of their seeds."""

    name: str
    over: str  # The row that its gain is counted over; empty for one that others are counted over.
    runs: tuple[Path, ...]
    logs: tuple[Path, ...]  # Of the trainings.
    parameters: int  # How many a training trains.


def trained_rows(grid: Grid, table: str) -> list[TrainedRow]:
    """Return the rows of a table that are through, if what they are counted over is too."""
    found = {}
    for row in grid.rows:
        if row.table == table and (runs := grid.runs(row)) is not None:
            logs = tuple(map(grid.log, row.trainings))
            trained, *_ = cost_of(next(iter(row.trainings.values())).recipe)
            found[row.name] = TrainedRow(name=row.name, over=row.over, runs=runs, logs=logs, parameters=trained)
    return [row for row in found.values() if not row.over or row.over in found]
