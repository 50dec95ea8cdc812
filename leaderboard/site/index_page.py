"""The first page of a site: filters, and the tables of every group of runs that may be compared."""

from collections.abc import Sequence

from medbench.leaderboard.board import Board
from medbench.leaderboard.cells import OVERLAP_TEXT
from medbench.leaderboard.counts import beside
from medbench.leaderboard.site.collect import Collection, task_title, tasks_of
from medbench.leaderboard.site.markup import Markup, element, join
from medbench.leaderboard.site.page import render_page
from medbench.leaderboard.site.tables import metric_title, overview, task_table
from medbench.tasks.protocols import PROTOCOLS, Protocol

SUITE_TEXTS = {
    "paper": "Suite paper: whole test splits of the paper's datasets",
    "custom": "Suite custom: other data, or parts of them",
    "mini": "Suite mini: bundled stand-ins and phantoms",
}
PROTOCOL_TEXTS: dict[Protocol, str] = {
    "paper": "Protocol paper: what the official scripts compute, quirks included.",
    "strict": "Protocol strict: what the paper's text and common sense say. Never compare it with protocol paper.",
}


def render_index(found: Collection, title: str) -> str:
    """Return the first page."""
    sections = [
        _section(board, protocol, _board_name(found.boards, place))
        for place, board in enumerate(found.boards)
        for protocol in PROTOCOLS
    ]
    return render_page(
        title,
        element("h1", title),
        element("p", _counted(found), class_="lead"),
        _controls(found),
        *sections,
        element("p", "No table shows what these filters ask for.", id="nothing", hidden=True),
        _skipped(found),
        _data(),
    )


def _counted(found: Collection) -> str:
    runs, boards = len(found.runs), len(found.boards)
    tables = "one table" if boards == 1 else f"{boards} tables, since they answered different suites or data"
    return f"{runs} {'run' if runs == 1 else 'runs'} in {tables}. Percentages with 95 % intervals."


def _board_name(boards: Sequence[Board], place: int) -> str:
    board = boards[place]
    same = [other for other in boards if other.suite == board.suite]
    text = SUITE_TEXTS[board.suite]
    return text if len(same) == 1 else f"{text}, data {same.index(board) + 1} of {len(same)}"


def _controls(found: Collection) -> Markup:
    suites = list(dict.fromkeys(board.suite for board in found.boards))
    tasks = [(task, task_title(found.boards, task)) for task in tasks_of(found.boards)]
    search = element("input", type="search", id="model", autocomplete="off", placeholder="part of a name")
    return element(
        "form",
        _select("suite", "Suite", [("", "all"), *((suite, suite) for suite in suites)]),
        _select("protocol", "Protocol", [*((protocol, protocol) for protocol in PROTOCOLS), ("", "both")]),
        _select("task", "Task", [("", "all"), *tasks]),
        element("label", "Model ", search, for_="model"),
        element("output", id="count", for_="suite protocol task model", aria_live="polite"),
        id="filters",
        hidden=True,
    )


def _select(name: str, label: str, options: Sequence[tuple[str, str]]) -> Markup:
    choices = [element("option", text, value=value) for value, text in options]
    return element("label", f"{label} ", element("select", *choices, id=name), for_=name)


def _section(board: Board, protocol: Protocol, name: str) -> Markup:
    tasks = list(dict.fromkeys(row.task for row in board.rows[protocol]))
    rows = {task: [row for row in board.rows[protocol] if row.task == task] for task in tasks}
    details = [
        element("div", task_table(board, rows[task], rows[task][0].title), class_="one-task", data_task=task)
        for task in tasks
    ]
    return element(
        "section",
        element("h2", f"{name}, protocol {protocol}"),
        *notices(board),
        element("p", PROTOCOL_TEXTS[protocol]),
        element("p", _legend(board)),
        overview(board, protocol, "All tasks, each by its primary metric"),
        _remarks(board, protocol),
        element("h3", "Every metric"),
        element("div", *details, class_="tasks"),
        class_="board",
        data_suite=board.suite,
        data_protocol=protocol,
    )


def notices(board: Board) -> list[Markup]:
    """Return what must be said beside the numbers of a board, and of which runs, if it is not said of all."""
    said: dict[str, list[str]] = {}
    for name, run in zip(board.names, board.runs, strict=True):
        for notice in run.notices:
            said.setdefault(notice, []).append(name)
    return [
        element("p", notice if len(names) == len(board.runs) else f"{', '.join(names)}: {notice}", class_="notice")
        for notice, names in said.items()
    ]


def _legend(board: Board) -> Markup:
    parts = ["The line under a number is its interval on a scale from 0 to 100."]
    if any(run.model.is_zero_shot_on(task) for run in board.runs for task in run.tasks):
        parts.append(" Shaded: zero-shot, the model is known not to have seen the task's train split.")
    cells = [cell for rows in board.rows.values() for row in rows for cell in row.cells if cell is not None]
    if any(beside(cell.answered, cell.bounds) for cell in cells):
        parts.append(
            " “Answered”: share of the answers that could be read; under strict the others are wrong. “Failures”: the "
            "number had all samples that a machine failed on been wrong, and had all been right."
        )
    if len(board.runs) > 1:
        parts += [
            " Best ",
            element("b", "bold"),
            ", second ",
            element("u", "underlined"),
            f", decided on the samples that the runs share; nobody leads at zero; {OVERLAP_TEXT}",
        ]
    return join(*parts)


def _remarks(board: Board, protocol: Protocol) -> Markup:
    told = [
        element("li", f"{row.title}, {metric_title(row.metric)}: {row.remark}.")
        for row in board.rows[protocol]
        if row.remark
    ]
    return element("ul", *told, class_="remarks") if told else join()


def _skipped(found: Collection) -> Markup:
    if not found.skipped:
        return join()
    items = [element("li", f"{run.name}: {run.reason}") for run in found.skipped]
    return element("section", element("h2", "Not shown"), element("ul", *items), class_="skipped")


def _data() -> Markup:
    link = element("a", "data/boards.json", href="./data/boards.json")
    return element("p", "The numbers of all tables: ", link, class_="data")
