"""Figures for a paper: intervals, radar, heat map, the routing of Uni-Med's connector, and what was answered.

A run has one colour and one mark in all of them, those of `report.html`; marks, lines and hatches tell them apart in
print, too. What they show are the numbers of the table.
"""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medbench.leaderboard import runs as known
from medbench.leaderboard.numbers import Board, Number, Order, Shown, Table, make_table, ordered, read_board
from medbench.leaderboard.render import asset, metric_title, value_text
from medbench.leaderboard.report.sources import routing_of
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.drawing import drawn, label, shades, stack
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import STATES, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Width = Literal["column", "page"]
_INCHES: Mapping[Width, float] = {"column": 3.35, "page": 6.9}
_PANELS: Mapping[Width, int] = {"column": 2, "page": 4}
_COLOURS = dict(re.findall(r"--([\w-]+): (#\w{6})", asset("report/report.css").partition("}")[0]))
_MARKS, _LINES = "os^D", ("-", "--", "-.", ":")  # circle, square, triangle, diamond
_LETTERS = 22  # on an inch
_STAR = "* evidence that a model has seen the test split"
_HIGHEST, _RADAR = 8.8, 4.8  # inches: a page below its margins, and what a radar needs of it
_FEWEST_SPOKES = 3
_LONGEST = 28  # letters of a name on a line
_DARK = 60  # percent, from which a cell's number is white
_MANY_COLUMNS, _FEW_COLUMNS = 9, 3
_ROUTING_HINT = (
    "A run of Uni-Med records it while it answers, unless all its answers come from a cache: make one with "
    "medbench run --model uni-med --checkpoint DIR."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What a figure is drawn of."""

    board: Board
    paths: Mapping[str, Path]  # of runs, by identity
    table: Table  # of the primary metrics
    width: Width

    @property
    def names(self) -> list[str]:
        """The runs' names, long ones on several lines."""
        return [textwrap.fill(label(name), _LONGEST) for name in self.board.names]

    @property
    def lines(self) -> list[tuple[str, tuple[Number | None, ...]]]:
        """The title of each task with its metric, and the number of each run."""
        return [(f"{label(one.title)}\n{metric_title(one.metric)}", cells) for one, cells in self.table.lines()]


def draw(
    kind: str, paths: Sequence[Path], image: Path, *, protocol: Protocol = "paper", tasks: str | None = None,
    names: Mapping[str, str] | None = None, order: Order = "given", width: Width = "page",
) -> None:  # fmt: skip
    """Draw runs into a file whose name ends in .svg, .pdf or .png; `kind` is one of `KINDS`.

    Raises UsageError if runs and wishes do not fit together, or matplotlib is not installed; RunError if a folder is
    no finished run, or the file cannot be written; DataError if a run's files are malformed.
    """
    board, scores = read_board(paths, names)
    folders = {run.run: path for run, path in zip(board.runs, paths, strict=True)}
    board = ordered(board, scores, order, protocol)
    table = make_table(board, protocol, shown=Shown(primary=True, tasks=tasks))
    for notice in known.notices_of(board.runs, board.names):
        warn(notice)
    with drawn(image) as figure:
        KINDS[kind](figure, Drawing(board=board, paths=folders, table=table, width=width))


def _look(run: int) -> dict[str, Any]:
    return {"color": _COLOURS[f"run-{run % 6}"], "marker": _MARKS[run % 4], "markersize": 4}


def _percent(number: Number | None) -> float:
    return math.nan if number is None or number.value is None else 100 * number.value


def _panels(figure: "Figure", one: Drawing, count: int, height: float, head: float) -> "list[Axes]":
    """Return so many panels side by side and below each other, each up to `height` inches high, below `head`."""
    down = math.ceil(count / _PANELS[one.width])
    across = math.ceil(count / down)
    figure.set_size_inches(_INCHES[one.width], min(_HIGHEST, down * height + head))
    panels = list(figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat)
    for empty in panels[count:]:
        empty.set_axis_off()
    for panel in panels[max(0, count - across) : count]:
        panel.tick_params(labelbottom=True)
    return panels[:count]


def _legend(figure: "Figure", handles: Sequence[Any], one: Drawing) -> float:
    """Draw a legend on top in as many columns as its names leave room for; return its height in inches."""
    labels = [handle.get_label().split("\n") for handle in handles]
    longest = max(len(line) for lines in labels for line in lines)
    columns = max(1, min(len(handles), int(_INCHES[one.width] / (0.3 + 0.05 * longest))))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1, handletextpad=0.4)
    return 0.15 * math.ceil(len(handles) / columns) * max(map(len, labels)) + 0.1


def _run_handles(one: Drawing, **more: Any) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=name, **_look(run), **more) for run, name in enumerate(one.names)]


def _forest(figure: "Figure", one: Drawing) -> None:
    """A panel for each task: the primary metric of each run with its 95 % interval."""
    height = 0.13 * len(one.names) + 0.38
    head = _legend(figure, _run_handles(one, linewidth=0.9), one) + 0.35
    for panel, (title, cells) in zip(_panels(figure, one, len(one.lines), height, head), one.lines, strict=True):
        for run, number in enumerate(cells):
            if number is not None and number.value is not None:
                low, high = number.interval or (number.value, number.value)
                reach = [[100 * max(0.0, number.value - low)], [100 * max(0.0, high - number.value)]]
                panel.errorbar(_percent(number), run, xerr=reach, capsize=1.8, linewidth=0.9, **_look(run))
                if number.leaked:
                    panel.annotate("*", (_percent(number), run), (4, 0), textcoords="offset points")
        panel.set_title(title.replace("\n", ", "), loc="left", pad=2)
        panel.set(xlim=(-3, 103), ylim=(len(one.names) - 0.4, -0.6), yticks=[], xticks=[0, 25, 50, 75, 100])
        panel.grid(axis="x", linewidth=0.4, alpha=0.5)
    _note(figure, one, "Percentages with 95 % intervals, protocol")


def _note(figure: "Figure", one: Drawing, told: str) -> None:
    leaked = any(number and number.leaked for _, cells in one.lines for number in cells)
    text = f"{told} {one.table.protocol}{f'; {_STAR}' if leaked else ''}"
    figure.supxlabel(textwrap.fill(text, int(_LETTERS * _INCHES[one.width])), fontsize=6)


def _radar(figure: "Figure", one: Drawing) -> None:
    """A spoke for each task, a line for each run."""
    if len(one.lines) < _FEWEST_SPOKES:
        raise UsageError(f"A radar of {len(one.lines)} tasks has no area.", "Draw three or more, or a forest.")
    handles = _run_handles(one, linewidth=1)
    for run, handle in enumerate(handles):
        handle.set_linestyle(_LINES[run % 4])
    figure.set_size_inches(_INCHES[one.width], min(_INCHES[one.width], _RADAR) + _legend(figure, handles, one))
    axes: Any = figure.subplots(subplot_kw={"projection": "polar"})
    angles = [2 * math.pi * place / len(one.lines) for place in range(len(one.lines))]
    for run in range(len(one.names)):
        values = [_percent(cells[run]) for _, cells in one.lines]
        look = {**_look(run), "markersize": 3, "linewidth": 1, "linestyle": _LINES[run % 4]}
        axes.plot([*angles, angles[0]], [*values, values[0]], **look)
    stars = ["*" if any(number and number.leaked for number in cells) else "" for _, cells in one.lines]
    axes.set_xticks(angles, [f"{title}{star}" for (title, _), star in zip(one.lines, stars, strict=True)])
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_rlabel_position(15)
    axes.set(ylim=(0, 100), yticks=[25, 50, 75, 100])
    axes.grid(linewidth=0.4)
    axes.tick_params(axis="x", pad=8)
    _note(figure, one, "Percentages, protocol")


def _heatmap(figure: "Figure", one: Drawing) -> None:
    """Models by tasks, the number in the cell, the best in bold; in one column of text tasks are the rows."""
    cells, rows, columns = [list(line) for _, line in one.lines], [title for title, _ in one.lines], one.names
    if one.width == "page":
        cells, rows, columns = [list(line) for line in zip(*cells, strict=True)], columns, rows
    else:
        rows = [row.replace("\n", ", ") for row in rows]
    figure.set_size_inches(
        _INCHES[one.width],
        0.22 * len(rows) + 0.06 * max(len(line) for name in columns for line in name.split("\n")) + 0.5,
    )
    axes = figure.subplots()
    axes.imshow([list(map(_percent, line)) for line in cells], cmap="Blues", vmin=0, vmax=100, aspect="auto")
    look: Any = {"ha": "center", "va": "center", "fontsize": 6 if len(columns) < _MANY_COLUMNS else 5}
    for row, column in product(range(len(rows)), range(len(columns))):
        if number := cells[row][column]:
            text = f"{value_text(number.value, 1)}{'*' if number.leaked else ''}"
            weight = "bold" if number.standing == "best" else "normal"
            colour = "white" if _percent(number) > _DARK else "black"
            axes.text(column, row, text, color=colour, weight=weight, **look)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=90 if len(columns) > _FEW_COLUMNS else 0)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    _note(figure, one, "Percentages, best in bold, protocol")


def _stacks(
    figure: "Figure", one: Drawing, bars: Mapping[str, tuple[Sequence[str], Mapping[Any, Sequence[float]]]],
    colours: Sequence[Any], told: str,
) -> None:  # fmt: skip
    """A panel for each run: rows of parts that add up to 100 percent."""
    panels = _panels(figure, one, len(bars), 0.14 * len(next(iter(bars.values()))[0]) + 0.4, 0)
    for panel, (name, (own, parts)) in zip(panels, bars.items(), strict=True):
        stack(panel, own, parts, colours)
        panel.set_title(name, loc="left", pad=2)
        panel.set(xlim=(0, 100), xticks=[0, 50, 100])
    handles = panel.get_legend_handles_labels()[0]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _legend(figure, handles, one) + 0.2)
    figure.supxlabel(told, fontsize=6)


def _coverage(figure: "Figure", one: Drawing) -> None:
    """What became of the samples of each task, by run."""
    tasks = list(dict.fromkeys(first.task for first, _ in one.table.lines()))
    titles = {task: run.tasks[task].title for run in one.board.runs for task in tasks if task in run.tasks}
    there = [
        state
        for state in STATES
        if any(run.tasks[task].states.get(state) for run in one.board.runs for task in run.tasks)
    ]
    bars = {}
    for name, run in zip(one.names, one.board.runs, strict=True):
        found = [run.tasks.get(task) for task in tasks]
        shares = {
            state: [100 * task.states.get(state, 0) / max(1, task.samples) if task else 0.0 for task in found]
            for state in there
        }
        bars[name] = [label(titles[task]) for task in tasks], shares
    _stacks(figure, one, bars, [_COLOURS[state] for state in there], "Share of the samples, %")


def _routing(figure: "Figure", one: Drawing) -> None:
    """How Uni-Med's connector weighed its experts, by kind of task: means over images and visual tokens."""
    recorded = {}
    for name, run in zip(one.names, one.board.runs, strict=True):
        if found := routing_of(one.paths[run.run]):
            recorded[name] = found
        else:
            warn(f"Not drawn: {name}: the run recorded no routing.")
    if not recorded:
        raise UsageError("None of the runs recorded how a connector routes.", _ROUTING_HINT)
    kinds = list(dict.fromkeys(kind for found in recorded.values() for kind in found))
    most = max(len(weights) for found in recorded.values() for weights in found.values())
    bars = {}
    for name, found in recorded.items():
        weights = [[*found.get(kind, []), *[0.0] * most][:most] for kind in kinds]
        bars[name] = kinds, {f"expert {place + 1}": [100 * row[place] for row in weights] for place in range(most)}
    _stacks(figure, one, bars, shades(most), "Mean weight of an expert, %")


KINDS: Mapping[str, Callable[["Figure", Drawing], None]] = {
    "forest": _forest, "radar": _radar, "heatmap": _heatmap, "routing": _routing, "coverage": _coverage,
}  # fmt: skip
