"""The paper's gain over a baseline, beside two that are easier to defend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.table import Cell, Line, Table
from tasks.catalog import get_task
from tasks.foundation.errors import UsageError
from tasks.spec import Kind
from tasks.statistics.joint import geometric_gain, relative_gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What a model gains over a baseline on some datasets; None where they share no number.

    Attributes:
        datasets: How many count.
        relative: Mean of (ours - baseline) / baseline, the paper's.
        geometric: exp(mean of log ratios) - 1.
        points: Mean difference, a fraction.
    """

    datasets: int
    relative: float | None
    geometric: float | None
    points: float | None


NOTHING = Gain(datasets=0, relative=None, geometric=None, points=None)


def gains_over(table: Table, baseline: str, kind: Kind | None = None) -> list[Gain]:
    """Return the gain of every column over the baseline, on the datasets of a kind or on all.

    Numbers with evidence of a leak count on neither side, and only datasets that both have.

    Args:
        table: Lines of one metric per dataset.
        baseline: Name of a column.
        kind: Kind of the tasks; None for all.

    Raises:
        UsageError: If there is no such column.
    """
    names = [column.name for column in table.columns]
    if baseline not in names:
        raise UsageError(f"No model of the table is called {baseline!r}.", f"There are {', '.join(names)}.")
    base = names.index(baseline)
    lines = [line for line in table.lines if kind is None or get_task(line.task).kind == kind]
    return [_gain(lines, place, base) for place in range(len(names))]


def _gain(lines: Sequence[Line], place: int, base: int) -> Gain:
    pairs = [
        (ours, theirs)
        for line in lines
        if (ours := _counted(line.cells[place])) is not None and (theirs := _counted(line.cells[base])) is not None
    ]
    if not pairs:
        return NOTHING
    ours, theirs = np.asarray(pairs, dtype=np.float64).T
    return Gain(
        datasets=len(pairs),
        relative=_number(relative_gain(ours, theirs)),
        geometric=_number(geometric_gain(ours, theirs)),
        points=float((ours - theirs).mean()),
    )


def _counted(cell: Cell | None) -> float | None:
    return None if cell is None or cell.leaked else cell.value


def _number(value: object) -> float | None:
    number = float(np.asarray(value))
    return None if np.isnan(number) else number
