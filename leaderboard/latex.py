"""A table as LaTeX: `booktabs` rules, bold, underlined, shaded and starred as in the paper's Table 3."""

import re
from collections.abc import Iterator, Sequence

from medbench.leaderboard.cells import uncertainty_text, value_text
from medbench.leaderboard.counts import beside
from medbench.leaderboard.markdown import METRIC_TITLES
from medbench.leaderboard.table import Cell, Table

PACKAGES = r"% \usepackage{booktabs} \usepackage[table]{xcolor}"
_PLUS_MINUS = r"$\pm$"
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def render_latex(table: Table, caption: str, notices: Sequence[str] = ()) -> str:
    """Return a `table` environment; needs the packages booktabs and xcolor with its option `table`."""
    comments = [f"% {' '.join(notice.split())}" for notice in (*notices, *_told(table))]
    heads = ["Task", "Metric", *(f"{column.name}{_reported(column.kind)}" for column in table.columns)]
    lines = [
        PACKAGES,
        *comments,
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_text(caption)}}}",
        rf"  \begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        r"    \toprule",
        f"    {' & '.join(map(latex_text, heads))} \\\\",
        r"    \midrule",
        *_body(table),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _told(table: Table) -> Iterator[str]:
    """Yield what a reader of the numbers must know and the cells have no room for."""
    for line in table.lines:
        name = f"{line.title}, {METRIC_TITLES.get(line.metric, line.metric)}"
        if line.remark:
            yield f"{name}: {line.remark}."
        for column, cell in zip(table.columns, line.cells, strict=True):
            texts = [] if cell is None else beside(cell.answered, cell.bounds)
            if texts:
                yield f"{name}, {column.name}: {'; '.join(texts)}."


def _reported(kind: str) -> str:
    return " (reported)" if kind == "reported" else ""


def _body(table: Table) -> list[str]:
    rows = []
    for place, line in enumerate(table.lines):
        repeated = place > 0 and table.lines[place - 1].task == line.task
        rows += [r"    \addlinespace"] if place > 0 and not repeated else []
        overlap = r" $\ddagger$" if line.overlaps else ""
        title = "" if repeated else f"{latex_text(line.title)}{overlap}"
        metric = latex_text(METRIC_TITLES.get(line.metric, line.metric))
        rows.append(f"    {' & '.join([title, metric, *map(_cell, line.cells)])} \\\\")
    return rows


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    value = value_text(cell)
    marked = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}", "none": value}[cell.standing]
    star = "$^{*}$" if cell.leaked else ""
    shade = r"\cellcolor[gray]{0.9}" if cell.zero_shot else ""
    return f"{shade}{marked}{star}{uncertainty_text(cell, plus_minus=_PLUS_MINUS)}"


def latex_text(text: str) -> str:
    """Return text with everything that LaTeX would take for its own escaped."""
    flat = " ".join(text.split())
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _SPECIAL.get(found[0], f"\\{found[0]}"), flat)
