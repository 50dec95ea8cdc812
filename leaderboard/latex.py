"""A table of numbers in LaTeX that is never wider than the text, nor higher than a page.

The first way that fits is taken: large letters before small ones, then intervals beneath their numbers, heads turned
upright, a decimal less, several blocks; what fits no way is scaled. Lengths are points of Computer Modern.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

from medbench.leaderboard.numbers import Number, Table
from medbench.leaderboard.render import (
    beside,
    column_names,
    interval_text,
    latex_text,
    legend,
    metric_title,
    render_text,
    value_text,
)  # fmt: skip
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import read_yaml_table

_PAPER = read_yaml_table(Path(__file__).with_suffix(".yaml"))
_SIZES = _PAPER["sizes"]
_LETTERS = {letter: width / 1000 for width, letters in _PAPER["letters"].items() for letter in letters}
_LABEL = re.compile(r"[\w:.-]+", re.ASCII)
TEXT_WIDTH = 345.0  # of LaTeX's own article at 10 points; pages of journals and conferences are wider
_TWO_COLUMNS, _BETWEEN_COLUMNS = 300, 20  # a text that is less wide is itself one of two columns
_BODY = 430  # what a caption leaves of the 550 points of that page
_BOLD = 1.16  # how much wider bold digits are
_THIN = 3  # between a number and what stands beside it
_BENEATH = 0.85  # of a line, for an interval
_SPACE = 4  # between tasks
_DIGITS = 2
_STAR = "{$^{*}$}"
_PACKAGES = {
    "": (r"\usepackage{booktabs}", r"\usepackage{siunitx} \sisetup{detect-weight=true, mode=text}"),
    "shaded": (r"\usepackage[table]{xcolor}",), "turned": (r"\usepackage{graphicx}",),
}  # fmt: skip
Keys = Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user wants of a LaTeX table."""

    caption: str = ""  # stands before what the marks mean
    label: str = "tab:medbench"
    digits: int | None = None  # decimals of percentages; None for two, or one where two do not fit
    models_as_rows: bool = False
    text_width: float = TEXT_WIDTH  # \the\textwidth, points

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.label):
            raise UsageError(f"--label {self.label!r} is no label.", "Letters, digits and : . - _ may stand in one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """How a table is laid out."""

    size: str
    digits: int
    upright: bool  # heads are turned by 90 degrees
    beneath: bool  # intervals stand under their numbers
    scaled: bool = False

    def points(self, text: str, *, small: bool = False) -> float:
        """Return how wide a text is, `small` as what stands beside a number."""
        size = _SIZES[_SIZES[self.size]["beside"] if small else self.size]
        return float(sum(_LETTERS.get(letter, 1.0) for letter in text) * size["points"] * size["wide"])

    @property
    def line(self) -> float:
        """The distance between lines."""
        return float(_SIZES[self.size]["line"])

    @property
    def gap(self) -> float:
        """The space on either side of a column."""
        return float(_SIZES[self.size]["gap"])


class _Grid:
    """The lines and columns of a table, whichever way it lies, and how it is written down."""

    def __init__(self, table: Table, *, models_as_rows: bool) -> None:
        lines = list(table.lines())
        metrics: Keys = [(f"{one.title}{' ‡' if one.overlaps else ''}", metric_title(one.metric)) for one, _ in lines]
        kinds: Keys = [(get_task(one.task).kind if one.task in TASKS else one.task, one.task) for one, _ in lines]
        models: Keys = [(name,) for name in column_names(table)]
        places: Keys = [(str(place),) for place in range(len(models))]
        self.cells: list[Sequence[Number | None]] = [cells for _, cells in lines]
        self.stubs, self.heads, self.row_keys, self.column_keys = metrics, models, kinds, places
        self.stub_heads: tuple[str, ...] = ("Task", "Metric")
        if models_as_rows:
            self.cells = list(zip(*self.cells, strict=True))
            self.stubs, self.heads, self.row_keys, self.column_keys = models, metrics, places, kinds
            self.stub_heads = ("Model",)
        self.numbers = [number for row in self.cells for number in row if number is not None]
        self.highest = max((number.value or 0.0 for number in self.numbers), default=0.0)
        self.starred = any(number.leaked for number in self.numbers)
        self.aside = any(_aside(number, _DIGITS) for number in self.numbers)

    def whole(self, digits: int) -> int:
        """Return how many digits stand before the decimal point at most."""
        return len(value_text(self.highest, digits).partition(".")[0])

    def grouped(self, columns: Sequence[int], fit: _Fit) -> bool:
        """Return whether a task's title stands once over several of its metrics."""
        titles = [self.heads[place][0] for place in columns if len(self.heads[place]) > 1]
        return not fit.upright and len(set(titles)) < len(titles)

    def head(self, place: int, fit: _Fit, *, grouped: bool) -> list[str]:
        """Return a column's head as lines that are no longer than its numbers, or than their words."""
        room, lines = self.content(place, fit), list[str]()
        for part in self.heads[place][1:] if grouped else self.heads[place]:
            lines.append("")
            for word in part.split():
                longer = f"{lines[-1]} {word}".lstrip()
                if lines[-1] and not fit.upright and fit.points(longer) > room:
                    lines.append(word)
                else:
                    lines[-1] = longer
        return lines

    def content(self, place: int, fit: _Fit) -> float:
        """Return the width of a column's numbers."""
        text = "0" * self.whole(fit.digits) + ("." if fit.digits else "") + "0" * fit.digits
        value = fit.points(text) * _BOLD + (fit.points("*", small=True) if self.starred else 0)
        asides = [_aside(row[place], fit.digits) for row in self.cells]
        widest = max((fit.points(text, small=True) for text in asides), default=0)
        return max(value, widest) if fit.beneath else value + (_THIN + widest if self.aside else 0)

    def width(self, columns: Sequence[int], fit: _Fit) -> float:
        """Return the width of a block."""
        grouped = self.grouped(columns, fit)
        stubs = [max(map(fit.points, texts)) for texts in zip(self.stub_heads, *self.stubs, strict=True)]
        own: dict[int, float] = {}
        for place in columns:
            lines = self.head(place, fit, grouped=grouped)
            own[place] = max(
                self.content(place, fit), len(lines) * fit.line if fit.upright else max(map(fit.points, lines))
            )
        more = 0.0
        for title, of in groupby(columns, key=lambda place: self.heads[place][0] if grouped else ""):
            there = [own[place] for place in of]
            more += max(0.0, fit.points(title) - sum(there) - 2 * fit.gap * (len(there) - 1))
        return sum(stubs) + sum(own.values()) + more + 2 * fit.gap * (len(stubs) + len(own) - 1)

    def height(self, rows: Sequence[int], columns: Sequence[int], fit: _Fit) -> float:
        """Return the height of a block with its head."""
        grouped = self.grouped(columns, fit)
        heads = [self.head(place, fit, grouped=grouped) for place in columns]
        upright = max((fit.points(line) for lines in heads for line in lines), default=0)
        head = upright if fit.upright else fit.line * (max(map(len, heads), default=1) + grouped)
        each = fit.line * (1 + (_BENEATH if fit.beneath and self.aside else 0))
        return head + fit.line + each * len(rows) + _SPACE * sum(self.is_new(rows, place) for place in range(len(rows)))

    def is_new(self, rows: Sequence[int], place: int) -> bool:
        """Return whether a space stands before a line: another task, or another kind if each line is a task."""
        if len(self.stub_heads) == 1 or not place:
            return False
        part = slice(1) if len(set(self.row_keys)) == len(self.row_keys) else slice(2)
        return self.row_keys[rows[place]][part] != self.row_keys[rows[place - 1]][part]

    def piece(self, rows: Sequence[int], columns: Sequence[int], fit: _Fit) -> dict[str, object]:
        """Return a block: columns for `tabular`, lines of the head, lines of numbers."""
        pair = self.aside and not fit.beneath
        form = f"table-format={self.whole(fit.digits)}{f'.{fit.digits}' if fit.digits else ''}"
        form += f",table-space-text-post={_STAR}" if self.starred else ""
        column = f"S[{form}]" + (r"@{\,}l" if pair else "")
        stubs = "l" * len(self.stub_heads)
        return {
            "columns": f"@{{}}{stubs} *{{{len(columns)}}}{{{column}}}@{{}}",
            "heads": list(self._head_lines(columns, fit, 1 + pair)), "lines": list(self._lines(rows, columns, fit)),
        }  # fmt: skip

    def _head_lines(self, columns: Sequence[int], fit: _Fit, span: int) -> Iterator[str]:
        grouped = self.grouped(columns, fit)
        if grouped:
            titles, rules, at = [""] * len(self.stub_heads), [], len(self.stub_heads) + 1
            for title, of in groupby(columns, key=lambda place: self.heads[place][0]):
                wide = span * len(list(of))
                titles.append(rf"\multicolumn{{{wide}}}{{c}}{{{latex_text(title)}}}")
                rules.append(rf"\cmidrule(lr){{{at}-{at + wide - 1}}}")
                at += wide
            yield from (" & ".join(titles) + r" \\", " ".join(rules))
        cells = [latex_text(text) for text in self.stub_heads]
        for place in columns:
            lines = list(map(latex_text, self.head(place, fit, grouped=grouped)))
            text = _stacked(lines, "l" if fit.upright else "c")
            text = rf"\rotatebox{{90}}{{{text}}}" if fit.upright else text
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{text}}}" if span > 1 else f"{{{text}}}")
        yield " & ".join(cells) + r" \\"

    def _lines(self, rows: Sequence[int], columns: Sequence[int], fit: _Fit) -> Iterator[str]:
        small = rf"\{_SIZES[fit.size]['beside']}"
        whole = self.whole(fit.digits)
        for place, row in enumerate(rows):
            if self.is_new(rows, place):
                yield r"\addlinespace"
            numbers = [self.cells[row][column] for column in columns]
            values = [_value(number, fit.digits, whole, starred=self.starred) for number in numbers]
            said = [latex_text(_aside(number, fit.digits)) for number in numbers]
            asides = [f"{{{small} {text}}}" if text else "" for text in said]
            repeated = place > 0 and self.stubs[rows[place - 1]][0] == self.stubs[row][0] and len(self.stub_heads) > 1
            stubs = [("" if repeated else latex_text(self.stubs[row][0])), *map(latex_text, self.stubs[row][1:])]
            if self.aside and not fit.beneath:
                values = [cell for pair in zip(values, asides, strict=True) for cell in pair]
            yield " & ".join([*stubs, *values]) + r" \\"
            if fit.beneath and any(asides):
                yield " & ".join([*([""] * len(stubs)), *asides]).lstrip() + r" \\"


def _stacked(lines: Sequence[str], side: str) -> str:
    return rf"\shortstack[{side}]{{" + r"\\".join(lines) + "}" if len(lines) > 1 else lines[0]


def _aside(number: Number | None, digits: int) -> str:
    """Return what stands beside a number: its deviation over runs, or its interval."""
    if number is None or number.value is None:
        return ""
    if number.std is not None:
        return f"±{100 * number.std:.{digits}f}"
    return interval_text(number.interval, digits)


def _value(number: Number | None, digits: int, whole: int, *, starred: bool) -> str:
    """Return a cell of a column of numbers; what such a column cannot read, such as a line under, takes their room."""
    if number is None or number.value is None:
        return "{--}" if number is None else "{n/a}"
    text = value_text(number.value, digits)
    shade = r"\cellcolor[gray]{0.9}" if number.zero_shot else ""
    if number.standing == "second":
        missing = whole - len(text.partition(".")[0])
        before, behind = rf"\phantom{{{'0' * missing}}}" if missing else "", rf"\phantom{_STAR}" if starred else ""
        return rf"{{{shade}{before}\underline{{{text}}}{behind}}}"
    bold = r"\bfseries " if number.standing == "best" else ""
    return f"{shade}{bold}{text}{_STAR if number.leaked else ''}"


def _cut(keys: Keys, parts: int) -> list[list[int]]:
    """Return places in parts of about one length, cut where the kind changes if that is often enough, then the task."""
    places = list(range(1, len(keys)))
    for depth in (1, 2):
        changes = [place for place in places if keys[place][:depth] != keys[place - 1][:depth]]
        if len(changes) >= parts - 1:
            places = changes
            break
    aims = (len(keys) * part / parts for part in range(1, parts))
    cuts = sorted({min(places, key=lambda place: abs(place - aim)) for aim in aims})
    return [list(range(start, end)) for start, end in zip([0, *cuts], [*cuts, len(keys)], strict=True)]


def _fitted(grid: _Grid, wishes: Wishes) -> tuple[_Fit, list[list[int]]]:
    """Return the first layout whose blocks of columns are no wider than the text."""
    decimals = (_DIGITS, _DIGITS - 1) if wishes.digits is None else (wishes.digits,)
    under = (False, True) if grid.aside else (False,)
    # The smallest letters come after all else, and before several blocks, which are better small than many.
    ways = [way for sizes in _PAPER["tried"] for way in product(decimals, (False, True), under, sizes)]
    fits = [_Fit(size=size, digits=digits, upright=up, beneath=under) for digits, up, under, size in ways]
    small = [fit for fit in fits if fit.line < _SIZES["small"]["line"]]
    for parts in range(1, len(grid.column_keys) + 1):
        blocks = _cut(grid.column_keys, parts)
        for fit in fits if parts == 1 else small:
            if all(grid.width(block, fit) <= wishes.text_width for block in blocks):
                return fit, blocks
    last = small[-1]
    whole = [list(range(len(grid.column_keys)))]
    return _Fit(size=last.size, digits=last.digits, upright=True, beneath=last.beneath, scaled=True), whole


def _floats(grid: _Grid, blocks: Sequence[list[int]], fit: _Fit) -> Iterator[list[dict[str, object]]]:
    """Yield the blocks that stand on one page, as many as there is room for."""
    for parts in range(1, len(grid.row_keys) + 1):
        rows = _cut(grid.row_keys, parts)
        if all(grid.height(one, block, fit) <= _BODY for one in rows for block in blocks):
            break
    page, used = list[dict[str, object]](), 0.0
    for one, block in product(rows, blocks):
        height = grid.height(one, block, fit)
        if page and used + height > _BODY:
            yield page
            page, used = [], 0.0
        page.append(grid.piece(one, block, fit))
        used += height
    yield page


def table_as_latex(table: Table, wishes: Wishes | None = None, notices: Sequence[str] = ()) -> str:
    """Return a table with its preamble, and what a reader must know and the cells have no room for, as comments.

    UsageError if it would be empty.
    """
    wishes = wishes or Wishes()
    grid = _Grid(table, models_as_rows=wishes.models_as_rows)
    if not grid.numbers:
        raise UsageError("There is no number to put into a table.", "Give runs that answered a task.")
    fit, blocks = _fitted(grid, wishes)
    width = max(grid.width(block, fit) for block in blocks)
    there = {"": True, "shaded": any(one.zero_shot for one in grid.numbers), "turned": fit.upright or fit.scaled}
    floats = list(_floats(grid, blocks, fit))
    return render_text(
        "table.tex", preamble=[line for why in there if there[why] for line in _PACKAGES[why]], label=wishes.label,
        layout=fit,
        told=_told(fit, width, len(blocks), len(floats), wishes.text_width), gap=f"{fit.gap:g}", floats=floats,
        remarks=[*notices, *_remarks(table)], caption=_caption(table, wishes, intervals=grid.aside),
        environment="table*" if width > _widest_of_one_column(wishes.text_width) else "table",
    )  # fmt: skip


def _widest_of_one_column(text_width: float) -> float:
    return text_width if text_width < _TWO_COLUMNS else (text_width - _BETWEEN_COLUMNS) / 2


def _told(fit: _Fit, width: float, blocks: int, floats: int, text_width: float) -> str:
    how = {
        rf"\{fit.size}": True, "intervals beneath": fit.beneath, "heads upright": fit.upright,
        f"{blocks} blocks of columns": blocks > 1, f"{floats} floats": floats > 1,
        "scaled, since nothing else fits (shorter names by --name help)": fit.scaled,
    }  # fmt: skip
    done = ", ".join(name for name, is_so in how.items() if is_so)
    return f"About {width:.0f} of {text_width:g} pt (\\the\\textwidth) wide: {done}."


def _caption(table: Table, wishes: Wishes, *, intervals: bool) -> str:
    first = wishes.caption.strip() or f"Protocol {table.protocol}."
    first += "" if first.endswith((".", "!", "?", ":")) else "."
    told = legend([table], _PAPER["marks"])
    return " ".join(filter(None, [first, "" if intervals else "Percentages.", told]))


def _remarks(table: Table) -> Iterator[str]:
    for first, numbers in table.lines():
        name = f"{first.title}, {metric_title(first.metric)}"
        if first.remark:
            yield f"{name}: {first.remark}."
        for number in numbers:
            if number is not None and (said := beside(number.answered, number.bounds)):
                yield f"{name}, {number.model}: {'; '.join(said)}."
