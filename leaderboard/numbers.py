"""All numbers of runs, and of papers beside them, in one long pandas table: a row for each metric of each task.

The rows stand in the order of the catalogue and of the tables from the start, so every form keeps it: markdown, LaTeX,
CSV, JSON, the report and the site are all made of these rows, and `Number` says what a row holds.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple, get_type_hints

import pandas as pd

from medbench.harness.results import Results, read_results
from medbench.leaderboard import runs as known
from medbench.leaderboard.compare import ScoresByRun, Standing, compared_values, rank_runs, standings_of
from medbench.leaderboard.paper import Layout, Publication
from medbench.leaderboard.samples import read_score_tables
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import JsonObject, canonical_json
from medbench.tasks.foundation.printable import printable
from medbench.tasks.protocols import PROTOCOLS, Protocol
from medbench.tasks.statistics.paired import geometric_gain, relative_gain

Origin = Literal["run", "runs", "reported"]
Order = Literal["given", "name", "rank", "mean"]
_BOUNDS = ("if_failed_wrong", "if_failed_right")
CSV_COLUMNS = (
    "protocol", "task", "metric", "model", "kind", "source", "value", "low", "high", "n", "std", "runs", "ceiling",
    "zero_shot", "leaked", "standing", "overlaps", "compared", "remark", "answered", "among_answered", *_BOUNDS,
    *known.NOT_OK,
)  # fmt: skip
# A spreadsheet would take what begins so for a formula.
_FORMULA = ("=", "+", "-", "@")
_AS_SCORED = ("value", "n", "answered", "among_answered", "signature", *known.NOT_OK)
_JSON_CELL = (
    "value", "n", "compared", "whole", "answered", "among_answered", "bounds", "not_ok", "runs", "ceiling",
    "zero_shot", "leaked", "standing",
)  # fmt: skip
_FEWEST_FOR_SPREAD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number with everything that may be shown of it; its fields are the columns of the table.

    Values are fractions. What a paper does not say, and what does not apply, is None.
    """

    protocol: Protocol
    task: str
    title: str  # of the task, in tables
    metric: str
    primary: bool = False  # whether the task is decided by this metric
    asked: bool = False  # whether the metric was asked for by name: it is never put together with others
    lower_is_better: bool = False
    column: int  # place of the model in a table: two of them may have one name
    model: str
    kind: Origin
    source: str  # identities of the runs, or the paper
    value: float | None
    low: float | None = None  # of the 95 % interval over test samples
    high: float | None = None
    n: int | None = None  # samples that were scored
    std: float | None = None  # over three or more runs
    runs: int | None = 1
    ceiling: float | None = None  # of a perfect model in this box notation, if that is less than everything
    measured_ceiling: float | None = None  # the same, whatever it is
    zero_shot: bool = False  # known not to have seen the task's train split
    leaked: bool = False  # there is evidence that it has seen the test split: such a number leads nobody
    standing: Standing = "none"
    overlaps: bool = False  # test and training data of the task overlap, as an audit of the data found
    compared: float | None = None  # on the samples that the runs share, by which it is decided who leads
    remark: str = ""  # why nobody leads, or on which samples that was decided, if not on all
    whole: bool = True  # no sample failed: it is the number of the whole test split
    answered: float | None = None  # share of the samples whose answer could be read
    among_answered: float | None = None  # the value among these alone, never to be compared
    if_failed_wrong: float | None = None  # the value had all failures of machines been wrong answers
    if_failed_right: float | None = None  # the value had they all been right
    errors: int | None = None  # samples that a machine failed on; the next four have no answer for other reasons
    unparsed: int | None = None
    refused: int | None = None
    truncated: int | None = None
    empty: int | None = None
    signature: str = ""  # the exact definition behind the number
    method: str | None = None  # of the interval
    clusters: int | None = None  # images, patients, volumes or documents behind it

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The value had all failures been wrong answers, and had all been right."""
        wrong, right = self.if_failed_wrong, self.if_failed_right
        return None if wrong is None or right is None else (wrong, right)

    @property
    def not_ok(self) -> dict[str, int]:
        """Samples without an answer, by why; empty where a paper does not say."""
        return {} if self.errors is None else known.picked(self, known.NOT_OK)


_HINTS = get_type_hints(Number)
_DTYPES = {float | None: "float64", int | None: "Int64", int: "int64", bool: "bool"}


def as_frame(numbers: Iterable[Number]) -> pd.DataFrame:
    """Return numbers as a table whose columns are the fields of `Number`; what is None is missing."""
    rows = list(map(attrgetter(*_HINTS), numbers))
    frame = pd.DataFrame(rows, columns=list(_HINTS), dtype=object)
    return frame.astype({name: _DTYPES[hint] for name, hint in _HINTS.items() if hint in _DTYPES})


_NO_NUMBERS = as_frame(())


def as_numbers(frame: pd.DataFrame) -> list[Number]:
    """Return the rows of such a table."""
    pairs = ((frame[name].tolist(), frame[name].notna().tolist()) for name in _HINTS)
    columns = ([value if there else None for value, there in zip(*pair, strict=True)] for pair in pairs)
    return [Number(**dict(zip(_HINTS, row, strict=True))) for row in zip(*columns, strict=True)]


class Column(NamedTuple):
    """One model of a table: a run, several runs of one model, or a paper's numbers."""

    name: str
    kind: Origin
    source: str


class Table(NamedTuple):
    """The numbers of one protocol, as they are shown."""

    protocol: Protocol
    columns: tuple[Column, ...]
    numbers: pd.DataFrame

    def lines(self) -> Iterator[tuple[Number, tuple[Number | None, ...]]]:
        """Yield each metric of each task: a number that stands for all, and the number of each column, if any."""
        for _, line in groupby(as_numbers(self.numbers), key=lambda number: (number.task, number.metric)):
            by_column = {number.column: number for number in line}
            first = next(iter(by_column.values()))
            yield first, tuple(by_column.get(place) for place in range(len(self.columns)))


class Shown(NamedTuple):
    """Which numbers of a table are shown."""

    primary: bool = False  # only the metric by which each task is decided
    intervals: bool = True
    tasks: str | None = None  # names, kinds or globs


class Board(NamedTuple):
    """Runs that may be compared, their names made distinct, and their numbers under both protocols."""

    runs: tuple[Results, ...]
    names: tuple[str, ...]
    numbers: pd.DataFrame
    leaks: known.Leaks


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the numbers of runs as one long table; `Number` describes its columns.

    Raises UsageError if they may not stand side by side; RunError if one is not finished, or lacks scores; DataError if
    its files are malformed.
    """
    frame = read_board(paths)[0].numbers
    order = {name: pd.Categorical(frame[name], list(frame[name].unique()), ordered=True) for name in ("task", "metric")}
    return frame.assign(**order)


def read_board(paths: Sequence[Path], names: Mapping[str, str] | None = None) -> tuple[Board, ScoresByRun]:
    """Read runs, with their scores by sample if there are several, and put them side by side; raises like `read`.

    `names` are what models are called instead, by what `known.renamed` takes for a run.
    """
    runs = known.renamed(paths, [read_results(path) for path in paths], names or {})
    several = zip(paths, runs, strict=True) if len(runs) > 1 else ()
    scores = {run.run: read_score_tables(path, run) for path, run in several}
    return make_board(runs, known.leaks_of(paths, runs), scores), scores


def make_board(runs: Sequence[Results], leaks: known.Leaks | None = None, scores: ScoresByRun | None = None) -> Board:
    """Put runs side by side; without scores by sample nobody leads where one failed. UsageError if they may not be."""
    if not runs:
        raise UsageError("No run was given.", "Give one or more folders that `medbench run` made.")
    if problem := known.mixture(runs):
        raise problem
    board = Board(runs=tuple(runs), names=known.distinct_names(runs), numbers=_NO_NUMBERS, leaks=leaks or {})
    return board._replace(numbers=_ranked(as_frame(_numbers(board, scores or {}))))


def numbers_of(run: Results) -> list[Number]:
    """Return the numbers of a run that stands alone."""
    return list(_numbers(Board(runs=(run,), names=(run.title,), numbers=_NO_NUMBERS, leaks={}), {}))


def _numbers(board: Board, scores: ScoresByRun) -> Iterator[Number]:
    for pair in product(PROTOCOLS, known.in_catalogue_order(name for run in board.runs for name in run.tasks)):
        yield from _task_numbers(board, *pair, scores)


def _task_numbers(board: Board, protocol: Protocol, task: str, scores: ScoresByRun) -> Iterator[Number]:
    found = [run.tasks[task].metrics(protocol) if task in run.tasks else {} for run in board.runs]
    first = next(run.tasks[task] for run in board.runs if task in run.tasks)
    leaked = [task in board.leaks.get(run.run, ()) for run in board.runs]
    tables = [scores.get(run.run, {}).get(task) for run in board.runs]
    primary = known.primary_metric(first.kind, set().union(*found))
    for metric in known.in_table_order(task, first.kind, protocol, set().union(*found)):
        cells = [metrics.get(metric) for metrics in found]
        fair = [None if out else cell for cell, out in zip(cells, leaked, strict=True)]
        compared, remark = compared_values(fair, tables, protocol, metric, board.names)
        traits = next((cell.traits for cell in cells if cell is not None), None)
        lower = traits is not None and not traits.higher_is_better
        remark = "; ".join(filter(None, ["lower is better" if lower else "", remark]))
        for place, (run, cell) in enumerate(zip(board.runs, cells, strict=True)):
            if cell is not None:
                (low, high), (wrong, right), how = cell.ci or (None, None), cell.bounds or (None, None), cell.interval
                yield Number(
                    protocol=protocol, task=task, title=first.title, metric=metric, primary=metric == primary,
                    asked=traits is not None, lower_is_better=lower, column=place, model=board.names[place],
                    kind="run", source=run.run, remark=remark,
                    compared=compared[place], whole=not cell.errors and run.limit is None, leaked=leaked[place],
                    zero_shot=run.model.is_zero_shot_on(task), low=low, high=high, ceiling=cell.limiting_ceiling,
                    measured_ceiling=cell.ceiling, if_failed_wrong=wrong, if_failed_right=right,
                    method=how.method if how else None, clusters=how.clusters if how else None,
                    **known.picked(cell, _AS_SCORED),
                )  # fmt: skip


def ordered(board: Board, scores: ScoresByRun, order: Order, protocol: Protocol) -> Board:
    """Return a board with its runs in an order: as given, by name, or the best first by rank or mean.

    Both are of primary metrics: the mean rank with kinds of tasks alike, as the ranks are shown, and the mean of the
    tasks on which all have a number. What has neither keeps its place behind the others.
    """
    keys: Sequence[Any] = range(len(board.runs))
    if order == "name":
        keys = [name.casefold() for name in board.names]
    elif order == "rank" and len(board.runs) > 1:
        ranks = rank_runs(board.runs, scores, board.names, protocol, board.leaks).overall
        keys = [one or (math.inf,) for one in ranks] or keys
    elif order == "mean":
        shown = board.numbers[board.numbers["primary"] & board.numbers["protocol"].eq(protocol)]
        wide = shown.pivot(index="task", columns="column", values="value").dropna()
        keys = [-wide[place].mean() if place in wide and len(wide) else math.inf for place in keys]
    places = sorted(range(len(board.runs)), key=lambda place: keys[place])
    moved = board.numbers.assign(column=board.numbers["column"].map({old: new for new, old in enumerate(places)}))
    return board._replace(
        runs=tuple(board.runs[place] for place in places), names=tuple(board.names[place] for place in places),
        numbers=moved.sort_values("column", kind="stable", ignore_index=True),
    )  # fmt: skip


def make_table(
    board: Board | None, protocol: Protocol, *, grouped: bool = False, published: Sequence[Publication] = (),
    layout: Layout | None = None, overlapping: Collection[str] = (), shown: Shown | None = None,
) -> Table:  # fmt: skip
    """Return the table of a board, of published numbers, or of both.

    If `grouped`, runs of one title become one column: their mean, and from three runs on the standard deviation.
    `layout` says which rows, all that the runs have, or the papers without runs, if there is none; `shown` which of
    them. Raises UsageError if published numbers follow another protocol or would stand beside another suite than the
    paper's, and if no row is left.
    """
    if other := next((one for one in published if one.protocol != protocol), None):
        raise UsageError(
            f"{other.source} follows the protocol {other.protocol!r}, not {protocol!r}.",
            "Protocols are never mixed in one table.",
        )
    if published and board is not None and board.runs[0].suite != "paper":
        raise UsageError(
            f"Published numbers never stand beside the suite {board.runs[0].suite!r}.",
            "They belong to the paper's datasets: run on those, or leave --reported out.",
        )
    columns, of_runs = tuple[Column, ...](), _NO_NUMBERS
    own = of_runs
    if board is not None:
        own = of_runs = board.numbers[board.numbers["protocol"] == protocol]
        columns = tuple(Column(name, "run", run.run) for name, run in zip(board.names, board.runs, strict=True))
        if grouped:
            columns, own = _means(board, of_runs)
    more, of_papers = _of_papers(published, len(columns))
    numbers = pd.concat([own, as_frame(of_papers)], ignore_index=True)
    there = _pairs(numbers if board is None else of_runs)
    order = known.in_catalogue_order(task for task, _ in there)
    lines = layout.rows if layout else sorted(there, key=lambda line: order.index(line[0]))
    place = {line: number for number, line in enumerate(dict.fromkeys(lines))}
    numbers["line"] = [place.get(pair, -1) for pair in _pairs(numbers)]
    numbers = numbers[numbers["line"] >= 0].sort_values(["line", "column"], kind="stable", ignore_index=True)
    titles = dict(zip(of_runs["task"], of_runs["title"], strict=True))
    remarks = dict(zip(_pairs(of_runs), of_runs["remark"], strict=True))
    numbers["title"] = [titles.get(task) or get_task(task).title for task in numbers["task"]]
    numbers["remark"] = [remarks.get(pair, "") for pair in _pairs(numbers)]
    numbers["overlaps"] = numbers["task"].isin(list(overlapping))
    numbers = numbers if shown is None else _chosen(numbers, shown)
    return Table(protocol=protocol, columns=(*columns, *more), numbers=_ranked(numbers.drop(columns="line")))


def _chosen(numbers: pd.DataFrame, shown: Shown) -> pd.DataFrame:
    tasks = known.chosen_tasks(dict.fromkeys(numbers["task"]), shown.tasks)
    numbers = numbers[numbers["task"].isin(tasks) & (numbers["primary"] | (not shown.primary))]
    if tasks and not len(numbers):
        raise UsageError("No number is left to be shown.", "Leave --primary, --tasks or --layout out.")
    nothing = {} if shown.intervals else dict.fromkeys(("low", "high"), math.nan)
    return numbers.assign(**nothing).reset_index(drop=True)


def _pairs(numbers: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(numbers["task"], numbers["metric"], strict=True))


def _ranked(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return numbers with the first two of each line marked; between a run and a paper nothing is decided."""
    values = numbers["compared"].astype(object).where(numbers["compared"].notna(), None).tolist()
    reported = numbers["kind"].eq("reported").tolist()
    found: list[Standing] = ["none"] * len(numbers)
    lines: dict[tuple[object, ...], list[int]] = {}
    for place, line in enumerate(zip(numbers["protocol"], numbers["task"], numbers["metric"], strict=True)):
        lines.setdefault(line, []).append(place)
    for places in lines.values():
        if len({reported[place] for place in places if values[place] is not None}) == 1:
            lower = bool(numbers["lower_is_better"].iloc[places].any())
            standings = standings_of([values[place] for place in places], lower_is_better=lower)
            for place, standing in zip(places, standings, strict=True):
                found[place] = standing
    return numbers.assign(standing=found)


def _means(board: Board, numbers: pd.DataFrame) -> tuple[tuple[Column, ...], pd.DataFrame]:
    """Return a column for each model, and means over its runs, where all of them have a number."""
    places: dict[str, list[int]] = {}
    for place, run in enumerate(board.runs):
        places.setdefault(run.title, []).append(place)
    columns, found = [], []
    for place, (title, own) in enumerate(places.items()):
        column = Column(title, "runs" if len(own) > 1 else "run", " ".join(board.runs[one].run for one in own))
        columns.append(column)
        named = {"column": place, "model": title, "kind": column.kind, "source": column.source}
        for _, line in numbers[numbers["column"].isin(own)].groupby(["task", "metric"], sort=False):
            if len(line) == len(own):
                found.append(line.iloc[0].to_dict() | (_mean(line) if len(own) > 1 else {}) | named)
    frame = pd.DataFrame(found, columns=numbers.columns, dtype=object)
    return tuple(columns), frame.astype(numbers.dtypes.to_dict())


def _mean(line: pd.DataFrame) -> dict[str, object]:
    """Return what differs from the first run's number in the mean of several."""
    values, counts = line["value"].dropna(), set(line["n"].dropna())
    if line["if_failed_wrong"].notna().any():
        line = line.assign(**{name: line[name].fillna(line["value"]) for name in _BOUNDS})
    means = ("value", "compared", "answered", "among_answered", *_BOUNDS)
    return {
        **{name: None if line[name].isna().any() else mean(line[name].tolist()) for name in means},
        **{why: line[why].sum() for why in known.NOT_OK}, **dict.fromkeys(("low", "high", "method", "clusters")),
        "n": counts.pop() if len(counts) == 1 else None, "whole": line["whole"].all(), "runs": len(line),
        "std": stdev(values) if len(values) >= _FEWEST_FOR_SPREAD else None,
        "zero_shot": line["zero_shot"].all(), "leaked": line["leaked"].any(),
    }  # fmt: skip


def _of_papers(published: Sequence[Publication], start: int) -> tuple[list[Column], list[Number]]:
    names = [name for publication in published for name in publication.models]
    columns, numbers = list[Column](), list[Number]()
    for publication, name, model in ((one, *item) for one in published for item in one.models.items()):
        title = name if names.count(name) == 1 else f"{name}, {publication.table}"
        for task, metric, score in ((task, *item) for task, scores in model.scores.items() for item in scores.items()):
            leaked, std = task in model.leaked, model.spread.get(task, {}).get(metric)
            numbers.append(
                Number(
                    protocol=publication.protocol, task=task, title="", metric=metric, column=start + len(columns),
                    primary=metric == known.PRIMARY[get_task(task).kind],
                    model=title, kind="reported", source=publication.source, value=score / 100, runs=model.runs,
                    compared=None if leaked else score / 100, std=None if std is None else std / 100, leaked=leaked,
                    zero_shot=task in model.zero_shot,
                )
            )  # fmt: skip
        columns.append(Column(title, "reported", publication.source))
    return columns, numbers


def gains_over(table: Table, baseline: str, kind: str | None = None) -> pd.DataFrame:
    """Return what each column gains over a baseline, a UsageError if there is none of that name.

    Like is compared with like: runs on the samples that they share, a paper's numbers with each other as they are. A
    run stands beside a paper's number only where none of its samples failed, so that both are of the whole test split.
    Numbers with evidence of a leak count on neither side, and only datasets that both have.

    Metrics that were asked for are not among them.

    A row has `model`, `datasets` (how many count), `relative` (the mean of (ours - baseline) / baseline), `geometric`
    (exp(mean of log ratios) - 1), `points` (the mean difference, a fraction), NaN where they share no number, and
    `left_out` (datasets that both have a number of, but not of the same samples).
    """
    names = [column.name for column in table.columns]
    if baseline not in names:
        raise UsageError(f"No model of the table is called {baseline!r}.", f"There are {', '.join(names)}.")
    base = names.index(baseline)
    usable = table.numbers[~table.numbers["leaked"] & ~table.numbers["asked"] & table.numbers["value"].notna()]
    if kind is not None:
        usable = usable[usable["task"].map(lambda task: get_task(task).kind).eq(kind)]
    rows = []
    for place, name in enumerate(names):
        mixed = len({table.columns[one].kind == "reported" for one in (place, base)}) > 1
        value = usable["value"].where(usable["whole"]) if mixed else usable["compared"]
        ours, theirs = (
            usable.assign(value=value)[usable["column"] == one].set_index(["task", "metric"]) for one in (place, base)
        )
        both = ours[["title", "value"]].join(theirs["value"].rename("baseline"), how="inner")
        pairs = both.dropna()
        values = pairs["value"].to_numpy(), pairs["baseline"].to_numpy()
        rows.append({
            "model": name, "datasets": len(pairs), "relative": float(relative_gain(*values)),
            "geometric": float(geometric_gain(*values)), "points": (pairs["value"] - pairs["baseline"]).mean(),
            "left_out": tuple(both.loc[both.index.difference(pairs.index, sort=False), "title"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def as_csv(tables: Sequence[Table]) -> str:
    """Return all numbers as fractions, one a line; no name can be taken for a formula by a spreadsheet."""
    frame = pd.concat([table.numbers for table in tables], ignore_index=True)
    return frame_as_csv(frame[list(CSV_COLUMNS)])


def frame_as_csv(frame: pd.DataFrame) -> str:
    """Return a table as text; no cell can be taken for a formula by a spreadsheet."""
    texts = frame.select_dtypes(exclude="number").columns
    safe = {
        column: frame[column].map(lambda cell: _cell_text(cell) if isinstance(cell, str) else cell) for column in texts
    }
    return frame.assign(**safe).to_csv(index=False, lineterminator="\n")


def _cell_text(text: str) -> str:
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def as_json(
    tables: Sequence[Table], notices: Sequence[str], probing: Mapping[str, Sequence[JsonObject]] | None = None
) -> str:
    """Return the tables as JSON: columns, lines, cells; numbers are fractions.

    `probing` are failure modes by the identity of the run, if any run was probed.
    """
    shown = [
        {
            "protocol": table.protocol, "columns": [column._asdict() for column in table.columns],
            "lines": lines_of(
                table, ("task", "title", "metric", "remark", "overlaps"),
                lambda one: known.picked(one, _JSON_CELL) | {"ci": one.interval, "spread": one.std},
            ),
        }
        for table in tables
    ]  # fmt: skip
    more = {"probing": probing} if probing else {}
    return canonical_json({"schema": 1, "notices": list(notices), "tables": shown, **more}, indent=2) + "\n"


def lines_of(table: Table, said: Sequence[str], cell: Callable[[Number], Mapping[str, object]]) -> list[JsonObject]:
    """Return the lines of a table for JSON: what is said of each, and its `cells`, null where there is no number."""
    return [
        {**known.picked(first, said), "cells": [None if number is None else cell(number) for number in numbers]}
        for first, numbers in table.lines()
    ]
