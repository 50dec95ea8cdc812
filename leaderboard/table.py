"""A table ready for any renderer: columns of runs, of several runs of one model, or of a paper; cells with marks."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from statistics import mean, stdev
from typing import Literal

from harness.results import MetricResult, Results
from leaderboard.board import Board, Standing, standings_of
from leaderboard.layouts import Layout
from leaderboard.published.read import Publication, Reported
from tasks.catalog import get_task, task_names
from tasks.foundation.errors import UsageError
from tasks.protocols import Protocol

Kind = Literal["run", "runs", "reported"]
_FEWEST_FOR_SPREAD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One model.

    Attributes:
        name: Title.
        kind: A run, several runs of one model, or a paper's numbers.
        source: Identities of the runs, or the paper.
    """

    name: str
    kind: Kind
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number with everything that a table may show of it.

    Attributes:
        value: A fraction; None where nothing could be scored.
        ci: 95 % interval over test samples; None for a mean of runs and for reported numbers.
        n: Samples that were scored; None where a paper does not say.
        spread: Standard deviation over three or more runs.
        runs: How many runs are behind it.
        ceiling: What a perfect model scores in this box notation, if that is less than everything.
        zero_shot: Whether the model is known not to have seen the task's train split.
        leaked: Whether there is evidence that it has seen the test split.
        standing: Whether it leads.
    """

    value: float | None
    ci: tuple[float, float] | None = None
    n: int | None = None
    spread: float | None = None
    runs: int = 1
    ceiling: float | None = None
    zero_shot: bool = False
    leaked: bool = False
    standing: Standing = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One metric of one task.

    Attributes:
        task: Name of the task.
        title: Name of the task in tables.
        metric: Id of the metric.
        cells: One for each column, None where a model does not answer it.
        overlaps: Whether test and training data of the task overlap, as an audit of the data found.
    """

    task: str
    title: str
    metric: str
    cells: tuple[Cell | None, ...]
    overlaps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The table of one protocol."""

    protocol: Protocol
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def make_table(
    board: Board | None, protocol: Protocol, *, grouped: bool = False, published: Sequence[Publication] = (),
    layout: Layout | None = None, overlapping: Collection[str] = (),
) -> Table:  # fmt: skip
    """Return the table of a board, of published numbers, or of both.

    Args:
        board: Runs that may stand side by side; None for published numbers alone.
        protocol: Whose definitions.
        grouped: Whether runs of one title become one column: their mean, and from three runs on the standard deviation.
        published: Numbers of papers, in columns of their own.
        layout: Which rows; all that the runs have if there is none.
        overlapping: Tasks whose test and training data overlap.

    Raises:
        UsageError: If published numbers follow another protocol or would stand beside another suite than the paper's.
    """
    _refuse_mixtures(board, protocol, published)
    runs = [] if board is None else _run_columns(board, protocol, grouped=grouped)
    papers = [_paper_column(publication, name) for publication in published for name in publication.models]
    columns = [*runs, *papers]
    lines = [
        Line(
            task=task, title=title, metric=metric, overlaps=task in overlapping,
            cells=_ranked([cell_of(task, metric) for _, cell_of in columns]),
        )
        for task, title, metric in _rows(board, protocol, published, layout)
    ]  # fmt: skip
    return Table(
        protocol=protocol,
        columns=tuple(column for column, _ in columns),
        lines=tuple(line for line in lines if any(line.cells)),
    )


CellOf = Callable[[str, str], Cell | None]


def _refuse_mixtures(board: Board | None, protocol: Protocol, published: Sequence[Publication]) -> None:
    for publication in published:
        if publication.protocol != protocol:
            raise UsageError(
                f"{publication.source} follows the protocol {publication.protocol!r}, not {protocol!r}.",
                "Protocols are never mixed in one table.",
            )
    if published and board is not None and board.suite != "paper":
        raise UsageError(
            f"Published numbers never stand beside the suite {board.suite!r}.",
            "They belong to the paper's datasets: run on those, or leave --reported out.",
        )


def _rows(
    board: Board | None, protocol: Protocol, published: Sequence[Publication], layout: Layout | None
) -> list[tuple[str, str, str]]:
    titles = {} if board is None else {row.task: row.title for row in board.rows[protocol]}
    if layout is not None:
        return [(task, titles.get(task) or get_task(task).title, metric) for task, metric in layout.rows]
    if board is not None:
        return [(row.task, row.title, row.metric) for row in board.rows[protocol]]
    there = {
        (task, metric): None
        for publication in published
        for model in publication.models.values()
        for task, scores in model.scores.items()
        for metric in scores
    }
    order = {name: place for place, name in enumerate(task_names())}
    return [(task, get_task(task).title, metric) for task, metric in sorted(there, key=lambda row: order[row[0]])]


def _run_columns(board: Board, protocol: Protocol, *, grouped: bool) -> list[tuple[Column, CellOf]]:
    if not grouped:
        return [
            (Column(name=name, kind="run", source=run.run), partial(_cell, board, run, protocol))
            for name, run in zip(board.names, board.runs, strict=True)
        ]
    columns: list[tuple[Column, CellOf]] = []
    alike = sorted(board.runs, key=lambda run: run.model.title)
    for title, group in groupby(alike, key=lambda run: run.model.title):
        runs = list(group)
        column = Column(name=title, kind="runs" if len(runs) > 1 else "run", source=" ".join(run.run for run in runs))
        columns.append((column, partial(_mean_cell, board, runs, protocol)))
    return columns


def _cell(board: Board, run: Results, protocol: Protocol, task: str, metric: str) -> Cell | None:
    if task not in run.tasks:
        return None
    found: MetricResult | None = run.tasks[task].metrics(protocol).get(metric)
    if found is None:
        return None
    return Cell(
        value=found.value, ci=found.ci, n=found.n, ceiling=found.limiting_ceiling,
        zero_shot=run.model.is_zero_shot_on(task), leaked=board.is_leaked(run, task),
    )  # fmt: skip


def _mean_cell(board: Board, runs: Sequence[Results], protocol: Protocol, task: str, metric: str) -> Cell | None:
    cells = [cell for run in runs if (cell := _cell(board, run, protocol, task, metric)) is not None]
    if len(cells) < len(runs):
        # A mean over some of the runs would not be the model's.
        return None
    if len(cells) == 1:
        return cells[0]
    values = [cell.value for cell in cells if cell.value is not None]
    counts = {cell.n for cell in cells}
    return Cell(
        value=mean(values) if len(values) == len(cells) else None,
        n=counts.pop() if len(counts) == 1 else None,
        spread=stdev(values) if len(values) >= _FEWEST_FOR_SPREAD else None,
        runs=len(cells),
        ceiling=cells[0].ceiling,
        zero_shot=all(cell.zero_shot for cell in cells),
        leaked=any(cell.leaked for cell in cells),
    )


def _paper_column(publication: Publication, name: str) -> tuple[Column, CellOf]:
    reported = publication.models[name]
    column = Column(name=name, kind="reported", source=publication.source)
    return column, partial(_reported_cell, reported)


def _reported_cell(reported: Reported, task: str, metric: str) -> Cell | None:
    value = reported.scores.get(task, {}).get(metric)
    if value is None:
        return None
    spread = reported.spread.get(task, {}).get(metric)
    return Cell(
        value=value / 100, spread=None if spread is None else spread / 100, runs=reported.runs,
        zero_shot=task in reported.zero_shot, leaked=task in reported.leaked,
    )  # fmt: skip


def _ranked(cells: Sequence[Cell | None]) -> tuple[Cell | None, ...]:
    """Return cells with the first two marked; a number with evidence of a leak leads nobody."""
    numbers = [None if cell is None or cell.value is None or cell.leaked else (cell.value, cell.n) for cell in cells]
    marked = zip(cells, standings_of(numbers), strict=True)
    return tuple(cell and replace(cell, standing=standing) for cell, standing in marked)
