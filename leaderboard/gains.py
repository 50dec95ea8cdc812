"""The paper's gain over a baseline, beside two that are easier to defend.

Like is compared with like: runs on the samples that they share, a paper's numbers with each other as they are. A run
stands beside a paper's number only where none of its samples failed, so that both are of the whole test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medbench.leaderboard.table import Cell, Line, Table
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.joint import geometric_gain, relative_gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What a model gains over a baseline on some datasets; None where they share no number.

    Attributes:
        datasets: How many count.
        relative: Mean of (ours - baseline) / baseline, the paper's.
        geometric: exp(mean of log ratios) - 1.
        points: Mean difference, a fraction.
        left_out: Data sets that both have a number of, but not of the same samples, by their titles.
    """

    datasets: int
    relative: float | None
    geometric: float | None
    points: float | None
    left_out: tuple[str, ...] = ()


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
    return [_gain(lines, place, base, mixed=_is_mixed(table, place, base)) for place in range(len(names))]


def _is_mixed(table: Table, place: int, base: int) -> bool:
    return len({table.columns[one].kind == "reported" for one in (place, base)}) > 1


def _gain(lines: Sequence[Line], place: int, base: int, *, mixed: bool) -> Gain:
    there = [line for line in lines if _has_number(line.cells[place]) and _has_number(line.cells[base])]
    found = [(line, _pair(line.cells[place], line.cells[base], mixed=mixed)) for line in there]
    pairs = [pair for _, pair in found if pair is not None]
    left_out = tuple(line.title for line, pair in found if pair is None)
    if not pairs:
        return Gain(datasets=0, relative=None, geometric=None, points=None, left_out=left_out)
    ours, theirs = np.asarray(pairs, dtype=np.float64).T
    return Gain(
        datasets=len(pairs),
        relative=_number(relative_gain(ours, theirs)),
        geometric=_number(geometric_gain(ours, theirs)),
        points=float((ours - theirs).mean()),
        left_out=left_out,
    )


def _has_number(cell: Cell | None) -> bool:
    return cell is not None and not cell.leaked and cell.value is not None


def _pair(ours: Cell | None, theirs: Cell | None, *, mixed: bool) -> tuple[float, float] | None:
    """Return two numbers of the same samples, or None if there are none."""
    pair = (_comparable(ours, mixed=mixed), _comparable(theirs, mixed=mixed))
    return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])


def _comparable(cell: Cell | None, *, mixed: bool) -> float | None:
    if cell is None:
        return None
    return (cell.value if cell.whole else None) if mixed else cell.compared


def _number(value: object) -> float | None:
    number = float(np.asarray(value))
    return None if np.isnan(number) else number
