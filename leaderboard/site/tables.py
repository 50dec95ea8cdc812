"""The tables of a site: an overview of the primary metrics, and all metrics of one task."""

from collections.abc import Sequence

from medbench.harness.results import MetricResult
from medbench.leaderboard.board import Board, Row, definition_of
from medbench.leaderboard.counts import beside, not_ok
from medbench.leaderboard.markdown import METRIC_TITLES, ceiling_note
from medbench.leaderboard.primary import primary_metric
from medbench.leaderboard.site.markup import Markup, element, join
from medbench.leaderboard.standings import Standing
from medbench.tasks.protocols import Protocol

_LEAKED = "There is evidence that the model has seen the test split; this number leads nobody."
_WHY = {"errors": "failed"}
Columns = Sequence[tuple[str, Row]]


def metric_title(metric: str) -> str:
    """Return the name of a metric in tables."""
    return METRIC_TITLES.get(metric, metric)


def primary_rows(board: Board, protocol: Protocol) -> tuple[Row, ...]:
    """Return the row of each task's primary metric, in the order of the tasks."""
    found = []
    for task in dict.fromkeys(row.task for row in board.rows[protocol]):
        rows = {row.metric: row for row in board.rows[protocol] if row.task == task}
        kind = next(run.tasks[task].kind for run in board.runs if task in run.tasks)
        metric = primary_metric(kind, rows)
        if metric is not None:
            found.append(rows[metric])
    return tuple(found)


def overview(board: Board, protocol: Protocol, caption: str) -> Markup:
    """Return the table of all tasks by their primary metrics."""
    columns = [(f"{row.title}: {metric_title(row.metric)}", row) for row in primary_rows(board, protocol)]
    heads = [
        _sortable(
            element("span", row.title, class_="task"),
            element("span", metric_title(row.metric), class_="metric"),
            title,
            index,
            row,
        )
        for index, (title, row) in enumerate(columns)
    ]
    return _table(board, heads, columns, caption)


def task_table(board: Board, rows: Sequence[Row], caption: str) -> Markup:
    """Return the table of all metrics of one task."""
    columns = [(metric_title(row.metric), row) for row in rows]
    heads = [_sortable(element("span", title), "", title, index, row) for index, (title, row) in enumerate(columns)]
    return _table(board, heads, columns, caption)


def _sortable(first: str, second: str, title: str, index: int, row: Row) -> Markup:
    signature = next((definition_of(cell) for cell in row.cells if cell is not None), "")
    button = element(
        "button", first, second, type="button", data_sort=index, title=signature, aria_label=f"Sort by {title}"
    )
    return element("th", button, scope="col", data_task=row.task)


def _table(board: Board, heads: Sequence[Markup], columns: Columns, caption: str) -> Markup:
    body = [
        element(
            "tr",
            element("th", element("a", name, href=run_link(run.run)), scope="row"),
            *(
                _cell(
                    row.cells[place],
                    row.standings[place],
                    row.task,
                    zero_shot=run.model.is_zero_shot_on(row.task),
                    leaked=board.is_leaked(run, row.task),
                )
                for _, row in columns
            ),
            data_model=name.lower(),
            data_place=place,
        )
        for place, (name, run) in enumerate(zip(board.names, board.runs, strict=True))
    ]
    by_name = element("th", element("button", "Model", type="button", data_sort="name"), scope="col")
    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", by_name, *heads)),
        element("tbody", *body),
    )
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def run_link(run: str) -> str:
    """Return the address of a run's page from the index."""
    return f"./runs/{run}.html"


def _cell(cell: MetricResult | None, standing: Standing, task: str, *, zero_shot: bool, leaked: bool) -> Markup:
    if cell is None:
        return element("td", data_task=task)
    if cell.value is None:
        return element("td", element("small", "not scored"), _failed(cell), data_task=task)
    value = element({"best": "b", "second": "u", "none": "span"}[standing], f"{100 * cell.value:.2f}")
    return element(
        "td",
        value,
        element("abbr", "*", title=_LEAKED) if leaked else join(),
        interval(cell),
        whisker(cell),
        _failed(cell),
        class_="zero-shot" if zero_shot else False,
        data_task=task,
        data_value=f"{cell.value:.10f}",
    )


def interval(cell: MetricResult) -> Markup:
    """Return the interval of a number and its ceiling, if one limits it."""
    limits = "" if cell.ci is None else f"[{100 * cell.ci[0]:.1f}, {100 * cell.ci[1]:.1f}]"
    return join(*(element("small", text) for text in (limits, ceiling_note(cell).strip()) if text))


def whisker(cell: MetricResult) -> Markup:
    """Return the interval as a line from 0 to 100 with a mark at the value; the numbers beside it say the same."""
    if cell.ci is None or cell.value is None:
        return join()
    low, high = (100 * edge for edge in cell.ci)
    parts = [
        element("line", class_="axis", x1=0, x2=100, y1=4, y2=4),
        element("line", class_="ci", x1=f"{low:.2f}", x2=f"{high:.2f}", y1=4, y2=4),
        element("rect", class_="mark", x=f"{100 * cell.value - 1:.2f}", y=1, width=2, height=6),
    ]
    return element("svg", *parts, viewBox="-1 0 102 8", preserveAspectRatio="none", aria_hidden="true")


def _failed(cell: MetricResult) -> Markup:
    """Return what must be read with a number: the share answered, bounds, and how many have no answer, by why."""
    counts = ", ".join(f"{count} {_WHY.get(why, why)}" for why, count in not_ok(cell).items() if count)
    texts = [*beside(cell.answered, cell.bounds), *([counts] if counts else [])]
    return join(*(element("small", text, class_="failed") for text in texts))
