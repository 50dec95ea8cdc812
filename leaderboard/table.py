"""A table ready for any renderer: columns of runs, of several runs of one model, or of a paper; cells with marks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from statistics import mean, stdev
from typing import Literal

from medbench.leaderboard.board import Board, Row
from medbench.leaderboard.counts import not_ok
from medbench.leaderboard.layouts import Layout
from medbench.leaderboard.published.read import Publication, Reported
from medbench.leaderboard.standings import Standing, standings_of
from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import Protocol

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
        compared: The value on the samples that the runs share, by which it is decided who leads; None for a number that
            takes no part. A paper's numbers are compared with each other as they are.
        whole: Whether no sample failed, so that it is the number of the whole test split.
        answered: Share of the samples whose answer could be read.
        among_answered: The value among these alone; never to be compared.
        bounds: The value had all failures of machines been wrong answers, and had all been right.
        not_ok: Samples without an answer, by why.
        spread: Standard deviation over three or more runs.
        runs: How many runs are behind it; None for several whose number a paper does not say.
        ceiling: What a perfect model scores in this box notation, if that is less than everything.
        zero_shot: Whether the model is known not to have seen the task's train split.
        leaked: Whether there is evidence that it has seen the test split.
        standing: Whether it leads.
    """

    value: float | None
    ci: tuple[float, float] | None = None
    n: int | None = None
    compared: float | None = None
    whole: bool = True
    answered: float | None = None
    among_answered: float | None = None
    bounds: tuple[float, float] | None = None
    not_ok: Mapping[str, int] = field(default_factory=dict)
    spread: float | None = None
    runs: int | None = 1
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
        remark: What must be said of who leads: why nobody, or on which samples that was decided; empty if on all.
        overlaps: Whether test and training data of the task overlap, as an audit of the data found.
    """

    task: str
    title: str
    metric: str
    cells: tuple[Cell | None, ...]
    remark: str = ""
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
    columns = [*runs, *_paper_columns(published)]
    kinds = [column.kind for column, _ in columns]
    rows = {} if board is None else {(row.task, row.metric): row for row in board.rows[protocol]}
    lines = [
        Line(
            task=task, title=title, metric=metric, overlaps=task in overlapping, remark=_remark(rows, task, metric),
            cells=_ranked([cell_of(task, metric) for _, cell_of in columns], kinds),
        )
        for task, title, metric in _rows(board, protocol, published, layout)
    ]  # fmt: skip
    return Table(
        protocol=protocol,
        columns=tuple(column for column, _ in columns),
        lines=tuple(line for line in lines if any(line.cells)),
    )


CellOf = Callable[[str, str], Cell | None]
Rows = Mapping[tuple[str, str], Row]


def _remark(rows: Rows, task: str, metric: str) -> str:
    row = rows.get((task, metric))
    return "" if row is None else row.remark


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
    rows = {(row.task, row.metric): row for row in board.rows[protocol]}
    if not grouped:
        return [
            (Column(name=name, kind="run", source=run.run), partial(_cell, board, rows, place))
            for place, (name, run) in enumerate(zip(board.names, board.runs, strict=True))
        ]
    columns: list[tuple[Column, CellOf]] = []
    alike = sorted(enumerate(board.runs), key=lambda one: one[1].model.title)
    for title, group in groupby(alike, key=lambda one: one[1].model.title):
        runs = list(group)
        source = " ".join(run.run for _, run in runs)
        column = Column(name=title, kind="runs" if len(runs) > 1 else "run", source=source)
        columns.append((column, partial(_mean_cell, board, rows, [place for place, _ in runs])))
    return columns


def _cell(board: Board, rows: Rows, place: int, task: str, metric: str) -> Cell | None:
    row, run = rows.get((task, metric)), board.runs[place]
    found = None if row is None else row.cells[place]
    if row is None or found is None:
        return None
    return Cell(
        value=found.value, ci=found.ci, n=found.n, compared=row.compared[place],
        whole=not found.errors and run.limit is None, answered=found.answered, among_answered=found.among_answered,
        bounds=found.bounds, not_ok=not_ok(found), ceiling=found.limiting_ceiling,
        zero_shot=run.model.is_zero_shot_on(task), leaked=board.is_leaked(run, task),
    )  # fmt: skip


def _mean_cell(board: Board, rows: Rows, places: Sequence[int], task: str, metric: str) -> Cell | None:
    cells = [cell for place in places if (cell := _cell(board, rows, place, task, metric)) is not None]
    if len(cells) < len(places):
        # A mean over some of the runs would not be the model's.
        return None
    if len(cells) == 1:
        return cells[0]
    values = [cell.value for cell in cells if cell.value is not None]
    counts = {cell.n for cell in cells}
    return Cell(
        value=mean(values) if len(values) == len(cells) else None,
        n=counts.pop() if len(counts) == 1 else None,
        compared=_mean([cell.compared for cell in cells]),
        whole=all(cell.whole for cell in cells),
        answered=_mean([cell.answered for cell in cells]),
        among_answered=_mean([cell.among_answered for cell in cells]),
        bounds=_mean_bounds(cells),
        not_ok={name: sum(cell.not_ok[name] for cell in cells) for name in cells[0].not_ok},
        spread=stdev(values) if len(values) >= _FEWEST_FOR_SPREAD else None,
        runs=len(cells),
        ceiling=cells[0].ceiling,
        zero_shot=all(cell.zero_shot for cell in cells),
        leaked=any(cell.leaked for cell in cells),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return mean(there) if there and len(there) == len(values) else None


def _mean_bounds(cells: Sequence[Cell]) -> tuple[float, float] | None:
    bounds = [cell.bounds or (cell.value, cell.value) for cell in cells]
    low, high = _mean([one for one, _ in bounds]), _mean([one for _, one in bounds])
    return None if low is None or high is None or all(cell.bounds is None for cell in cells) else (low, high)


def _paper_columns(published: Sequence[Publication]) -> list[tuple[Column, CellOf]]:
    names = [name for publication in published for name in publication.models]
    return [
        (
            Column(
                name=name if names.count(name) == 1 else f"{name}, {publication.table}", kind="reported",
                source=publication.source,
            ),
            partial(_reported_cell, reported),
        )
        for publication in published
        for name, reported in publication.models.items()
    ]  # fmt: skip


def _reported_cell(reported: Reported, task: str, metric: str) -> Cell | None:
    value = reported.scores.get(task, {}).get(metric)
    if value is None:
        return None
    spread = reported.spread.get(task, {}).get(metric)
    leaked = task in reported.leaked
    return Cell(
        value=value / 100, compared=None if leaked else value / 100, spread=None if spread is None else spread / 100,
        runs=reported.runs, zero_shot=task in reported.zero_shot, leaked=leaked,
    )  # fmt: skip


def _ranked(cells: Sequence[Cell | None], kinds: Sequence[Kind]) -> tuple[Cell | None, ...]:
    """Return cells with the first two marked; between a run and a paper, whose samples differ, nothing is decided."""
    there = {kind == "reported" for cell, kind in zip(cells, kinds, strict=True) if cell and cell.compared is not None}
    values = [None if cell is None or len(there) > 1 else cell.compared for cell in cells]
    marked = zip(cells, standings_of(values), strict=True)
    return tuple(cell and replace(cell, standing=standing) for cell, standing in marked)
