"""`interference.json`: what was measured of each model, as records; what reads it takes these, and nothing else."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from medbench.tasks.suite import SuiteName
from medbench.tasks.validation import parse_json_file

SCHEMA = 1
BINS = 10
ALL = "all"  # The group that all parameters are.
FILE = "interference.json"
Number = float | None
"""A number, or None where there is none (0/0)."""
Vector = tuple[Number, ...]
Matrix = tuple[Vector, ...]


class Record(BaseModel):
    """Strictly what its fields say, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class VectorBounds(Record):
    """A number per task with the ends of its 95 % interval."""

    value: Vector
    low: Vector
    high: Vector


class MatrixBounds(Record):
    """A number per pair of tasks with the ends of its 95 % interval."""

    value: Matrix
    low: Matrix
    high: Matrix


class Interference(Record):
    """Eqs. 2 to 4 over a group of parameters; rows are the tasks i that are pulled, columns the tasks j that pull."""

    parameters: int
    paper_direction: Matrix  # GD, mean of per-batch ratios.
    paper_index: Vector
    paper_normalised: Vector  # By the largest, as Fig. 4a.
    non_positive: Vector  # Share of batches whose denominator in `paper_direction` is not positive.
    direction: MatrixBounds  # GD, ratio of means.
    magnitude: MatrixBounds  # GM, the same in both readings.
    index: VectorBounds
    normalised: VectorBounds
    flipped: Matrix  # What 95 % of |GD| stay below when batches have random signs.
    halves: Vector  # GD of the second half of a task's batches under the first.


class Scored(Record):
    """Statistics scores (Eq. 5), counted in ten bins from 0 to 1."""

    shared: tuple[int, ...]  # Of parameters that two tasks or more reach.
    single: int  # Parameters that one task alone reaches, which score exactly 1.
    silent: int  # Parameters that no task reaches, 0/0.
    mean: Number  # Over the shared ones.
    paper: tuple[int, ...]  # Shared and single together, as Fig. 4b.
    paper_mean: Number


class Scores(Record):
    """Eq. 5 over a group of parameters, and what it says where there is nothing to say."""

    tasks: Scored
    flipped: Scored  # The same batches with random signs.
    copies: Scored  # As many copies of one task, each of as many other batches.
    halves: dict[str, Scored]  # By task, the halves of its batches as two tasks.


class Moment(Record):
    """Routing at a step of the training: of a checkpoint on the same batches, or as the training's log has it."""

    step: int
    source: str  # `checkpoint` or `log`.
    weights: dict[str, Vector]  # Mean weight of each expert by task; the log has the entries of the mixture.


class Measured(Record):
    """One model."""

    label: str
    connector: str
    fingerprint: str  # Of the weights.
    tasks: tuple[str, ...]
    left_out: dict[str, str]  # Tasks that were not measured, with the reason.
    data: dict[str, str]  # Fingerprints of the prepared tasks.
    batches: int
    batch_size: int
    seed: int
    precision: str
    stored: str  # The type in which sums were kept on the way.
    copied: str  # The task of `Scores.copies`.
    losses: dict[str, float]  # Mean by task.
    groups: dict[str, Interference]  # `all` and the parts of the connector.
    scores: dict[str, Scores]
    routing: dict[str, Vector]  # By task, the mean weight of each expert; empty without experts.
    over_training: tuple[Moment, ...]
    suite: SuiteName | None = None  # That the tasks make up; None in files that are older than this field.

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse numbers that are not one per task, per pair of tasks or per bin."""
        tasks = len(self.tasks)
        for one in self.groups.values():
            vectors = [one.paper_index, one.paper_normalised, one.non_positive, one.halves, *_ends(one.index)]
            matrices = [one.paper_direction, one.flipped, *_ends(one.direction), *_ends(one.magnitude)]
            if {len(row) for row in (*vectors, *_ends(one.normalised), *matrices)} != {tasks}:
                raise ValueError("not every number has its task")
            if {len(row) for matrix in matrices for row in matrix} != {tasks}:
                raise ValueError("not every number has its two tasks")
        kinds = ((one.tasks, one.flipped, one.copies, *one.halves.values()) for one in self.scores.values())
        if {len(row) for each in chain(*kinds) for row in (each.shared, each.paper)} != {BINS}:
            raise ValueError(f"scores are not in {BINS} bins")
        if ALL not in self.groups or self.groups.keys() != self.scores.keys():
            raise ValueError("the groups of parameters are not the same everywhere")
        return self


def _ends(bounds: VectorBounds | MatrixBounds) -> list[tuple[Any, ...]]:
    return [bounds.value, bounds.low, bounds.high]


class Document(Record):
    """The whole file."""

    schema_version: int = SCHEMA
    models: tuple[Measured, ...]


def read_document(path: Path) -> Document:
    """Return what `interference.json` says; DataError if it is not there or says something else."""
    return parse_json_file(Document, path)


_MATRICES: dict[str, Callable[[Interference], Matrix]] = {
    "direction-paper": lambda one: one.paper_direction, "direction": lambda one: one.direction.value,
    "direction-low": lambda one: one.direction.low, "direction-high": lambda one: one.direction.high,
    "direction-flipped": lambda one: one.flipped, "magnitude": lambda one: one.magnitude.value,
    "magnitude-low": lambda one: one.magnitude.low, "magnitude-high": lambda one: one.magnitude.high,
}  # fmt: skip
_INDEXES = (
    "group", "task", "paper", "paper_normalised", "non_positive", "strict", "low", "high", "normalised",
    "normalised_low", "normalised_high", "halves",
)  # fmt: skip


def csv_files(model: Measured) -> dict[str, str]:
    """Return the text of each CSV file of a model by its name."""
    files = {"index.csv": _indexes(model), "scores.csv": _scores(model), "routing.csv": _routing(model)}
    for name, of in _MATRICES.items():
        rows: list[Sequence[object]] = [["group", "task", *model.tasks]]
        for group, one in model.groups.items():
            rows += [[group, task, *row] for task, row in zip(model.tasks, of(one), strict=True)]
        files[f"{name}.csv"] = csv_text(rows)
    return files


def _indexes(model: Measured) -> str:
    rows: list[Sequence[object]] = [_INDEXES]
    for group, one in model.groups.items():
        columns = (
            one.paper_index, one.paper_normalised, one.non_positive, one.index.value, one.index.low, one.index.high,
            one.normalised.value, one.normalised.low, one.normalised.high, one.halves,
        )  # fmt: skip
        rows += [[group, *row] for row in zip(model.tasks, *columns, strict=True)]
    return csv_text(rows)


def _scores(model: Measured) -> str:
    upper = [f"to_{(place + 1) / BINS}" for place in range(BINS)]
    rows: list[Sequence[object]] = [["group", "of", *upper, "single", "silent", "mean", "paper_mean"]]
    for group, one in model.scores.items():
        named = {"tasks": one.tasks, "random signs": one.flipped, f"copies of {model.copied}": one.copies}
        named |= {f"halves of {task}": scored for task, scored in one.halves.items()}
        rows += [
            [group, name, *scored.shared, scored.single, scored.silent, scored.mean, scored.paper_mean]
            for name, scored in named.items()
        ]
    return csv_text(rows)


def _routing(model: Measured) -> str:
    experts = max((len(weights) for weights in model.routing.values()), default=0)
    rows: list[Sequence[object]] = [["source", "step", "task", *(f"expert_{place + 1}" for place in range(experts))]]
    rows += [["measured", "", task, *weights] for task, weights in model.routing.items() if weights]
    for one in model.over_training:
        rows += [[one.source, one.step, task, *weights] for task, weights in one.weights.items()]
    return csv_text(rows)


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text; no cell holds a comma or a quote. A number that there is not is an empty cell."""
    return "".join(",".join("" if cell is None else str(cell) for cell in row) + "\n" for row in rows)
